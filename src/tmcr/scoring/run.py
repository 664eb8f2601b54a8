"""One run: sources in, a results folder or file out, whatever happens on the way."""

from __future__ import annotations

import contextlib
import platform
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tmcr.errors import ConfigError, DataError, Stopped
from tmcr.results import SUFFIXES, check_destination, join_parts
from tmcr.scoring.feature_folder import FeatureFolder
from tmcr.scoring.listing import Survey, list_sources, listed_photos
from tmcr.scoring.numbering import final_rows
from tmcr.scoring.parts import Manifest, PartsWriter, ResultsFolder
from tmcr.scoring.photo import Photo
from tmcr.scoring.rows import RowSet
from tmcr.wording import counted

if TYPE_CHECKING:
    from tmcr.assessor import Assessor

PART_ROWS = 50_000
SMALL_ENCODERS = 20_000_000  # parameters of both
PART_SECONDS = 60.0  # of work that a kill may cost
_NUMBERING = "numbering"  # the setting that says how the rows of an unfinished run are numbered


@dataclass(frozen=True)
class Plan:
    """What to score, and how.

    Attributes:
        sources: files, folders, globs, shards, URLs, `@list.txt`, `-`.
        out: results file (.parquet, .csv, .jsonl) or results folder; None keeps nothing.
        column: Parquet column that holds the photos, where it cannot be told.
        batch_size: photos in one pass of the encoders; None chooses for the machine.
        ordered: finish photos in the order of the sources.
        isolate: decode in processes of their own.
        max_errors: stop once more photos than this could not be read.
        restart: throw away what an earlier run left.
        features: folder to keep the features of the photos in, and to take them from where they are there already.
        features_storage: "float16" or "float32", the precision of a new such folder.
        settings: what else the rows depend on, as JSON can hold it; a run taken up with others is refused.
        part_rows, part_seconds: a part of the results is finished after so many rows or seconds.
    """

    sources: Sequence[str]
    out: Path | None = None
    column: str | None = None
    batch_size: int | None = None
    ordered: bool = True
    isolate: bool = False
    max_errors: int | None = None
    restart: bool = False
    features: Path | None = None
    features_storage: str = "float16"
    settings: Mapping[str, Any] = field(default_factory=dict)
    part_rows: int = PART_ROWS
    part_seconds: float = PART_SECONDS


def check_out(out: Path, sources: Sequence[str] = ()) -> None:
    """Find out before the work whether results can be written to a file or folder of this name, and not over sources.

    Raises:
        ConfigError: they cannot.
    """
    if not _is_folder(out):
        check_destination(out, never=sources)


def choose_batch_size(assessor: Assessor) -> int:
    """Photos in one pass: enough to keep the device busy, few enough that Ctrl-C is heard within seconds."""
    import torch

    device = assessor.hardware.device
    if device.type != "cuda":
        each = 32 if _is_small(assessor) else 4  # batches are shared out among threads
        return max(16, min(each * torch.get_num_threads(), 256))

    gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    return 256 if gib >= 40 else 128 if gib >= 16 else 64 if gib >= 8 else 32


def _is_small(assessor: Assessor) -> bool:
    """Whether a thread encodes dozens of photos in a second."""
    encoders = [assessor.image_text.image_tower, *([assessor.model.encoder] if assessor.model.encoder else [])]
    return sum(parameter.numel() for encoder in encoders for parameter in encoder.parameters()) < SMALL_ENCODERS


@contextlib.contextmanager
def open_run(
    assessor: Assessor,
    plan: Plan,
    *,
    note: Callable[[str], None] = lambda line: None,
    run_class: type[Run] | None = None,
) -> Iterator[Run]:
    """List the sources, and begin a run or take up the one that was cut off.

    Args:
        note: told, in one line, what a user should know.
        run_class: how the photos are scored; `Run` by default.

    Raises:
        ConfigError: the destination, the feature folder or a source cannot be used, or nothing was found.
        DataError: another run's results are there, or the disk is full.
        ModelError: the feature folder was filled by other encoders.
    """
    with contextlib.ExitStack() as stack:
        features = None
        if plan.features is not None:
            features = stack.enter_context(FeatureFolder(plan.features, assessor.encoding(), plan.features_storage))
        if plan.out is None:
            scratch = tempfile.TemporaryDirectory(prefix="tmcr-", ignore_cleanup_errors=True)
            path, joins = Path(stack.enter_context(scratch)), False
        elif _is_folder(plan.out):
            path, joins = plan.out, False
        else:
            check_destination(plan.out)
            path, joins = plan.out.with_name(plan.out.name + ".parts"), True
        folder = ResultsFolder(path, restart=plan.restart)
        stack.callback(folder.close)
        run = (run_class or Run)(assessor, plan, folder, note, joins=joins, features=features)
        yield run
        if run.joined:
            folder.remove()


