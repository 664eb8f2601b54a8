"""Step 7. The reviewed candidates as a pair of tag libraries, named by their content hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tmcr.disk import write_whole
from tmcr.errors import TagError
from tmcr.tags.building.review import Reviewed
from tmcr.tags.check import variant_key
from tmcr.tags.library import LibraryName, TagLibraries, TagLibrary, TagRow


def freeze(rows: Sequence[Reviewed], *, sure: float = 0.0) -> TagLibraries:
    """The libraries that a review asks for.

    Args:
        rows: the review table.
        sure: candidates that nobody decided on go where the classifier says, from this confidence on.

    Raises:
        TagError: a library would be empty, or two kept rows come to the same tag.
    """
    chosen: dict[LibraryName, list[TagRow]] = {"semantic": [], "attribute": []}
    source_of: dict[str, str] = {}
    renamed = {row.tag: row.final_tag for row in rows}
    for row in rows:
        label = row.final_label
        if row.decision == "drop" or label.library == "neither":
            continue
        if not row.decision and label.confidence < sure:
            continue
        tag = row.final_tag
        key = variant_key(tag)
        if key in source_of:
            if not row.decision:  # somebody renamed another candidate to this one: theirs stands
                continue
            raise TagError(f"the review keeps {row.tag!r} and {source_of[key]!r}, both as {tag!r}; drop one of them")
        source_of[key] = row.tag
        opposite = renamed.get(row.opposite, row.opposite)
        chosen[label.library].append(TagRow(tag, label.facet, label.polarity, opposite, row.count))
    return TagLibraries(_library("semantic", chosen["semantic"]), _library("attribute", chosen["attribute"]))


def _library(name: LibraryName, rows: list[TagRow]) -> TagLibrary:
    if not rows:
        raise TagError(f"no {name} tag is left; give more comments, a lower --least, or keep some in the review")
    rows = sorted(rows, key=lambda row: (row.facet, -row.frequency, row.tag))
    opposite_of = {row.tag: row.opposite for row in rows}
    return TagLibrary(
        name,
        tuple(row.tag for row in rows),
        tuple(row.facet for row in rows),
        tuple(row.polarity for row in rows),
        # An opposite that was dropped or moved is none any more.
        tuple(row.opposite if opposite_of.get(row.opposite) == row.tag else "" for row in rows),
        tuple(row.frequency for row in rows),
    )


def save_frozen(libraries: TagLibraries, folder: Path, *, review_hash: str) -> None:
    """Write both libraries and `library.json`, which comes last and says that the others are whole."""
    stamp = folder / "library.json"
    stamp.unlink(missing_ok=True)
    libraries.save(folder)
    described = {
        "hash": libraries.hash,
        "semantic": len(libraries.semantic),
        "attribute": len(libraries.attribute),
        "review": review_hash,
    }
    write_whole(stamp, lambda part: part.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8"))
