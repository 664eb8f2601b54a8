"""What a kill costs: a run that is killed half-way and taken up again, against one that nobody disturbs.

Time counts from where the model is loaded, so that the second start-up is told apart. Parts are small here; a user's
are finished every 60 seconds, and a kill costs what was in the part at hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, result
from benchmarks.timing import Samples, samples

PART_ROWS = 64


def measure(quick: bool) -> Iterator[Result]:
    from tmcr.results import read_results

    count = 128 if quick else 768
    taken: dict[str, list[float]] = {"undisturbed": [], "resumed": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", count, SMALL, different=256)
        for number in range(1 if quick else 3):
            results = {way: folder / f"{way}-{number}" for way in taken}
            for way in taken if number % 2 == 0 else reversed(list(taken)):
                killed = _seconds(folder / "photos", results[way], kill_at=count // 2) if way == "resumed" else 0.0
                taken[way].append(killed + _seconds(folder / "photos", results[way]))
            rows = [[(row.photo, row.score) for row in read_results(results[way])] for way in taken]
            if rows[0] != rows[1]:
                raise AssertionError("a run that was taken up again has other rows than an undisturbed one")
    seconds = {way: samples(each) for way, each in taken.items()}
    yield result(
        "killed half-way and taken up", seconds["resumed"], "s", ratio=_over(seconds), to="undisturbed run",
        goal="≤ 1.2", photos=count,
        note=f"{SMALL[0]}×{SMALL[1]} JPEGs, {origin()}, bundled model, parts of {PART_ROWS} rows, without the second "
        "loading of the model; rows are equal",
    )  # fmt: skip


def _over(seconds: dict[str, Samples]) -> Samples:
    return seconds["resumed"].over(seconds["undisturbed"])


def _seconds(photos: Path, out: Path, kill_at: int | None = None) -> float:
    """Seconds from where the model is loaded to the end of the run, or to its kill after so many rows."""
    command = [sys.executable, "-m", "benchmarks.resume", str(photos), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None:
            raise AssertionError("a child without a pipe")
        began = 0.0
        for line in child.stdout:
            if line == "loaded\n":
                began = time.perf_counter()
            elif kill_at is not None and int(line) >= kill_at:
                child.kill()
                break
        child.wait()
        ended = time.perf_counter()
    if kill_at is None and child.returncode:
        raise RuntimeError(f"scoring ended with exit status {child.returncode}")
    return ended - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a folder of photos, telling how many are done.")
    parser.add_argument("photos")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    from tmcr.assessor import load
    from tmcr.scoring.run import Plan, open_run

    assessor = load("starter", device="cpu")
    print("loaded", flush=True)
    with open_run(assessor, Plan([options.photos], options.out, part_rows=PART_ROWS)) as run:
        done = run.earlier

        def scored(more: int) -> None:
            nonlocal done
            done += more
            print(done, flush=True)

        run.complete(scored)


if __name__ == "__main__":
    main()
