"""A run cut into tasks for several machines: which photos each scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tmcr.images import ImageLimits
from tmcr.scoring.listing import photos_of
from tmcr.scoring.numbering import SPAN, entries
from tmcr.scoring.photo import Photo
from tmcr.scoring.rows import RowSet
from tmcr.scoring.shards import is_shard

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
            yield from photos_of(first, name, column=column, limits=limits, done=self.done, shard_rows=shard_rows)

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

    def is_done(first: int, name: str) -> bool:
        return done.contains(first, first + (shard_rows.get(name, SPAN) if is_shard(name) else 1))

    waiting: list[tuple[int, str]] = []
    size = begin = 0
    for first, name, shard_bytes in entries(listing):
        if not is_done(first, name):
            waiting.append((first, name))
        size += max(1, (shard_bytes or 0) // _BYTES_PER_PHOTO) if is_shard(name) else 1
        if size >= photos:
            end = first + (SPAN if is_shard(name) else 1)
            if waiting:
                yield Task(waiting, RowSet(done.within(begin, end)))
            waiting, size, begin = [], 0, end
    if waiting:
        yield Task(waiting, RowSet(done.within(begin, first + SPAN)))
