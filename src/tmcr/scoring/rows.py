"""Which rows of a run are done, as ranges: a few numbers where work went in order, whatever their count."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence


class RowSet:
    """A growing set of row numbers."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        """Start from [first, end) pairs in any order; they may touch and overlap."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, end in sorted((int(first), int(end)) for first, end in ranges):
            if self._ends and first <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(first)
                self._ends.append(end)

    def add(self, row: int) -> None:
        after = bisect_right(self._starts, row)
        joins_left = after > 0 and self._ends[after - 1] >= row
        if joins_left and self._ends[after - 1] > row:
            return
        joins_right = after < len(self._starts) and self._starts[after] == row + 1
        if joins_left and joins_right:
            self._ends[after - 1] = self._ends.pop(after)
            del self._starts[after]
        elif joins_left:
            self._ends[after - 1] = row + 1
        elif joins_right:
            self._starts[after] = row
        else:
            self._starts.insert(after, row)
            self._ends.insert(after, row + 1)

    def contains(self, first: int, end: int) -> bool:
        """Whether all rows in [first, end) are in the set."""
        at = bisect_right(self._starts, first) - 1
        return first >= end or (at >= 0 and self._ends[at] >= end)

    def within(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """What of the set lies in [first, end), as ascending ranges."""
        at = bisect_right(self._ends, first)
        while at < len(self._starts) and self._starts[at] < end:
            yield max(first, self._starts[at]), min(end, self._ends[at])
            at += 1

    def ranges(self) -> list[list[int]]:
        """[first, end) pairs, ascending, apart from each other."""
        return [[first, end] for first, end in zip(self._starts, self._ends, strict=True)]

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)
