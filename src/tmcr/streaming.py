"""Iterators that overlap work and keep memory bounded, whatever passes through them."""

from __future__ import annotations

import heapq
import itertools
import json
import queue
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

STAGE_THREAD = "tmcr-stage"
_POLL = 0.1  # seconds after which a thread that waits for room looks whether anybody still wants its work
_GRACE = 3.0  # seconds that a stopped stage is waited for
_NAMES_IN_MEMORY = 200_000


def ordered_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    workers: int,
    ahead: int,
    cost: Callable[[In], int] | None = None,
    result_cost: Callable[[Out], int] | None = None,
    budget: int = 0,
) -> Generator[Out, None, None]:
    """Yield function(item) for every item, in order, computed by `workers` threads at most `ahead` items early.

    Threads serve well here: Pillow and NumPy release the interpreter lock while they decode and resize.
    An exception of `function` is raised at its place in the order. Leaving the iterator early cancels what
    has not started.

    Args:
        cost: what an item weighs (bytes) until it is computed.
        result_cost: what a result weighs until it is taken.
        budget: no further item is begun while all of these weigh this much together.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="tmcr-photo") as pool:
        intake = _Intake(pool, workers, function, items, cost, result_cost, budget)
        pending: deque[Future[Out]] = deque()
        try:
            while True:
                while len(pending) < max(ahead, workers) and (future := intake.begin(idle=not pending)):
                    pending.append(future)
                if not pending:
                    return
                yield intake.taken(pending.popleft().result())
        finally:
            for future in pending:
                future.cancel()


def unordered_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    workers: int,
    ahead: int,
    cost: Callable[[In], int] | None = None,
    result_cost: Callable[[Out], int] | None = None,
    budget: int = 0,
) -> Generator[Out, None, None]:
    """As `ordered_map`, but each result comes as soon as it is there: a slow item holds up no other."""
    if workers <= 0:
        yield from map(function, items)
        return
    finished: queue.SimpleQueue[Future[Out]] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers, thread_name_prefix="tmcr-photo") as pool:
        intake = _Intake(pool, workers, function, items, cost, result_cost, budget)
        pending: set[Future[Out]] = set()
        try:
            while True:
                while len(pending) < max(ahead, workers) and (future := intake.begin(idle=not pending)):
                    pending.add(future)
                    future.add_done_callback(finished.put)
                if not pending:
                    return
                done = finished.get()
                pending.discard(done)
                yield intake.taken(done.result())
        finally:
            for future in pending:
                future.cancel()


class _Intake(Generic[In, Out]):
    """Begins the next item, unless what is under way, or waits to be taken, is too heavy."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        workers: int,
        function: Callable[[In], Out],
        items: Iterable[In],
        cost: Callable[[In], int] | None,
        result_cost: Callable[[Out], int] | None,
        budget: int,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._function = function
        self._source = iter(items)
        self._cost = cost
        self._result_cost = result_cost
        self._budget = budget
        self._weight = 0
        self._at_work = 0
        self._lock = threading.Lock()

    def begin(self, *, idle: bool) -> Future[Out] | None:
        """The future of the next item; None when there is no more, or no room for it unless `idle`."""
        full = self._budget and self._weight >= self._budget
        # What weighs only once it is computed must not be asked for long before.
        if not idle and (full or (self._result_cost is not None and self._at_work >= self._workers)):
            return None
        for item in self._source:
            weight = self._cost(item) if self._cost is not None else 0
            self._add(weight, 1)
            future = self._pool.submit(self._function, item)
            future.add_done_callback(partial(self._computed, weight))
            return future
        return None

    def taken(self, result: Out) -> Out:
        """The result, which is somebody else's burden from now on."""
        self._add(-self._weight_of(result), 0)
        return result

    def _computed(self, weight: int, future: Future[Out]) -> None:
        failed = future.cancelled() or future.exception() is not None
        self._add((0 if failed else self._weight_of(future.result())) - weight, -1)

    def _weight_of(self, result: Out) -> int:
        return self._result_cost(result) if self._result_cost is not None else 0

    def _add(self, weight: int, at_work: int) -> None:
        with self._lock:
            self._weight += weight
            self._at_work += at_work


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def overlapped(items: Iterable[Out], *, ahead: int, stop: threading.Event | None = None) -> Generator[Out, None, None]:
    """Yield what `items` yields while a thread of its own works at most `ahead` items early.

    An exception of `items` is raised at its place. Leaving the iterator early ends the thread after the item
    that it is at. Once `stop` is set, the iterator ends and waits for the item at work `_GRACE` seconds at most.
    """
    stage: queue.Queue[Out | _End] = queue.Queue(max(1, ahead))
    unwanted = threading.Event()

    def put(item: Out | _End) -> None:
        while not unwanted.is_set():
            try:
                stage.put(item, timeout=_POLL)
                return
            except queue.Full:
                continue

    def work() -> None:
        end = _End()
        source = iter(items)
        try:
            for item in source:
                put(item)
                if unwanted.is_set():
                    break
        except BaseException as error:
            end = _End(error)
        finally:
            if isinstance(source, Generator):
                source.close()
        put(end)

    thread = threading.Thread(target=work, name=STAGE_THREAD, daemon=True)
    thread.start()
    try:
        while stop is None or not stop.is_set():
            try:
                item = stage.get(timeout=None if stop is None else _POLL)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        unwanted.set()
        # Once stopped, a photo that hangs must not hold up the end; a thread at work is given time to finish its item.
        thread.join(_GRACE if stop is not None and stop.is_set() else None)


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def sorted_names(names: Iterable[str], *, in_memory: int = _NAMES_IN_MEMORY) -> Iterator[str]:
    """The names in order; beyond `in_memory` of them, sorted runs wait in temporary files and are merged."""
    with ExitStack() as files:
        runs: list[Iterator[str]] = []
        for run in batched(names, in_memory):
            run.sort()
            if len(run) < in_memory:
                runs.append(iter(run))
                break
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(json.dumps(name) + "\n" for name in run)  # names may hold line breaks and no UTF-8
            file.seek(0)
            runs.append(map(json.loads, file))
        yield from heapq.merge(*runs)
