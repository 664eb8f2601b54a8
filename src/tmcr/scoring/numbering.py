"""Numbers of rows while a run is at work, and when it is done.

How many photos a tar holds shows only when it has been read, and it may not be read to its end at the first try.
While a run is at work, each shard therefore takes `SPAN` row numbers, however few it fills: no photo's number
depends on what could be read of another shard, or in which order. When every row is there, `final_rows` closes the
gaps.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tmcr.scoring.rows import RowSet
from tmcr.scoring.shards import is_shard

if TYPE_CHECKING:
    from tmcr.scoring.parts import PartRecord

SPAN = 2**32  # row numbers of a shard


class Entry(NamedTuple):
    """A photo or shard of a listing: the number of its first row, its name, and a shard's size in bytes if known."""

    first: int
    name: str
    size: int | None


def entries(listing: Path) -> Iterator[Entry]:
    """What a listing names, in order."""
    row = 0
    with listing.open(encoding="ascii") as lines:
        for line in lines:
            name, *stamp = json.loads(line)
            yield Entry(row, name, stamp[0] if stamp else None)
            row += SPAN if is_shard(name) else 1


def final_rows(records: Iterable[PartRecord], listing: Path, shard_rows: dict[str, int]) -> list[PartRecord]:
    """The parts of a run that is done, with the row numbers they have when every shard takes as many as it fills.

    Args:
        shard_rows: rows of each shard of the listing.
    """
    final = _numbering(listing, shard_rows)
    return [
        replace(record, rows=RowSet((final(first), final(first) + end - first) for first, end in record.rows).ranges())
        for record in records
    ]


def _numbering(listing: Path, shard_rows: dict[str, int]) -> Callable[[int], int]:
    ends: list[int] = []  # where each shard's numbers end
    gaps = [0]  # numbers that no row has, before the first shard's end, the second's, …
    for entry in entries(listing):
        if is_shard(entry.name):
            ends.append(entry.first + SPAN)
            gaps.append(gaps[-1] + SPAN - shard_rows[entry.name])
    return lambda number: number - gaps[bisect_right(ends, number)]
