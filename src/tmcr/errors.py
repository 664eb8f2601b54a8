"""The errors a user can cause. Each message says what is wrong and what to do about it, in one line.

The command line prints the message alone and exits with code 2; anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import Literal

ImageReason = Literal[
    "missing",  # no such file, or it vanished
    "unreadable",  # permission denied, a folder, an I/O error
    "empty",  # zero bytes
    "not_an_image",  # no decoder recognises it
    "truncated",  # a decoder recognises it but the data ends early or is damaged
    "too_large",  # more pixels or bytes than the limits allow
    "too_small",  # a side shorter than the limits allow
    "crashed",  # its decoder ended, or had to end, the process it ran in
    "unsupported",  # a known format whose decoder is not installed (HEIC, RAW), or an odd array
]


class TmcrError(Exception):
    """Base of every error that a user can put right.

    Attributes:
        exit_code: what the command line makes of it.
    """

    exit_code = 2


class ImageError(TmcrError):
    """A photo that cannot be used.

    Attributes:
        reason: machine-readable cause, one of `ImageReason`.
        detail: one line for people.
        source: what was being read, as the user named it.
    """

    def __init__(self, reason: ImageReason, detail: str, source: str = "") -> None:
        self.reason: ImageReason = reason
        self.detail = detail
        self.source = source
        super().__init__(f"{source}: {detail}" if source else detail)


class DataError(TmcrError):
    """A data SPEC, ratings file or manifest that cannot be used."""


class LeakageError(DataError):
    """A photo of the evaluation part is also in a training part."""


class ModelError(TmcrError):
    """A model folder, encoder or weight file that cannot be had or does not fit."""


class ConfigError(TmcrError):
    """A training configuration or command-line value that cannot be used."""


class TagError(TmcrError):
    """A tag library that cannot be used, or that is not the one a model was trained with."""


class MetricError(TmcrError, ValueError):
    """A metric that is undefined on the values given (constant, too few, NaN)."""


class Stopped(TmcrError):
    """Ctrl-C, after the work at hand was put in order; the message says what is kept and how to go on."""

    exit_code = 130


def printable(text: str) -> str:
    """Text that a terminal shows as one line: control characters and undecodable bytes of file names escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def first_line(error: BaseException) -> str:
    """What an exception says, as one short line."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
