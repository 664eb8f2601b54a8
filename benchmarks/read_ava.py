"""Time and memory of reading AVA's labels at full size, rehearsed with the label lists that are public.

Rows beyond the lists at hand repeat their votes under ids of their own, until there are as many as AVA has.

python -m benchmarks.read_ava --labels ../shared/data/ava_labels
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import peak_mib
from benchmarks.photos import REPOSITORY
from benchmarks.record import Result, Skipped
from tmcr.datasets import load_manifest

ROWS, OFFICIAL_TEST = 255_530, 19_930
FIRST_ID = 2_000_000  # beyond AVA's own
COPIED = ("tanet_test.csv", "tanet_val.csv", "official_test_ids.txt", "tags.txt", "challenges.txt")


def write_rehearsal(labels: Path, folder: Path) -> None:
    """AVA.txt with as many rows, and as many official test photos, as AVA has, and the lists beside it."""
    listed: list[list[str]] = []
    for part in ("test", "val"):
        with (labels / f"tanet_{part}.csv").open(newline="") as file:
            listed += [row for row in csv.reader(file) if row and row[0].isdigit()]
    known = {row[0] for row in listed}
    official = (labels / "official_test_ids.txt").read_text().split()
    missing = [photo for photo in official if photo not in known]
    wanted = OFFICIAL_TEST - sum(photo in known for photo in official)

    def ids() -> Iterator[str]:
        yield from missing[:wanted]
        yield from map(str, itertools.count(FIRST_ID))

    more = ([photo, *row[1:]] for photo, row in zip(ids(), itertools.cycle(listed), strict=False))
    with (folder / "AVA.txt").open("w") as out:
        for number, row in enumerate(itertools.islice(itertools.chain(listed, more), ROWS), 1):
            out.write(" ".join([str(number), *row]) + "\n")
    for name in COPIED:
        shutil.copyfile(labels / name, folder / name)


def measure(quick: bool) -> Iterator[Result]:
    labels = Path(os.environ.get("TMCR_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "ava_labels"
    if missing := [name for name in COPIED if not (labels / name).is_file()]:
        raise Skipped(f"{labels / missing[0]} is missing")
    with tempfile.TemporaryDirectory() as folder:
        write_rehearsal(labels, Path(folder))
        for split in ("official",) if quick else ("official", "tanet"):
            took = read_in_a_process(f"ava:{split}@{folder}")
            yield Result(
                f"{split} split", value=took.seconds, unit="s", photos=took.photos, device="cpu",
                note=f"processor time, labels without photos; peak {took.mib:.0f} MiB",
            )  # fmt: skip


@dataclass(frozen=True)
class Took:
    """What reading a set of labels took: processor time, and the most memory that the process ever held."""

    photos: int
    seconds: float
    mib: float
    description: str


def read_in_a_process(spec: str) -> Took:
    """Read the labels that a data SPEC names in a process of its own, for its memory."""
    command = [sys.executable, "-m", "benchmarks.read_ava", "--spec", spec]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Took(**json.loads(done.stdout))


def read(spec: str) -> Took:
    start = time.process_time()
    manifest = load_manifest(spec)
    return Took(len(manifest), time.process_time() - start, peak_mib(), manifest.description)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="folder with TANet's lists and the official test ids")
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.spec:
        print(json.dumps(vars(read(options.spec))))
        return
    if options.labels is None:
        parser.error("--labels names the folder with TANet's lists and the official test ids")
    with tempfile.TemporaryDirectory() as folder:
        write_rehearsal(options.labels, Path(folder))
        for split in ("official", "tanet"):
            took = read_in_a_process(f"ava:{split}@{folder}")
            print(f"{took.description}: {took.seconds:.2f} s of processor time, {took.mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
