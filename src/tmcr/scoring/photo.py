"""One photo of a run: what it is called, where it is, and its bytes when they are asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tmcr.errors import ConfigError, ImageError, first_line
from tmcr.images import ImageLimits, PhotoBytes, read_bytes

_ATTEMPTS = 3  # a server that stumbles is asked again
_PAUSE = 0.5  # seconds before the second attempt; each further pause is twice as long


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to score.

    Attributes:
        row: its place among all photos of the run, from 0; the same in every run over the same sources.
        name: what it is called in results.
        where: the path or URL to read it from.
        data: its bytes, where a shard gave them already.
        error: why there is no photo at this place.
    """

    row: int
    name: str
    where: str = ""
    data: bytes | None = field(default=None, repr=False)
    error: ImageError | None = None

    def read(self, limits: ImageLimits) -> PhotoBytes:
        """The photo's bytes.

        Raises:
            ImageError: they cannot be had.
        """
        if self.error is not None:
            raise self.error
        if self.data is not None:
            return PhotoBytes(self.name, read_bytes(PhotoBytes(self.name, self.data), limits))
        data = _download(self.where, limits) if is_url(self.where) else read_bytes(self.where, limits)
        return PhotoBytes(self.name, data)


def is_url(name: str) -> bool:
    """Whether fsspec is to read this name (`s3://…`, `memory://…`) instead of the file system."""
    return "://" in name


@cache
def file_system(scheme: str) -> Any:
    """fsspec's file system for a URL's scheme.

    Raises:
        ConfigError: no plug-in for it is installed.
    """
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{scheme}:// cannot be read ({str(error).splitlines()[0]}); install fsspec's plug-in for it "
            "(http: pip install 'tmcr[remote]', s3: pip install s3fs)"
        ) from None


def open_url(url: str) -> Any:
    """A binary file object over a URL, to be closed by the caller.

    Raises:
        FileNotFoundError: it is not there.
        OSError: or what else the plug-in raises.
    """
    try:
        return file_system(scheme_of(url)).open(url, "rb")
    except FileNotFoundError as error:
        # fsspec's web reader says so of every failure; the cause tells a missing page from a server that is down.
        cause = error.__cause__
        if cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410):
            raise
        raise OSError(first_line(cause)) from None


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def _download(url: str, limits: ImageLimits) -> bytes:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            with open_url(url) as file:
                data: bytes = file.read(limits.max_bytes + 1)
        except FileNotFoundError:
            raise ImageError("missing", "no such file", url) from None
        except (PermissionError, IsADirectoryError, ConfigError) as error:
            raise ImageError("unreadable", f"cannot be read ({first_line(error)})", url) from None
        except Exception as error:  # each plug-in has exceptions of its own
            failure = error
        else:
            return read_bytes(PhotoBytes(url, data), limits)
    raise ImageError("unreadable", f"cannot be read after {_ATTEMPTS} attempts ({first_line(failure)})", url)
