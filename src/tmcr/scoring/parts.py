"""Results as a folder of Parquet parts with a manifest; a kill at any moment leaves it in order.

manifest.json       what is scored by what, the finished parts with their rows, and whether all is done
part-00000.parquet  rows of results; a part counts once the manifest names it
listing.jsonl       the photos and shards of the run, while one is at work

Every file is written beside its place and moved there when it is whole. The manifest is replaced after
each part: a part that it does not name is left over from a kill, and is scored again.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tmcr.assessment import Assessment
from tmcr.disk import half_written, settle, write_whole
from tmcr.errors import ConfigError, DataError
from tmcr.results import MANIFEST, ParquetWriter, read_parquet_backwards
from tmcr.scoring.rows import RowSet

FORMAT = 1
_LISTING = "listing.jsonl"
_LOCK = ".lock"
_PART = re.compile(r"part-\d{5,}\.parquet(\.part)?")
_OWN = (MANIFEST, MANIFEST + ".part", _LISTING, _LOCK)


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its file, the [first, end) ranges of rows it holds, and counts."""

    file: str
    rows: list[list[int]]
    count: int
    errors: int


@dataclass
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        model, model_hash: the model that scores.
        sources: what the user named, and what that amounted to when the run began.
        settings: what else the rows depend on.
        versions: what was installed when the run began, for the record.
        parts: finished parts, in the order in which they were finished.
        shard_rows: rows of each shard that was read to its end.
        finished: whether every row is there.
    """

    model: str
    model_hash: str
    sources: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    parts: list[PartRecord] = field(default_factory=list)
    shard_rows: dict[str, int] = field(default_factory=dict)
    finished: bool = False

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def errors(self) -> int:
        return sum(part.errors for part in self.parts)

    def differences(self, other: Manifest) -> list[str]:
        """What keeps rows of two runs from standing in one results folder, in words."""
        found = []
        if self.model_hash != other.model_hash:
            found.append(f"the model ({self.model} {self.model_hash[:12]}, now {other.model} {other.model_hash[:12]})")
        if self.sources != other.sources:
            then, now = self.sources["entries"], other.sources["entries"]
            found.append(f"the photos ({then:,} entries then, {now:,} now)" if then != now else "the photos")
        if self.settings != other.settings:
            names = self.settings | other.settings
            keys = sorted(name for name in names if self.settings.get(name) != other.settings.get(name))
            found.append(f"the settings ({', '.join(keys)})")
        return found


class ResultsFolder:
    """The folder of one run, locked against a second one."""

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        """Open or create the folder, and clear away what a kill left half done.

        Args:
            restart: throw away the results that are there.

        Raises:
            ConfigError: it holds other things than results, cannot be written, or another run is at work in it.
            DataError: its manifest is damaged.
        """
        self.path = path
        self._manifest: Manifest | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            strangers = self._strangers()
            self._lock = locked(path / _LOCK)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
        if strangers:
            self._lock.close()
            raise ConfigError(f"{path}: holds {strangers[0]} and is no results folder; name a new or empty folder")
        if restart:
            self._discard(keep=set())
        elif (path / MANIFEST).exists():
            self._manifest = _load(path / MANIFEST)
            files = {part.file for part in self._manifest.parts}
            if missing := sorted(name for name in files if not (path / name).exists()):
                raise DataError(f"{path / missing[0]}: is missing; put it back, or begin anew with --restart")
            self._discard(keep={MANIFEST} | files)

    @property
    def begun(self) -> bool:
        """Whether a run was begun here, by this process or an earlier one."""
        return self._manifest is not None

    @property
    def manifest(self) -> Manifest:
        if self._manifest is None:
            raise AssertionError("the run has not begun")
        return self._manifest

    @property
    def listing(self) -> Path:
        return self.path / _LISTING

    def done(self) -> RowSet:
        """Rows that are in finished parts."""
        return RowSet(pair for part in self.manifest.parts for pair in part.rows)

    def begin(self, manifest: Manifest) -> None:
        """Start a new run.

        Raises:
            OSError: the disk is full.
        """
        self._manifest = manifest
        self._save()

    def next_part(self) -> Path:
        return self.path / f"part-{len(self.manifest.parts):05d}.parquet"

    def add(self, record: PartRecord) -> None:
        """Enter a part that is in place.

        Raises:
            OSError: the disk is full; the manifest is as it was.
        """
        manifest = self.manifest
        manifest.parts.append(record)
        try:
            self._save()
        except OSError:
            manifest.parts.pop()
            raise

    def finish(self) -> None:
        """Mark the run as done.

        Raises:
            OSError: the disk is full.
        """
        self.manifest.finished = True
        self._save()

    def backwards(self) -> Iterator[Assessment]:
        """Rows of the finished parts, last one first."""
        for part in reversed(self.manifest.parts):
            yield from read_parquet_backwards(self.path / part.file)

    def remove(self) -> None:
        """Delete the results and, where nothing else is in it, the folder."""
        self._discard(keep=set())
        self._manifest = None
        self.close()

    def close(self) -> None:
        """Let another run in; where none was begun, leave nothing behind."""
        with contextlib.suppress(OSError):
            self.listing.unlink(missing_ok=True)
            if not self.begun:
                (self.path / _LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        self._lock.close()

    def _save(self) -> None:
        # A copy: the thread that lists the photos adds the lengths of shards meanwhile.
        manifest = replace(self.manifest, shard_rows=dict(self.manifest.shard_rows))
        content = json.dumps({"format": FORMAT} | asdict(manifest), indent=1)
        write_whole(self.path / MANIFEST, content.encode("ascii"))

    def _strangers(self) -> list[str]:
        names = sorted(each.name for each in self.path.iterdir())
        begun = MANIFEST in names
        return [name for name in names if name not in _OWN and not (begun and _PART.fullmatch(name))]

    def _discard(self, keep: set[str]) -> None:
        # The manifest goes last: a kill in between leaves a folder that still says what it is.
        for name in sorted((each.name for each in self.path.iterdir()), key=lambda name: name == MANIFEST):
            if name not in keep | {_LOCK} and (name in _OWN or _PART.fullmatch(name)):
                (self.path / name).unlink(missing_ok=True)


class PartsWriter:
    """Writes rows into parts; leaving the block early gives up the part at hand and no other."""

    def __init__(self, folder: ResultsFolder, *, rows: int, seconds: float) -> None:
        """Have parts finished by the first batch that fills `rows`, or ends `seconds` after the part began."""
        self._folder = folder
        self._most_rows = rows
        self._most_seconds = seconds
        self._part: _Part | None = None

    def __enter__(self) -> PartsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part is not None:
            self._part.discard()

    def write(self, rows: Iterable[tuple[int, Assessment]]) -> None:
        """Add a batch of rows, each with its number.

        Raises:
            OSError: the disk is full; finished parts are untouched.
        """
        if self._part is None:
            self._part = _Part(self._folder)
        for row, verdict in rows:
            self._part.write(row, verdict)
        if len(self._part) >= self._most_rows or self._part.age >= self._most_seconds:
            self.finish()

    def finish(self) -> None:
        """Finish the part at hand.

        Raises:
            OSError: the disk is full; finished parts are untouched.
        """
        if self._part is not None:
            part, self._part = self._part, None
            part.finish()


class _Part:
    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._path = folder.next_part()
        self._half = half_written(self._path)
        self._rows = RowSet()
        self._errors = 0
        self._began = time.monotonic()
        self._writer = ParquetWriter(self._half)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def age(self) -> float:
        return time.monotonic() - self._began

    def write(self, row: int, verdict: Assessment) -> None:
        self._writer.write(verdict)
        self._rows.add(row)
        self._errors += not verdict.ok

    def finish(self) -> None:
        try:
            self._writer.close()
            settle(self._half, self._path)
            self._folder.add(PartRecord(self._path.name, self._rows.ranges(), len(self._rows), self._errors))
        except OSError:
            self._path.unlink(missing_ok=True)
            self.discard()
            raise

    def discard(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()
        self._half.unlink(missing_ok=True)


def _load(path: Path) -> Manifest:
    try:
        values = json.loads(path.read_text(encoding="ascii"))
        if values.pop("format") != FORMAT:
            raise ValueError("written by another version of tmcr")
        parts = [PartRecord(**part) for part in values.pop("parts")]
        return Manifest(**values, parts=parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error}); --restart begins anew") from None


def locked(path: Path) -> BinaryIO:
    """Hold a lock that ends with the process, however that ends."""
    file = path.open("wb")
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"{path.parent}: another tmcr writes there; wait for it, or choose another place") from None
    except OSError:  # a network drive without locks
        return file
    return file
