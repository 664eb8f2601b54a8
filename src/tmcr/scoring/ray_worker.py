"""One process of a Ray cluster that scores: a loaded model, and the pipeline over one task after the other."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tmcr.errors import ConfigError, TmcrError
from tmcr.images import ImageLimits
from tmcr.results import ParquetWriter
from tmcr.scoring.pipeline import Row, score_photos
from tmcr.scoring.ray_tasks import Task
from tmcr.scoring.rows import RowSet
from tmcr.scoring.run import Plan, choose_batch_size

if TYPE_CHECKING:
    from tmcr.assessor import Assessor


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself once its model is loaded; all workers of a run must agree in the first three.

    Attributes:
        model, model_hash: what scores.
        bf16: whether it computes in bf16.
        limits: which photos it refuses.
        hardware: device, precision and decoding threads, for people.
        batch_size: photos in one pass of its encoders.
        host: the machine.
    """

    model: str
    model_hash: str
    bf16: bool
    limits: ImageLimits
    hardware: str
    batch_size: int
    host: str


@dataclass(frozen=True)
class Part:
    """Rows that a worker has finished.

    Attributes:
        data: a Parquet file of results; empty where there are no rows.
        rows: [first, end) ranges of their numbers.
        count, errors: rows, and how many of them are of photos that cannot be read.
        ends_task: whether these were the last of the task.
        shard_rows: with the last part, the rows of each shard of the task.
        notes: lines for the user.
    """

    data: bytes
    rows: list[list[int]]
    count: int
    errors: int
    ends_task: bool
    shard_rows: dict[str, int]
    notes: list[str]


class Worker:
    """What a Ray actor holds.

    Errors that a user can cause are returned, not raised: Ray would wrap them in a traceback.
    """

    def __init__(self, load: Callable[..., Assessor], threads: int, plan: Plan, folder: str) -> None:
        """Load nothing yet.

        Args:
            load: makes the model, given `workers`, the number of decoding threads.
            folder: where relative names begin.
        """
        self._load = load
        self._threads = threads
        self._plan = plan
        self._folder = folder
        self._stop = threading.Event()
        self._shard_rows: dict[str, int] = {}
        self._notes: list[str] = []
        self._batches: Generator[list[Row], None, None] | None = None

    def load(self) -> Greeting | TmcrError:
        """Load the model."""
        from tmcr.scoring.isolated import IsolatedPreparation

        warnings.filterwarnings("ignore", module=r"PIL\b")
        with contextlib.suppress(OSError):  # without it, only absolute names are found; `score` tells
            os.chdir(self._folder)
        try:
            assessor = self._assessor = self._load(workers=self._threads)
        except TmcrError as error:
            return error
        self._batch_size = self._plan.batch_size or choose_batch_size(assessor)
        self._prepare = IsolatedPreparation(assessor.prepare) if self._plan.isolate else assessor.prepare
        return Greeting(
            model=assessor.model.name,
            model_hash=assessor.model.hash,
            bf16=assessor.hardware.bf16,
            limits=assessor.limits,
            hardware=str(assessor.hardware),
            batch_size=self._batch_size,
            host=socket.gethostname(),
        )

    def score(self, task: Task | None, probe: str | None, errors_left: int | None) -> Part | TmcrError:
        """Score until a part is full.

        Args:
            task: a new task; None goes on with the one at hand.
            probe: a file that is there, seen from where the run was started.
            errors_left: end the part early with more unreadable photos than this.
        """
        if probe is not None and not os.path.lexists(probe):
            return ConfigError(
                f"{probe}: is not there on worker {socket.gethostname()}; photos must lie on a drive that all machines "
                "of the cluster have under the same path, or be named by URLs"
            )
        try:
            if task is not None:
                self._begin(task)
            return self._part(errors_left)
        except TmcrError as error:
            return error

    def stop(self) -> None:
        """End the part at hand after its present batch."""
        self._stop.set()

    def _begin(self, task: Task) -> None:
        self._shard_rows = {}
        photos = task.photos(column=self._plan.column, limits=self._assessor.limits, shard_rows=self._shard_rows)
        self._batches = score_photos(
            self._assessor,
            photos,
            prepare=self._prepare,
            batch_size=self._batch_size,
            ordered=self._plan.ordered,
            stop=self._stop,
            note=self._notes.append,
        )

    def _part(self, errors_left: int | None) -> Part:
        if self._batches is None:
            raise AssertionError("no task was given")
        began, rows, errors, ended = time.monotonic(), RowSet(), 0, True
        with tempfile.TemporaryDirectory(prefix="tmcr-") as folder:
            path = Path(folder) / "part.parquet"
            with contextlib.closing(ParquetWriter(path)) as writer:
                for batch in self._batches:
                    for row, verdict in batch:
                        writer.write(verdict)
                        rows.add(row)
                        errors += not verdict.ok
                    full = len(rows) >= self._plan.part_rows or time.monotonic() - began >= self._plan.part_seconds
                    if full or (errors_left is not None and errors > errors_left):
                        ended = False
                        break
            data = path.read_bytes() if len(rows) else b""
        ended = ended and not self._stop.is_set()  # when stopped, a task ends before all its photos are scored
        notes, self._notes[:] = list(self._notes), []
        return Part(data, rows.ranges(), len(rows), errors, ended, dict(self._shard_rows) if ended else {}, notes)
