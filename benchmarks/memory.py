"""Peak memory of `tmcr score` over more and more photos: it should not depend on their number.

python -m benchmarks.memory --photos 1000 10000

Each count runs in a process of its own: photos in a tar shard, every one different, results in a folder of parts.
With --stand-in, encoders are replaced by a fixed random projection of the pixels. They hold the same memory after ten
photos as after a million, and without them a hundred thousand photos take minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photos import write_shard
from benchmarks.record import Result

BATCH = 16
SIDE = 32


@dataclass(frozen=True)
class Peak:
    """Photos scored, seconds, and the largest resident memory of the process in MiB."""

    photos: int
    seconds: float
    mib: float


def measure(quick: bool) -> Iterator[Result]:
    first: Peak | None = None
    for count in (200, 600, 1800) if quick else (1000, 10_000, 100_000):
        peak = in_a_process(count, model="starter", side=SIDE, batch_size=BATCH, stand_in=True)
        first = first or peak
        compared = peak is not first
        yield Result(
            f"{count:,} photos", value=peak.mib, unit="MiB", ratio=peak.mib / first.mib if compared else None,
            ratio_to=f"{first.photos:,} photos" if compared else "", goal="≤ 1.25" if compared else "",
            photos=count, device="cpu",
            note=f"peak of the whole process, {SIDE}-pixel JPEGs in a tar, stand-in encoders; {peak.seconds:.0f} s",
        )  # fmt: skip


def in_a_process(count: int, *, model: str, side: int, batch_size: int, stand_in: bool) -> Peak:
    """Score `count` photos in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "photos.tar"
        write_shard(shard, count, (side, side))
        command = [sys.executable, "-m", "benchmarks.memory", "--shard", str(shard), "--model", model]
        command += ["--batch-size", str(batch_size), *(["--stand-in"] if stand_in else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Peak(**json.loads(done.stdout))


def score_shard(shard: Path, model: str, batch_size: int, stand_in: bool) -> Peak:
    """Score a shard in this process."""
    from benchmarks.models import with_random_projection
    from tmcr.assessor import load
    from tmcr.scoring.run import Plan, open_run

    assessor = load(model, device="cpu")
    if stand_in:
        assessor = with_random_projection(assessor)
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as out,
        open_run(assessor, Plan([str(shard)], Path(out) / "results", batch_size=batch_size)) as run,
    ):
        run.complete()
        count = run.count
    return Peak(count, time.perf_counter() - began, peak_mib())


def peak_mib() -> float:
    """Largest resident memory of this process so far, without that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--stand-in", action="store_true", help="replace the encoders by a random projection")
    parser.add_argument("--shard", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.shard is not None:
        print(json.dumps(vars(score_shard(options.shard, options.model, options.batch_size, options.stand_in))))
        return
    print(f"{options.model}, batches of {options.batch_size}, {options.side}-pixel JPEGs, {platform.platform()}")
    for count in options.photos:
        peak = in_a_process(
            count, model=options.model, side=options.side, batch_size=options.batch_size, stand_in=options.stand_in
        )
        print(f"{peak.photos:9,} photos  {peak.seconds:8.1f} s  peak {peak.mib:7.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
