"""Rated photo sets, each read into a `Manifest`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tmcr.datasets.aadb import load_aadb
from tmcr.datasets.ava import load_ava
from tmcr.datasets.eva import load_eva
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.oasis import load_oasis
from tmcr.datasets.para import load_para
from tmcr.datasets.ratings import load_ratings
from tmcr.datasets.selection import leave_out, test_on
from tmcr.datasets.tad66k import load_tad66k
from tmcr.errors import DataError

__all__ = ["Manifest", "load_manifest"]

# Set → its reader, whether it has named splits, whether its distributions are derived from means.
_SETS: dict[str, tuple[Callable[..., Manifest], bool, bool]] = {
    "ava": (load_ava, True, False),
    "aadb": (load_aadb, False, True),
    "para": (load_para, False, False),
    "tad66k": (load_tad66k, True, True),
    "eva": (load_eva, False, False),
    "oasis": (load_oasis, False, False),
}
SPECS = (
    "ava:official@FOLDER, ava:tanet@FOLDER, aadb@FOLDER, para@FOLDER, tad66k:merge@FOLDER, eva@FOLDER, oasis@FOLDER, "
    "csv:FILE"
)


def load_manifest(spec: str) -> Manifest:
    """Read the data a SPEC names: `SET[:SPLIT]@FOLDER[?option=value&…]` or `csv:FILE[?option=value&…]`.

    Options of the sets (those of csv are in `load_ratings`): images (folder with the photos), subset (list of test
    photos: all others leave the test part), exclude (list of photos to leave out), std (points of 1..10, of the
    distributions derived where a set has only means). Lists are looked for under FOLDER, then where the command runs.

    Raises:
        DataError: an unknown SPEC, or the data cannot be used.
    """
    if spec.startswith("csv:"):
        return load_ratings(spec.removeprefix("csv:"))
    head, at, rest = spec.partition("@")
    name, _, split = head.partition(":")
    if name not in _SETS or not at:
        raise DataError(f"data SPEC {spec!r} is none of {SPECS}")
    load, has_splits, has_means = _SETS[name]
    place, _, query = rest.partition("?")
    folder = Path(place).expanduser()
    options = dict(parse_qsl(query, keep_blank_values=True))
    allowed = ["images", "subset", "exclude", *(["std"] if has_means else [])]
    if unknown := sorted(set(options) - set(allowed)):
        raise DataError(f"data SPEC: no option {unknown[0]!r} for {name}; there are {', '.join(allowed)}")
    arguments: dict[str, Any] = {}
    if has_splits:
        arguments["split"] = split
    elif split:
        raise DataError(f"{name} has no named splits: write {name}@FOLDER, not {head}@…")
    if "images" in options:
        arguments["photos"] = _place(folder, options["images"])
    if "std" in options:
        arguments["std"] = _positive(options["std"])
    manifest = load(folder, **arguments)
    if "exclude" in options:
        manifest = leave_out(manifest, _place(folder, options["exclude"]))
    if "subset" in options:
        manifest = test_on(manifest, _place(folder, options["subset"]))
    return manifest


def _place(folder: Path, name: str) -> Path:
    inside = folder / Path(name).expanduser()
    return inside if inside.exists() else Path(name).expanduser()


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10:
        raise DataError(f"std={text}: write the spread of ratings in points of 1..10, e.g. std=1.4")
    return value
