"""What each step of the scorer costs one core, one step after the other, and what of the encoders' speed that leaves.

On a CPU whatever is done beside the encoders is taken from them, so their share of the sum is the most that
`end-to-end` can reach. What it stays behind this is the price of doing all of it at once: threads that wait for each
other and share caches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import alternated, samples
from tmcr.assessment import Assessment
from tmcr.assessor import load
from tmcr.hardware import torch_threads
from tmcr.images import PhotoBytes, content_hash, read_bytes
from tmcr.results import ParquetWriter
from tmcr.scoring.run import choose_batch_size
from tmcr.streaming import batched

ENCODERS = "encoders"


def measure(quick: bool) -> Iterator[Result]:
    count = 32 if quick else 256
    with tempfile.TemporaryDirectory() as name, torch_threads(1):
        assessor = load("starter", device="cpu", precision="fp32")
        size = choose_batch_size(assessor)
        paths = write_photos(Path(name) / "photos", count, SMALL)
        data = [PhotoBytes(str(path), read_bytes(path)) for path in paths]
        batches = list(batched([assessor.prepare(each) for each in data], size))
        features = [assessor.features(batch) for batch in batches]

        def assess() -> list[Assessment]:
            pairs = zip(batches, features, strict=True)
            return [verdict for batch, made in pairs for verdict in assessor.verdicts(batch, *made)]

        verdicts = assess()

        def write() -> None:
            writer = ParquetWriter(Path(name) / "results.parquet")
            for verdict in verdicts:
                writer.write(verdict)
            writer.close()

        seconds = alternated(
            {
                "reading and hashing": lambda: [content_hash(PhotoBytes("", read_bytes(path))) for path in paths],
                "decoding and resizing": lambda: [assessor.prepare(each) for each in data],
                ENCODERS: lambda: [assessor.features(batch) for batch in batches],
                "verdicts": assess,
                "rows": write,
            },
            rounds=2 if quick else 5,
            clock=time.process_time,
        )
    whole = [sum(values) for values in zip(*(each.values for each in seconds.values()), strict=True)]
    for step, taken in seconds.items():
        share = taken.over(samples(whole))
        yield result(
            step, taken.map(lambda value: 1000 * value / count), "ms", ratio=share, to="all steps", photos=count,
            threads=1,
            note=f"of one core for each photo, {SMALL[0]}×{SMALL[1]} JPEGs, {origin()}, batches of {size}"
            + ("; what end-to-end can reach at most" if step == ENCODERS else ""),
        )  # fmt: skip
