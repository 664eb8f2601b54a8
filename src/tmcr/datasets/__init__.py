"""Rated photo sets, each read into a `Manifest`."""

from __future__ import annotations

from pathlib import Path

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.oasis import load_oasis
from tmcr.datasets.ratings import load_ratings
from tmcr.errors import DataError

__all__ = ["Manifest", "load_manifest"]


def load_manifest(spec: str) -> Manifest:
    """Read the data a SPEC names: `oasis@FOLDER` or `csv:FILE[?option=value&…]`.

    Raises:
        DataError: an unknown SPEC, or the data cannot be used.
    """
    if spec.startswith("oasis@"):
        return load_oasis(Path(spec.removeprefix("oasis@")).expanduser())
    if spec.startswith("csv:"):
        return load_ratings(spec.removeprefix("csv:"))
    raise DataError(f"data SPEC {spec!r} is none of oasis@FOLDER, csv:FILE")
