"""Where results may go: found out before the work, so that no hour and nobody's file is lost."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tmcr.disk import half_written
from tmcr.errors import ConfigError

_SHOWN = 4  # suffixes that a message names


def check_file(path: Path, suffixes: Sequence[str], what: str, *, never: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Find out whether `what` can be written to a file of this name.

    Args:
        suffixes: those that such a file may have, lower case.
        never: what is read, and other outputs; they must not be written over.

    Raises:
        ConfigError: it cannot.
    """
    if path.suffix.lower() not in suffixes:
        verb = "are" if what.endswith("s") else "is"
        raise ConfigError(
            f"{path}: {what} {verb} written as {', '.join(suffixes[:_SHOWN])}; choose one of these suffixes"
        )
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if taken := next((name for name in never if same_place(path, name)), None):
        raise ConfigError(f"{path}: {what} would be written over {os.fspath(taken)}; choose another name")
    if (path.parent / "model.safetensors").exists():
        raise ConfigError(f"{path}: lies in a model folder, where each file counts; choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half_written(path).touch()
        half_written(path).unlink()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written there ({error.strerror}); choose another place") from None


def check_folder(path: Path) -> None:
    """Make a folder for results unless it is there; whatever else is in it stays.

    Raises:
        ConfigError: it cannot be made or written to, or is a model folder.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; name a folder")
    if (path / "model.safetensors").exists():
        raise ConfigError(f"{path}: is a model folder, where each file counts; choose another place")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written to ({error.strerror}); choose another place") from None


def check_run_folder(path: Path) -> None:
    """Make a folder for a training run, or find the run that is to be taken up.

    Raises:
        ConfigError: as `check_folder`, or other things than a run are in it.
    """
    check_folder(path)
    present = sorted(each.name for each in path.iterdir())
    if present and "preset" not in _settings(path / "config.json") and present != ["cache"]:
        raise ConfigError(f"{path}: holds {present[0]} and is no run folder; name a new or empty folder")


@contextmanager
def left_if_used(folder: Path) -> Iterator[None]:
    """Take a folder that is made within the block away again where the block fails and leaves it empty."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def check_model_folder(path: Path) -> None:
    """Find out whether a model folder may be written at a place, which it would replace as a whole.

    Raises:
        ConfigError: something else than a model is there, or the place cannot be written to.
    """
    if path.exists():
        own = path.is_dir() and (path / "model.safetensors").is_file() and "format" in _settings(path / "config.json")
        if not own and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path}: is there already and is no model folder; choose another place")
    half = half_written(path)
    if half.exists() and not (half / "model.safetensors").exists() and any(half.iterdir()):
        raise ConfigError(f"{half}: is in the way of a model that is to be written; move it, or choose another place")
    check_folder(path.parent)


def same_place(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two names are of one file, be it there or not."""
    if Path(one).name != Path(other).name:
        return False  # but for links, which are not followed
    return os.path.realpath(one) == os.path.realpath(other)


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
