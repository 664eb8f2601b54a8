"""Peak memory of `tmcr score` over more and more photos: it should not depend on their number.

python -m benchmarks.memory --photos 1000 10000

Each count runs in a process of its own: photos in a tar shard, every one different, results in a folder of parts.
"""

from __future__ import annotations

import argparse
import io
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def write_shard(path: Path, count: int, side: int, seed: int) -> None:
    """A tar of `count` JPEGs of noise, `side` pixels wide."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = buffer.tell()
            archive.addfile(member, io.BytesIO(buffer.getvalue()))


def measure(shard: Path, model: str, batch_size: int) -> None:
    """Score a shard in this process and print its count, seconds and peak memory in MiB."""
    from tmcr.assessor import load
    from tmcr.scoring.run import Plan, open_run

    assessor = load(model, device="cpu")
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as out,
        open_run(assessor, Plan([str(shard)], Path(out) / "results", batch_size=batch_size)) as run,
    ):
        run.complete()
        count = run.count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"{count:9,} photos  {time.perf_counter() - began:8.1f} s  peak {peak:7.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.shard is not None:
        measure(options.shard, options.model, options.batch_size)
        return
    print(f"{options.model}, batches of {options.batch_size}, {options.side}-pixel JPEGs, {platform.platform()}")
    for count in options.photos:
        with tempfile.TemporaryDirectory() as folder:
            shard = Path(folder) / "photos.tar"
            write_shard(shard, count, options.side, options.seed)
            again = [sys.executable, "-m", "benchmarks.memory", "--shard", str(shard)]
            again += ["--model", options.model, "--batch-size", str(options.batch_size)]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
