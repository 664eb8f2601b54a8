"""Count the shipped tags in comments anew, and check the tables.

    python recipes/tags/frequencies.py --comments A.jsonl B.jsonl [--check]

The **frequency** of a tag is the number of comments, in all files together, in which the lemmas of its words
(`tmcr.tags.words`) stand one after the other: "harsh shadow" and "harsher shadows" both count for "harsh shadows",
"harsh, shadows" does not. A comment counts once however often it holds the tag. Comments in other languages
and empty ones are left out (`tmcr.tags.comments`). Only the frequency column is written; tags, their order,
and with them the libraries' hash, stay. Before that the libraries must keep all rules (`tmcr.tags.check`).
With --check nothing is written, and a table that is not what the comments give ends with exit code 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tmcr.tags.check import broken_rules, count_tags, with_frequencies
from tmcr.tags.comments import read_comments
from tmcr.tags.library import DATA_FOLDER, TagLibraries, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comments", type=Path, nargs="+", required=True)
    parser.add_argument("--tags", type=Path, default=DATA_FOLDER, help="folder of the libraries (the shipped ones)")
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()

    libraries = TagLibraries.load(options.tags)
    problems = [f"{p.library}: {p.tag!r} {p.what}" for p in broken_rules(libraries)]
    problems += rows_without_tag(libraries, options.tags)
    if problems:
        raise SystemExit("\n".join(problems))

    found = count_tags(libraries, read_comments(options.comments))
    stale = [tag for tag, known in zip(libraries.names, libraries.frequencies, strict=True) if found[tag] != known]
    never = sum(not found[tag] for tag in libraries.names)
    print(f"{len(libraries.names):,} tags, {never:,} never occur, {len(stale):,} frequencies differ from the tables")
    if options.check:
        raise SystemExit(1 if stale else 0)
    with_frequencies(libraries, found).save(options.tags)


def rows_without_tag(libraries: TagLibraries, folder: Path) -> list[str]:
    """Where a table and its list of tags part: other tags, or the same in another order."""
    return [
        f"{library.name}.tsv and {library.name}.txt do not hold the same tags in the same order"
        for library in (libraries.semantic, libraries.attribute)
        if tuple(read_table(folder / f"{library.name}.tsv")) != library.tags
    ]


if __name__ == "__main__":
    main()
