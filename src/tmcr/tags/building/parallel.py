"""Work on chunks in several processes, results in order, only a few chunks in memory at a time."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_AHEAD = 2  # chunks waiting for each process


def ordered_map(work: Callable[[Chunk], Result], chunks: Iterable[Chunk], workers: int) -> Iterator[Result]:
    """`map(work, chunks)` by `workers` processes; a single chunk is done here, without starting any."""
    remaining = iter(chunks)
    beginning = list(itertools.islice(remaining, 2))
    if workers < 2 or len(beginning) < 2:
        yield from map(work, itertools.chain(beginning, remaining))
        return
    # Spawned, not forked: the parent may hold threads of numerical libraries.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        for chunk in itertools.chain(beginning, remaining):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk
