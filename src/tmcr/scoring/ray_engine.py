"""Scoring on a Ray cluster: the run stays where it was started, and its photos are scored by workers anywhere.

    listing ─→ tasks ─→ worker: pipeline over a task ─→ part ─┐
                   └──→ worker: pipeline over a task ─→ part ─┴─→ results folder and manifest

A worker is a Ray actor with one loaded model (`tmcr.scoring.ray_worker`). It sends each part that is full as the
bytes of a Parquet file; the driver, this process, puts them in place and enters them in the manifest. Only what
the manifest names counts: whatever is lost before, with a worker or with the driver, is scored again, and a worker
that was thought lost cannot write anything. So results need no drive that workers see; photos do.

Why actors and not Ray Data: taking up a run to equal rows. A Ray Data pipeline cuts, moves and merges blocks as it
sees fit; its checkpoints need a column of unique names, which photos do not have (a list may name one twice), and
are kept apart from the files they speak of. Here, parts with ranges of rows say exactly what is done, as in a run on
one machine, and read-decode-encode is the pipeline that is there, with its own overlap and bounds on memory.

Repeats are recognised within a task; among tasks, equal photos are scored anew, to the same verdict.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tmcr.disk import write_whole
from tmcr.errors import ConfigError, DataError, TmcrError, first_line
from tmcr.scoring.parts import PartRecord, ResultsFolder
from tmcr.scoring.photo import is_url
from tmcr.scoring.ray_cluster import RayOptions, connected, share
from tmcr.scoring.ray_tasks import Task, cut, photos_in_a_task
from tmcr.scoring.ray_worker import Greeting, Part, Worker
from tmcr.scoring.rows import RowSet
from tmcr.scoring.run import Plan, Run, open_run

if TYPE_CHECKING:
    from tmcr.assessor import Assessor

_LOSSES = 3  # workers that may be lost in a row over one task, or while they load
_PATIENCE = 30.0  # seconds without any worker after which the user is told


@contextlib.contextmanager
def open_crew(
    load: Callable[..., Assessor],
    plan: Plan,
    options: RayOptions,
    *,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[Crew]:
    """Connect to a cluster, start workers, and wait for the first of them.

    A connection that is there already (`ray.init`) is used and left open.

    Args:
        load: makes the model in a worker, given `workers`, the number of decoding threads.
        note: told, in one line, what a user should know.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address or no room in it, or a worker cannot
            use what it was given.
        DataError: workers die while they load.
        ModelError: a worker cannot have the model.
    """
    if plan.features is not None:
        raise ConfigError("features are kept by --engine local alone: leave out --features, or --engine ray")
    with connected(options.address) as ray:
        crew = Crew(ray, load, plan, options, note)
        try:
            crew.wait_for_the_first()
            yield crew
        finally:
            crew.dismiss()


def open_ray_run(
    crew: Crew, plan: Plan, *, note: Callable[[str], None] = lambda line: None
) -> contextlib.AbstractContextManager[Run]:
    """`tmcr.scoring.run.open_run`, with a crew to score: the same results, rules and errors."""
    return open_run(cast("Assessor", crew), plan, note=note, run_class=RayRun)


class RayRun(Run):
    """A run whose photos are scored by a crew."""

    def _score(self, scored: Callable[[int], None]) -> None:
        crew, plan, folder = cast(Crew, self._assessor), self._plan, self._folder
        manifest = folder.manifest
        size = photos_in_a_task(manifest.sources["entries"], manifest.sources["shard_bytes"], plan.part_rows)
        tasks = cut(folder.listing, photos=size, done=folder.done(), shard_rows=manifest.shard_rows)
        most = plan.max_errors
        crew.errors_left = None if most is None else most - self.errors
        try:
            for part in crew.parts(tasks, self._stop):
                manifest.shard_rows.update(part.shard_rows)
                if part.count:
                    _enter(folder, part)
                scored(part.count)
                if crew.errors_left is not None:
                    crew.errors_left -= part.errors
                    if crew.errors_left < 0:
                        crew.stop()
        except _WorkersLost as error:
            raise DataError(f"{error}; {self._so_far()}") from None
        self._check_errors(self.errors)


class _WorkersLost(DataError):
    """Workers were lost again and again."""


@dataclass(eq=False)
class _Member:
    """A worker as the driver knows it.

    Attributes:
        actor: Ray's handle of a `Worker`.
        host: its machine, once it has a model.
        task: what it is at; None while it loads and between tasks.
    """

    actor: Any
    host: str = ""
    task: Task | None = None


class Crew:
    """The workers of a run. To `Run` it is the assessor: it says what the first worker said of its own.

    Attributes:
        errors_left: a worker ends its part early with more unreadable photos than this; None never.
    """

    def __init__(
        self,
        ray: Any,
        load: Callable[..., Assessor],
        plan: Plan,
        options: RayOptions,
        note: Callable[[str], None],
    ) -> None:
        """See `open_crew`, which makes these."""
        self._ray = ray
        self._note = note
        self.errors_left: int | None = None
        self._greeting: Greeting | None = None
        self._pending: dict[Any, _Member] = {}  # by the reference to the answer that each owes
        self._idle: list[_Member] = []
        self._again: deque[Task] = deque()  # tasks whose workers were lost
        self._losses_at_start = 0
        self._stopping = False
        self._begun = time.monotonic()
        self._size, gpus, cpus = share(ray.nodes(), options, local=options.address is None)
        self._needs = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        # A lost worker has lost its task too: it is not for Ray to start again. `stop` must not wait behind `score`.
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, concurrency_groups={"control": 1})(Worker)
        self._new = lambda: actor.remote(load, cpus, plan, str(Path.cwd()))
        for _ in range(self._size):
            self._hire()

    @property
    def greeting(self) -> Greeting:
        if self._greeting is None:
            raise AssertionError("no worker is there yet")
        return self._greeting

    @property
    def name(self) -> str:
        return self.greeting.model

    @property
    def model(self) -> Any:
        return SimpleNamespace(name=self.greeting.model, hash=self.greeting.model_hash)

    @property
    def hardware(self) -> Any:
        return SimpleNamespace(bf16=self.greeting.bf16)

    @property
    def limits(self) -> Any:
        return self.greeting.limits

    def __str__(self) -> str:
        each = self.greeting
        return f"up to {self._size} Ray workers, each {each.hardware}, batches of {each.batch_size}"

    def wait_for_the_first(self) -> None:
        """Return once a worker has loaded its model."""
        while self._greeting is None:
            self._answers()

    def parts(self, tasks: Iterator[Task], stop: threading.Event) -> Iterator[Part]:
        """Have tasks scored; yields parts as they come, until all are there or the crew was stopped.

        Raises:
            _WorkersLost: three in a row over one task, or while they loaded.
            TmcrError: a worker cannot go on.
        """
        while True:
            if stop.is_set():
                self.stop()
            more = self._assign(tasks)
            if not any(member.task for member in self._pending.values()) and (self._stopping or not more):
                return
            for member, answer in self._answers():
                task, member.task = member.task, None
                if task is None:
                    raise AssertionError("a part without a task")
                task.losses = 0
                task.done = RowSet([*task.done.ranges(), *answer.rows])
                if answer.ends_task or self._stopping:
                    self._idle.append(member)
                    self._assign(tasks)
                else:
                    self._ask(member, task, new=False)
                for line in answer.notes:
                    self._note(f"{member.host}: {line}")
                yield answer

    def stop(self) -> None:
        """Have all workers end their parts after the batch at hand; `parts` still yields these."""
        if not self._stopping:
            self._stopping = True
            for member in self._pending.values():
                if member.task is not None:
                    member.actor.stop.options(concurrency_group="control").remote()

    def dismiss(self) -> None:
        """End all workers."""
        for member in [*self._pending.values(), *self._idle]:
            self._end(member)
        self._pending.clear()
        self._idle.clear()

    def _hire(self) -> None:
        member = _Member(self._new())
        self._pending[member.actor.load.remote()] = member

    def _assign(self, tasks: Iterator[Task]) -> bool:
        """Give tasks to idle workers; returns whether there may be more."""
        while not self._stopping:
            if not self._again and (task := next(tasks, None)) is not None:
                self._again.append(task)
            if not self._again:
                return False
            if not self._idle:
                return True
            self._ask(self._idle.pop(), self._again.popleft(), new=True)
        return False

    def _ask(self, member: _Member, task: Task, *, new: bool) -> None:
        member.task = task
        answer = member.actor.score.remote(task if new else None, _probe(task) if new else None, self.errors_left)
        self._pending[answer] = member

    def _answers(self) -> list[tuple[_Member, Part]]:
        """Wait a moment for answers; workers that were lost are replaced, and those that have loaded are idle."""
        if self._greeting is None and time.monotonic() - self._begun > _PATIENCE:
            self._begun = float("inf")
            self._note(f"waiting for the cluster to start a worker with {self._needs}")
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=1.0)
        parts = []
        for reference in ready:
            member = self._pending.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._lost(member, error)
                continue
            if isinstance(answer, TmcrError):
                raise answer
            if isinstance(answer, Greeting):
                self._welcome(member, answer)
            else:
                parts.append((member, answer))
        return parts

    def _welcome(self, member: _Member, greeting: Greeting) -> None:
        first = self._greeting = self._greeting or greeting
        for what, ours, theirs in (
            ("the model", first.model_hash, greeting.model_hash),
            ("bf16 or fp32 (name one with --precision)", first.bf16, greeting.bf16),
        ):
            if ours != theirs:
                raise ConfigError(f"workers on {first.host} and {greeting.host} differ in {what}; make them equal")
        member.host = greeting.host
        self._losses_at_start = 0
        self._idle.append(member)

    def _lost(self, member: _Member, error: Exception) -> None:
        self._end(member)
        reason = _reason(error)
        if member.task is None:
            self._losses_at_start += 1
            losses, over = self._losses_at_start, "while they loaded the model"
        else:
            member.task.losses += 1
            self._again.appendleft(member.task)
            losses, over = member.task.losses, f"over {member.task}"
        if losses >= _LOSSES:
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise error  # a fault of the program, not of a machine
            hint = "" if member.task is None else "; if a photo crashes its decoder, --isolate makes that cost one row"
            raise _WorkersLost(f"{losses} workers in a row were lost {over} ({reason}){hint}")
        self._note(f"a worker{f' on {member.host}' if member.host else ''} was lost ({reason}); another takes over")
        if not self._stopping:
            self._hire()

    def _end(self, member: _Member) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and the cluster with it
            self._ray.kill(member.actor)


def _enter(folder: ResultsFolder, part: Part) -> None:
    """Put a part in its place and name it in the manifest.

    Raises:
        OSError: the disk is full; finished parts are untouched.
    """
    path = folder.next_part()
    try:
        write_whole(path, part.data)
        folder.add(PartRecord(path.name, part.rows, part.count, part.errors))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _probe(task: Task) -> str | None:
    """A file of the task that is there, for the worker to look for."""
    name = task.entries[0][1]
    return name if not is_url(name) and os.path.lexists(name) else None


def _reason(error: Exception) -> str:
    """Why a worker was lost, in one line."""
    text = str(error)
    for mark in ("Worker exit detail: ", "The actor is dead because "):
        if mark in text:
            return text.partition(mark)[2].splitlines()[0].split(". ")[0][:160]
    return first_line(error)
