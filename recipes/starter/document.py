"""Puts what was measured into docs/results/starter.md, between its markers; the text around them is written by hand.

tmcr judge --data oasis@DATA/oasis --captions runs/starter/captions/test/captions.csv --out runs/judged
python recipes/starter/document.py --judged runs/judged --out runs/starter
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def filled(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of that name.

    Raises:
        SystemExit: the page has no such markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"the page has no {begin} … {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judged", type=Path, required=True, help="what tmcr judge wrote")
    parser.add_argument("--out", type=Path, required=True, help="where measure.py wrote measure.md")
    options = parser.parse_args()
    page = RESULTS / "starter.md"
    text = page.read_text(encoding="utf-8")
    for path in (options.judged / "judge.md", options.out / "measure.md"):
        text = filled(text, path.stem, path.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    shutil.copy(options.judged / "judge.json", RESULTS / "starter.json")


if __name__ == "__main__":
    main()
