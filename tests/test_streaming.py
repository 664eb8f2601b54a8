"""Ordered, bounded, overlapping preparation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

import pytest

from tmcr.streaming import batched, ordered_map, overlapped, sorted_names, unordered_map

MAPS = pytest.mark.parametrize("in_turn", [ordered_map, unordered_map])


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_order(workers: int) -> None:
    def slow_when_even(n: int) -> int:
        time.sleep(0.002 if n % 2 == 0 else 0)
        return n * n

    assert list(ordered_map(slow_when_even, range(50), workers=workers, ahead=8)) == [n * n for n in range(50)]


@MAPS
def test_it_never_runs_further_ahead_than_told(in_turn: Callable) -> None:
    started = []
    for n in islice(in_turn(started.append, count(), workers=2, ahead=5), 20):
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


@MAPS
def test_leaving_early_ends_the_threads(in_turn: Callable) -> None:
    before = threading.active_count()
    results = in_turn(lambda n: n, count(), workers=3, ahead=6)
    next(results)
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_without_order_nothing_is_lost_and_a_slow_item_holds_up_no_other(workers: int) -> None:
    def slow_first(n: int) -> int:
        time.sleep(0.2 if n == 0 else 0)
        return n

    results = list(unordered_map(slow_first, range(50), workers=workers, ahead=8))
    assert sorted(results) == list(range(50))
    if workers > 1:
        assert results.index(0) > 5


@MAPS
def test_what_is_under_way_never_weighs_much_more_than_the_budget(in_turn: Callable) -> None:
    weight, heaviest, lock = 0, 0, threading.Lock()

    def items() -> Iterator[int]:
        nonlocal weight, heaviest
        for _ in range(60):
            with lock:
                weight += 10
                heaviest = max(heaviest, weight)
            yield 10

    def work(item: int) -> int:
        nonlocal weight
        time.sleep(0.001)
        with lock:
            weight -= item
        return item

    results = in_turn(work, items(), workers=2, ahead=40, cost=lambda item: item, budget=45)
    assert len(list(results)) == 60
    assert heaviest <= 45 + 2 * 10


@MAPS
def test_results_that_nobody_takes_count_too(in_turn: Callable) -> None:
    begun: list[int] = []
    results = in_turn(
        lambda n: begun.append(n) or n, range(60), workers=2, ahead=40, result_cost=lambda n: 10, budget=45
    )
    assert next(results) in range(3)
    time.sleep(0.2)
    assert len(begun) <= 1 + 5 + 2  # taken; as heavy as the budget; under way
    assert sorted([*results]) == sorted(set(range(60)) - {begun[0]} if in_turn is ordered_map else begun[1:])


def test_an_item_heavier_than_the_budget_passes_all_the_same() -> None:
    results = ordered_map(lambda n: n, [5, 500, 5], workers=2, ahead=4, cost=lambda n: n, budget=10)
    assert list(results) == [5, 500, 5]


def test_overlapped_work_goes_on_while_the_consumer_is_busy() -> None:
    made = []

    def source() -> Iterator[int]:
        for n in range(10):
            made.append(n)
            yield n

    results = overlapped(source(), ahead=3)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(made) in (4, 5)  # handed over, three waiting, perhaps one in hand
    assert list(results) == list(range(1, 10))


def test_overlapped_raises_at_its_place_and_leaves_no_thread() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield 1
            yield 2
            raise ValueError("three")
        finally:
            closed.set()

    before = threading.active_count()
    results = overlapped(source(), ahead=1)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert threading.active_count() == before
    closed.clear()
    early = overlapped(source(), ahead=1)
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert threading.active_count() == before


def test_a_stop_ends_the_consumer_though_the_source_hangs() -> None:
    stop, release = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 1
        release.wait(20)

    results = overlapped(source(), ahead=1, stop=stop)
    assert next(results) == 1
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert list(results) == []
    assert time.monotonic() - began < 5
    release.set()


def test_names_are_sorted_in_memory_and_beyond_it() -> None:
    names = [f"{n * 7919 % 1000}\n\udce9" for n in range(1000)]
    for in_memory in (1, 7, 500, 1000, 5000):
        assert list(sorted_names(iter(names), in_memory=in_memory)) == sorted(names)
    assert list(sorted_names([])) == []


def test_batches_keep_every_item() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
