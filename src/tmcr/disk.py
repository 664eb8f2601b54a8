"""Files that are there whole or not at all, also if the machine stops: written beside their place, then moved there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def half_written(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(path.name + ".part")


def write_whole(path: Path, content: str | bytes | memoryview | Callable[[Path], object]) -> None:
    """Write a file; `content` may be a function that fills the path it is given.

    Raises:
        OSError: the disk is full; a file that was there is untouched.
    """
    part = half_written(path)
    try:
        if callable(content):
            content(part)
        elif isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            part.write_bytes(content)
        settle(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def settle(part: Path, path: Path) -> None:
    """Give the file that was written as `part` its name, once it is on the disk, and have the disk keep the name.

    Raises:
        OSError: the disk is full, or `path` cannot be replaced.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    with contextlib.suppress(OSError):  # some systems and network drives cannot
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
