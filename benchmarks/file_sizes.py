"""The bundled model over files as cameras write them and over files as the web has them, end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.end_to_end import score_folder
from benchmarks.models import device_name
from benchmarks.photos import LARGE, SMALL, origin, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import alternated
from tmcr.assessor import load


def measure(quick: bool) -> Iterator[Result]:
    count, different = (16, 2) if quick else (256, 12)
    assessor = load("starter")
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large", Path(name) / "small"
        files = write_photos(large, count, LARGE, different=different)
        megabytes = sum(path.stat().st_size for path in files) / len(files) / 1e6
        write_photos(small, count, SMALL)
        ways = {
            "large": lambda: score_folder(assessor, large),
            "small": lambda: score_folder(assessor, small),
        }
        seconds = alternated(ways, rounds=2 if quick else 5)
    rates = {way: taken.rate(count) for way, taken in seconds.items()}
    threads, device = torch.get_num_threads(), device_name(assessor)
    yield result(
        "500 pixels", rates["small"], "photos/s", photos=count, threads=threads, device=device,
        note=f"{SMALL[0]}×{SMALL[1]}, {origin()}, end to end, bundled model",
    )  # fmt: skip
    yield result(
        "12 megapixels", rates["large"], "photos/s", ratio=rates["large"].over(rates["small"]),
        to="500-pixel files", photos=count, threads=threads, device=device,
        note=f"{LARGE[0]}×{LARGE[1]}, {megabytes:.1f} MB each, {origin()} enlarged, with grain; bundled model",
    )  # fmt: skip
