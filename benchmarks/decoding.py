"""Decoding 12-megapixel JPEGs at a fraction of their size, against decoding them whole and resizing: time and effect.

Seconds are those of one core's work. The effect is on the scores of the bundled model, over the same photos.
What bounds the gain is measured too: libjpeg at its smallest scale, an eighth, still undoes the code of every pixel.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.models import scores
from benchmarks.photos import LARGE, origin, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import alternated, samples
from tmcr.assessor import load
from tmcr.images import decode
from tmcr.metrics import srcc
from tmcr.modelfolder import STARTER, load_model
from tmcr.preprocess import PreprocessSpec, official_image_text

BATCH = 16


def measure(quick: bool) -> Iterator[Result]:
    count = 4 if quick else 24
    small = load_model(STARTER).image_text.preprocess
    with tempfile.TemporaryDirectory() as name:
        photos = write_photos(Path(name), count, LARGE)
        megabytes = sum(path.stat().st_size for path in photos) / count / 1e6
        timed_ones = photos[: 2 if quick else 8]
        rounds = 2 if quick else 5
        note = f"{LARGE[0]}×{LARGE[1]} JPEGs of {megabytes:.1f} MB, file to pixel values"
        for what, spec in (("bundled model, 128 pixels", small), ("ViT-L/14, 336 pixels", official_image_text(336))):
            ours, plain = partial(_scaled, spec), partial(_resized, spec)
            yield timed(what, ours, plain, timed_ones, rounds=rounds, goal="≥ 4", note=note)
        bound = "the same files, not resized: no decoder that scales can gain more at 128 pixels"
        yield timed(
            "libjpeg at an eighth", _at_an_eighth, partial(_resized, small), timed_ones, rounds=rounds, note=bound
        )
        # Not before: a loaded model has the C library keep freed memory, and plain Pillow gain from it.
        assessor = load("starter", device="cpu")
        fast = [assessor.prepare(path) for path in photos]
        whole = [assessor.prepare(_whole(path)) for path in photos]
    change = np.array(scores(assessor, fast, BATCH)) - np.array(scores(assessor, whole, BATCH))
    agreement = srcc(np.array(scores(assessor, fast, BATCH)), np.array(scores(assessor, whole, BATCH)))
    note = f"{origin()} enlarged, with grain; against decoding whole"
    for kind, value, unit in (
        ("mean |Δscore|", float(np.abs(change).mean()), "points"),
        ("worst |Δscore|", float(np.abs(change).max()), "points"),
        ("SRCC of the scores", float(agreement), ""),
    ):
        yield result(kind, samples([value]), unit, photos=count, threads=1, note=note)


def timed(
    what: str,
    fast: Callable[[Path], object],
    plain: Callable[[Path], object],
    photos: list[Path],
    *,
    rounds: int,
    note: str,
    goal: str = "",
) -> Result:
    """Photos per second and core, and the ratio to plain Pillow."""
    ways = {name: partial(_each, way, photos) for name, way in (("fast", fast), ("plain", plain))}
    seconds = alternated(ways, rounds=rounds, clock=time.process_time)
    rates = {way: taken.rate(len(photos)) for way, taken in seconds.items()}
    return result(
        what, rates["fast"], "photos/s and core", ratio=rates["fast"].over(rates["plain"]),
        to="plain Pillow: all pixels decoded, then resized", goal=goal, photos=len(photos), threads=1, note=note,
    )  # fmt: skip


def _each(way: Callable[[Path], object], photos: list[Path]) -> None:
    for path in photos:
        way(path)


def _scaled(spec: PreprocessSpec, path: Path) -> None:
    spec(decode(path, target_side=spec.target_side))


def _resized(spec: PreprocessSpec, path: Path) -> None:
    spec(_whole(path))


def _at_an_eighth(path: Path) -> None:
    with Image.open(path) as file:
        file.draft("RGB", (1, 1))
        file.load()


def _whole(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")
