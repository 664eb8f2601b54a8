"""Overlap the preparation of photos with whatever consumes them, in order and under bounded memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(function: Callable[[In], Out], items: Iterable[In], *, workers: int, ahead: int) -> Iterator[Out]:
    """Yield function(item) for every item, in order, computed by `workers` threads at most `ahead` items early.

    Threads serve well here: Pillow and NumPy release the interpreter lock while they decode and resize.
    An exception of `function` is raised at its place in the order. Leaving the iterator early cancels what
    has not started.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="tmcr-photo") as pool:
        pending: deque[Future[Out]] = deque(
            pool.submit(function, item) for item in itertools.islice(source, max(ahead, workers))
        )
        try:
            while pending:
                done = pending.popleft().result()
                for item in itertools.islice(source, 1):
                    pending.append(pool.submit(function, item))
                yield done
        finally:
            for future in pending:
                future.cancel()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch
