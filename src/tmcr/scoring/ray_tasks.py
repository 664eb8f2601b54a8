"""A run cut into tasks for several machines: which photos each scores, and what numbers their rows have.

How many photos a tar holds shows only when it has been read, and tasks end in any order. While such a run is at
work, each shard therefore takes `SPAN` row numbers, however few it fills. When every row is there, `final_rows`
closes the gaps, and the manifest is the one that a run on one machine leaves.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tmcr.images import ImageLimits
from tmcr.scoring.parts import PartRecord
from tmcr.scoring.photo import Photo
from tmcr.scoring.rows import RowSet
from tmcr.scoring.shards import is_shard, members

SPAN = 2**32  # row numbers of a shard
_TASKS = 256  # tasks that a run is cut into, within these bounds, so that many workers end together
_FEWEST, _MOST = 64, 16_384  # photos in a task
_BYTES_PER_PHOTO = 128 * 2**10  # assumed of shards; a wrong guess makes tasks longer or shorter, nothing else


@dataclass
class Task:
    """Neighbouring entries of the listing, to be scored by one worker.

    Attributes:
        entries: number of the first row, and name, of each photo or shard that is not done.
        done: rows of these that are.
        losses: workers that were lost over it since it last brought a part.
    """

    entries: list[tuple[int, str]]
    done: RowSet = field(default_factory=RowSet)
    losses: int = 0

    def photos(self, *, column: str | None, limits: ImageLimits, shard_rows: dict[str, int]) -> Iterator[Photo]:
        """The photos that are not done, in order.

        Args:
            column: Parquet column that holds photos.
            shard_rows: filled with the number of rows of each shard that was read to its end.
        """
        for first, name in self.entries:
            if not is_shard(name):
                if not self.done.contains(first, first + 1):
                    yield Photo(first, name, where=name)
                continue
            row = first
            for member in members(name, column=column, limits=limits):
                if not self.done.contains(row, row + 1):
                    yield Photo(row, member.name, member.where, member.data, member.error)
                row += 1
            # A shard that could be read further the time before has that many rows.
            known = (end for start, end in self.done.ranges() if first <= start < first + SPAN)
            shard_rows[name] = max(row, *known, first) - first

    def __str__(self) -> str:
        first, last = self.entries[0][1], self.entries[-1][1]
        return first if first == last else f"{first} … {last}"


def photos_in_a_task(entries: int, shard_bytes: int, most: int) -> int:
    """How many photos a task should have: few enough for many workers, enough to fill batches, `most` at most."""
    photos = entries + shard_bytes // _BYTES_PER_PHOTO
    return min(most, max(_FEWEST, min(_MOST, photos // _TASKS)))


def cut(listing: Path, *, photos: int, done: RowSet, shard_rows: dict[str, int]) -> Iterator[Task]:
    """Tasks of about so many photos, in the order of the listing; what is done is left out.

    Where tasks begin and end depends on the listing alone, not on what is done. A shard is never cut.

    Args:
        shard_rows: how many rows each shard has that was read to its end.
    """
    ranges = done.ranges()

    def is_done(first: int, name: str) -> bool:
        return done.contains(first, first + (shard_rows.get(name, SPAN) if is_shard(name) else 1))

    waiting: list[tuple[int, str]] = []
    size = first = row = 0
    with listing.open(encoding="ascii") as lines:
        for line in lines:
            name, *stamp = json.loads(line)
            if not is_done(row, name):
                waiting.append((row, name))
            size += max(1, (stamp[0] or 0) // _BYTES_PER_PHOTO) if is_shard(name) else 1
            row += SPAN if is_shard(name) else 1
            if size >= photos:
                if waiting:
                    yield Task(waiting, RowSet(_within(ranges, first, row)))
                waiting, size, first = [], 0, row
    if waiting:
        yield Task(waiting, RowSet(_within(ranges, first, row)))


def final_rows(records: Iterable[PartRecord], listing: Path, shard_rows: dict[str, int]) -> list[PartRecord]:
    """The parts of a run that is done, with the row numbers they have when every shard takes as many as it fills."""
    final = _numbering(listing, shard_rows)
    return [
        replace(record, rows=RowSet((final(first), final(first) + end - first) for first, end in record.rows).ranges())
        for record in records
    ]


def _numbering(listing: Path, shard_rows: dict[str, int]) -> Callable[[int], int]:
    ends: list[int] = []  # where each shard's numbers end
    gaps = [0]  # numbers that no row has, before the first shard's end, the second's, …
    row = 0
    with listing.open(encoding="ascii") as lines:
        for line in lines:
            name = json.loads(line)[0]
            row += SPAN if is_shard(name) else 1
            if is_shard(name):
                ends.append(row)
                gaps.append(gaps[-1] + SPAN - shard_rows[name])
    return lambda number: number - gaps[bisect_right(ends, number)]


def _within(ranges: Sequence[Sequence[int]], first: int, end: int) -> Iterator[tuple[int, int]]:
    """The part of ascending [start, stop) ranges that lies in [first, end)."""
    at = max(0, bisect_right(ranges, first, key=lambda pair: pair[0]) - 1)
    while at < len(ranges) and ranges[at][0] < end:
        start, stop = max(first, ranges[at][0]), min(end, ranges[at][1])
        if start < stop:
            yield start, stop
        at += 1
