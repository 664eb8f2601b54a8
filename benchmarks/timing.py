"""Repeated measurements: ways in turn, so that a machine that warms up or slows down does so for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """The same thing, measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def map(self, function: Callable[[float], float]) -> Samples:
        return Samples(tuple(function(value) for value in self.values))

    def rate(self, items: float) -> Samples:
        """Items per second, if these are the seconds that `items` took."""
        return self.map(lambda seconds: items / seconds)

    def over(self, other: Samples) -> Samples:
        """Quotients repeat by repeat: what slowed both of one repeat cancels out."""
        return Samples(tuple(mine / its for mine, its in zip(self.values, other.values, strict=True)))


def samples(values: Sequence[float]) -> Samples:
    """The values as they are; at least one."""
    if not values:
        raise ValueError("nothing was measured")
    return Samples(tuple(values))


def alternated(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Seconds of each way in each round; every second round goes through the ways backwards.

    Args:
        warm_up: run each way once before, unmeasured.
        clock: `time.process_time` for seconds of one core's work whatever else the machine does.
    """
    if warm_up:
        for way in ways.values():
            way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            began = clock()
            ways[name]()
            taken[name].append(clock() - began)
    return {name: samples(values) for name, values in taken.items()}
