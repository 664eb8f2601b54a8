"""Small photos for a rehearsal: as many files as AVA has, each different, and the score can be seen in them.

A photo of 24 × 16 pixels is one of fifteen coloured patterns (its kind), a ramp of brightness from left to right as
steep as the photo's score is above the mean, and noise. The ramp is there so that a model that has learnt from
255,530 rows proves that no row got another one's label on the way.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, KINDS = 24, 16, 15
MEAN_SCORE, SCORE_STD = 5.4, 0.75  # of AVA
_BLOCK = 1000


def write_photos(paths: Sequence[Path], scores: NDArray[np.float64], *, seed: int = 0) -> None:
    """Write one JPEG for each score, unless the very same are there already."""
    folder = paths[0].parent
    written = folder.with_name("written.json")
    what = {"photos": len(paths), "seed": seed, "scores": float(scores.sum())}
    if written.exists() and json.loads(written.read_text()) == what:
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    patterns = np.stack([_pattern(rng) for _ in range(KINDS)])
    shares = rng.dirichlet(np.ones(KINDS))  # some kinds are common, some rare
    ramp = np.linspace(-1, 1, WIDTH)[None, None, :, None]
    steep = (scores - MEAN_SCORE) / SCORE_STD
    for start in range(0, len(paths), _BLOCK):
        part = steep[start : start + _BLOCK, None, None, None]
        noise = rng.normal(0, 18, (len(part), HEIGHT, WIDTH, 3))
        pixels = patterns[rng.choice(KINDS, len(part), p=shares)] + 20 * part * ramp + noise
        for path, each in zip(paths[start : start + _BLOCK], pixels.clip(0, 255).astype(np.uint8), strict=True):
            path.write_bytes(_jpeg(each, quality=80))
    written.write_text(json.dumps(what))


def contest_photos(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """JPEGs of the size that AVA's have on average: 640 × 480 pixels, about 125 kB."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        path.write_bytes(_jpeg((np.asarray(coarse) + rng.normal(0, 14, (480, 640, 3))).clip(0, 255), quality=87))
    return paths


def _pattern(rng: np.random.Generator) -> NDArray[np.float64]:
    coarse = Image.fromarray(rng.integers(70, 186, (3, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float64)


def _jpeg(pixels: NDArray[np.generic], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