class Run:
    """A run that has begun.

    Attributes:
        total: photos in all; None where only reading the shards can tell.
        earlier: photos that an earlier run had scored.
        joined: whether the results file that was asked for is there, and nobody needs the parts any more.
    """

    def __init__(
        self,
        assessor: Assessor,
        plan: Plan,
        folder: ResultsFolder,
        note: Callable[[str], None],
        *,
        joins: bool,
        features: FeatureFolder | None,
    ) -> None:
        """See `open_run`, which makes these."""
        self._assessor = assessor
        self._plan = plan
        self._folder = folder
        self._note = note
        self._joins = joins
        self._features = features
        self._stop = threading.Event()
        self.total: int | None = None
        self.earlier = 0
        self.joined = False
        with self._full_disk_reported():
            self._begin_or_take_up()

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self._folder.path

    @property
    def finished(self) -> bool:
        return self._folder.manifest.finished

    @property
    def count(self) -> int:
        """Photos scored, or found to be unreadable."""
        return self._folder.manifest.count

    @property
    def errors(self) -> int:
        """Photos that could not be read."""
        return self._folder.manifest.errors

    def complete(self, scored: Callable[[int], None] = lambda count: None) -> None:
        """Score what is not scored yet, and write the results file where one was asked for.

        Args:
            scored: told how many more photos are done.

        Raises:
            DataError: too many photos failed, or the disk is full; what is done is kept.
            Stopped: Ctrl-C; what is done is kept.
        """
        with self._full_disk_reported():
            if not self.finished:
                self._check_errors(self.errors)
                with _interrupts(self._stop, self._note):
                    self._score(scored)
                if self._stop.is_set():
                    raise Stopped(f"stopped: {self._so_far()}")
                self._finish()
        if self._plan.out is not None and self._joins:
            join_parts(self.folder, self._plan.out)
            self.joined = True

    def _finish(self) -> None:
        manifest = self._folder.manifest
        manifest.parts = final_rows(manifest.parts, self._folder.listing, manifest.shard_rows)
        manifest.settings.pop(_NUMBERING, None)
        self._folder.finish()  # which saves all of it in one go

    def photos(self, done: RowSet | None = None) -> Iterator[Photo]:
        """The photos of the run in their order, but for those that are done."""
        return listed_photos(
            self._folder.listing,
            column=self._plan.column,
            limits=self._assessor.limits,
            done=done or RowSet(),
            shard_rows=self._folder.manifest.shard_rows,
        )

    def _begin_or_take_up(self) -> None:
        plan, folder = self._plan, self._folder
        survey = list_sources(plan.sources, folder.listing, never=plan.out)
        self.total = survey.photos
        if survey.entries == 0:
            raise ConfigError(
                f"no photo found in {', '.join(plan.sources)}; give files, folders, globs, .tar or .parquet shards "
                "or URLs (shards in a folder are named by a glob: 'folder/*.tar')"
            )
        described = self._description(survey)
        if not folder.begun:
            folder.begin(described)
            return
        self.earlier = self.count
        if differences := folder.manifest.differences(described):
            state = "results" if self.finished else "an unfinished run"
            raise DataError(
                f"{self.folder} holds {state} of {counted(self.count, 'photo')}, but since then "
                f"{' and '.join(differences)} changed; --restart throws them away and begins anew, "
                "another --out leaves them alone"
            )
        if self.finished:
            self._note(f"{self.folder} is complete; --restart scores all anew")
        elif self.count:
            self._note(f"going on after {counted(self.count, 'photo')} of an earlier run")

    def _description(self, survey: Survey) -> Manifest:
        from tmcr import __version__

        return Manifest(
            model=self._assessor.model.name,
            model_hash=self._assessor.model.hash,
            sources={
                "named": list(self._plan.sources),
                "entries": survey.entries,
                "photos": survey.photos,
                "shard_bytes": survey.shard_bytes,
                "digest": survey.digest,
            },
            settings={
                "precision": "bf16" if self._assessor.hardware.bf16 else "fp32",
                "column": self._plan.column,
                **({} if self._folder.begun and self.finished else {_NUMBERING: "by shard"}),
                **({"features": self._features.storage} if self._features is not None else {}),
                **self._plan.settings,
            },
            versions={"tmcr": __version__, "python": platform.python_version()},
        )

    def _score(self, scored: Callable[[int], None]) -> None:
        from tmcr.scoring.isolated import IsolatedPreparation
        from tmcr.scoring.pipeline import score_photos
        from tmcr.scoring.repeats import Repeats

        assessor, plan, errors = self._assessor, self._plan, self.errors
        repeats = Repeats()
        repeats.recall(self._folder.backwards())
        with contextlib.ExitStack() as stack:
            parts = stack.enter_context(
                _PartsAfterFeatures(self._folder, self._features, rows=plan.part_rows, seconds=plan.part_seconds)
            )
            prepare = stack.enter_context(IsolatedPreparation(assessor.prepare)) if plan.isolate else assessor.prepare
            batches = score_photos(
                assessor,
                self.photos(self._folder.done()),
                prepare=prepare,
                batch_size=plan.batch_size or choose_batch_size(assessor),
                ordered=plan.ordered,
                repeats=repeats,
                features=self._features,
                stop=self._stop,
                note=self._note,
            )
            for batch in stack.enter_context(contextlib.closing(batches)):
                parts.write(batch)
                scored(len(batch))
                errors += sum(not verdict.ok for _, verdict in batch)
                if plan.max_errors is not None and errors > plan.max_errors:
                    break
            parts.finish()
            self._check_errors(errors)

    def _check_errors(self, errors: int) -> None:
        most = self._plan.max_errors
        if most is not None and errors > most:
            raise DataError(
                f"{counted(errors, 'photo')} cannot be read, more than --max-errors {most:,}; {self._so_far()} "
                "with a larger --max-errors"
            )

    @contextlib.contextmanager
    def _full_disk_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"{self.folder}: cannot be written ({reason}); make room: {self._so_far()}") from None

    def _so_far(self) -> str:
        if self._plan.out is None:
            return "nothing is kept; a run with --out can be taken up again"
        of = f" of {self.total:,}" if self.total is not None else ""
        count = self.count if self._folder.begun else 0
        photos = f"{count:,}{of} photos" if of else counted(count, "photo")
        are = "is" if count == 1 else "are"
        return f"{photos} {are} scored and kept in {self.folder}; the same command goes on from there"


class _PartsAfterFeatures(PartsWriter):
    """Finishes no part of the results before the features of its photos are on disk: a run taken up again would
    pass over its photos."""

    def __init__(self, folder: ResultsFolder, features: FeatureFolder | None, *, rows: int, seconds: float) -> None:
        super().__init__(folder, rows=rows, seconds=seconds)
        self._features = features

    def finish(self) -> None:
        if self._features is not None:
            self._features.flush()
        super().finish()


def _is_folder(out: Path) -> bool:
    """Whether results of this name are a folder of parts: it is one, or has no suffix."""
    if out.is_dir():
        if out.suffix.lower() in SUFFIXES:
            raise ConfigError(f"{out}: is a folder; name a file in it, or a folder without such a suffix")
        return True
    if not out.suffix or out.suffix[1:].isdigit():  # digits end a date or a version
        return True
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{out}: results are written as {', '.join(SUFFIXES)} or, without a suffix, to a folder; choose one"
        )
    return False


@contextlib.contextmanager
def _interrupts(stop: threading.Event, note: Callable[[str], None]) -> Iterator[None]:
    """Make the first Ctrl-C set `stop`, and the second what it always is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        note("stopping after the batch at hand; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
