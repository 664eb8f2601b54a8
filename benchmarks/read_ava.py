"""Time and memory of reading AVA's labels at full size, rehearsed with the label lists that are public.

Rows beyond the lists at hand repeat their votes under ids of their own, until there are as many as AVA has.

python -m benchmarks.read_ava --labels ../shared/data/ava_labels
"""

from __future__ import annotations

import argparse
import csv
import itertools
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, help="folder with TANet's lists and the official test ids")
    parser.add_argument("--spec", help="read only this, in this process")
    options = parser.parse_args()
    if options.spec:
        start = time.process_time()
        manifest = load_manifest(options.spec)
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{manifest.description}: {seconds:.2f} s of processor time, {memory:.0f} MiB at most")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_rehearsal(options.labels, Path(folder))
        for split in ("official", "tanet"):  # each in a process of its own, for its memory
            spec = f"ava:{split}@{folder}"
            subprocess.run([sys.executable, "-m", "benchmarks.read_ava", "--spec", spec], check=True)


if __name__ == "__main__":
    main()
