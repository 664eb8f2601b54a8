"""The whole scorer against its encoders alone: what decoding, tags, reasons and writing cost beside them.

`tmcr score` over a folder of photos into a folder of results, divided by both encoders over the same photos, decoded
before; the same batches, the same threads, in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.models import device_name, encode, large_assessor, prepared_photos
from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import alternated
from tmcr.assessor import Assessor, load
from tmcr.scoring.run import Plan, choose_batch_size, open_run


def measure(quick: bool) -> Iterator[Result]:
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = 48 if quick else 1024
        write_photos(folder / "bundled", count, SMALL)
        yield compared(load("starter"), folder / "bundled", count, rounds=2 if quick else 5, goal="≥ 0.85")
        batch = None if gpu else 2
        count = (512 if quick else 2048) if gpu else 4 if quick else 8
        write_photos(folder / "large", count, SMALL, different=256)
        assessor = large_assessor("auto")
        yield compared(assessor, folder / "large", count, rounds=1 if quick else 3, goal="≥ 0.95", batch_size=batch)


def compared(
    assessor: Assessor, photos: Path, count: int, *, rounds: int, goal: str, batch_size: int | None = None
) -> Result:
    """Photos per second of the whole, and its ratio to those of the encoders alone."""
    batch = batch_size or choose_batch_size(assessor)
    prepared = prepared_photos(assessor, sorted(photos.iterdir()))
    ways = {
        "whole": lambda: score_folder(assessor, photos, batch_size=batch),
        "encoders": lambda: encode(assessor, prepared, batch),
    }
    seconds = alternated(ways, rounds=rounds)
    whole, alone = seconds["whole"].rate(count), seconds["encoders"].rate(count)
    return result(
        assessor.name, whole, "photos/s", ratio=whole.over(alone), to="encoders alone", goal=goal,
        photos=count, threads=torch.get_num_threads(), device=device_name(assessor),
        note=f"{SMALL[0]}×{SMALL[1]} JPEGs, {origin()}; {assessor.backend.arithmetic}; "
        f"encoders alone {alone.median:.3g} photos/s, batches of {batch}",
    )  # fmt: skip


def score_folder(assessor: Assessor, photos: Path, *, batch_size: int | None = None) -> None:
    """`tmcr score PHOTOS --out RESULTS` with a model that is loaded already."""
    with tempfile.TemporaryDirectory() as out:
        plan = Plan([str(photos)], Path(out) / "results", batch_size=batch_size)
        with open_run(assessor, plan) as run:
            run.complete()
            if run.errors or not run.finished:
                raise AssertionError(f"{run.errors} photos could not be read")
