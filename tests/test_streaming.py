"""Ordered, bounded, overlapping preparation."""

from __future__ import annotations

import threading
import time
from itertools import count, islice

import pytest

from tmcr.streaming import batched, ordered_map


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_order(workers: int) -> None:
    def slow_when_even(n: int) -> int:
        time.sleep(0.002 if n % 2 == 0 else 0)
        return n * n

    assert list(ordered_map(slow_when_even, range(50), workers=workers, ahead=8)) == [n * n for n in range(50)]


def test_it_never_runs_further_ahead_than_told() -> None:
    started = []
    for n in islice(ordered_map(started.append, count(), workers=2, ahead=5), 20):
        assert n is None
    assert len(started) <= 20 + 5


def test_an_exception_is_raised_at_its_place() -> None:
    def fail_at_three(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    results = ordered_map(fail_at_three, range(10), workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    results = ordered_map(lambda n: n, count(), workers=3, ahead=6)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_batches_keep_every_item() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
