"""Time and memory of the tag builder's clean and count steps on generated comments.

python -m benchmarks.tag_builder --comments 1000000 --workers 2

The comments are sentences of random words: function words, words of the shipped tags, and a long tail of 200,000
made-up words as misspellings give it, all drawn by Zipf's law; about 40 words each, as on photo forums.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import Result
from tmcr.tags import TagLibraries
from tmcr.tags.building.clean import clean
from tmcr.tags.building.count import count_phrases, write_counts
from tmcr.tags.building.propose import propose
from tmcr.tags.building.table import read_table
from tmcr.tags.comments import Reading, read_comments
from tmcr.tags.words import lexicon


def generated(count: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnoprstuw"))
    made_up = ["".join(rng.choice(letters, size)) for size in rng.integers(4, 10, 200_000)]
    content = sorted({word for tag in TagLibraries.default().names for word in tag.split()})
    function = sorted(lexicon().words["function"] - lexicon().words["foreign"])
    rng.shuffle(content)
    rng.shuffle(function)
    words = np.array([*function[:60], *_interleaved(function[60:], content), *made_up], dtype=object)
    rank = np.arange(1, len(words) + 1)
    share = 1 / (rank + 2.7)
    share /= share.sum()
    for _ in range(count // 1000 + 1):
        sizes = rng.poisson(40, 1000).clip(1)
        drawn = rng.choice(len(words), sizes.sum(), p=share)
        ends = np.cumsum(sizes)
        for start, end in zip(ends - sizes, ends, strict=True):
            yield _sentences([words[i] for i in drawn[start:end]])


def _interleaved(first: list[str], second: list[str]) -> list[str]:
    paired = [word for pair in zip(first, second, strict=False) for word in pair]
    return paired + first[len(second) :] + second[len(first) :]


def _sentences(words: list[str]) -> str:
    return " ".join(" ".join(words[i : i + 9]).capitalize() + "." for i in range(0, len(words), 9))


def measure(quick: bool) -> Iterator[Result]:
    count, workers = (5_000, 2) if quick else (100_000, 2)
    steps = list(build(count, workers=workers, seed=0))
    seconds = sum(step.seconds for step in steps)
    own, child = peak_mib()
    yield Result(
        "clean, count, propose", value=count / seconds, unit="comments/s", photos=count, threads=workers,
        device="cpu",
        note="made-up comments of 40 words; " + ", ".join(f"{each.name} {each.seconds:.1f} s" for each in steps)
        + f"; peak {own:.0f} MiB, largest worker {child:.0f} MiB",
    )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step of the builder: how long it took, and what it says of itself."""

    name: str
    seconds: float
    told: str


def build(count: int, *, workers: int, seed: int) -> Iterator[Step]:
    """Clean and count `count` generated comments and propose tags, step by step; writing them is not timed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        comments = folder / "comments.txt"
        with comments.open("w", encoding="utf-8") as file:
            for _, text in zip(range(count), generated(count, seed), strict=False):
                file.write(text + "\n")

        started = time.monotonic()
        reading = Reading()
        done = clean(read_comments([comments], reading=reading), folder / "clean.txt", workers=workers)
        yield Step("clean", time.monotonic() - started, f"{'; '.join(reading.lines())}; {done.repeated:,} repeated")

        started = time.monotonic()
        with (folder / "clean.txt").open(encoding="utf-8") as file:
            counter, words = count_phrases(file, workers=workers)
        summary = write_counts(counter, words, folder / "counts.tsv", least=20)
        yield Step("count", time.monotonic() - started, f"{summary}, {len(counter):,} in memory at the end")

        started = time.monotonic()
        counts = {row["phrase"]: int(row["count"]) for row in read_table(folder / "counts.tsv", ("phrase", "count"))}
        found = propose(counts, words, least=60)
        yield Step("propose", time.monotonic() - started, f"{len(found):,} candidates")


def peak_mib() -> tuple[float, float]:
    """Largest resident memory so far: of this process, and of its largest finished child."""
    own, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own, child


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comments", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.comments:,} comments, {options.workers} workers")
    for step in build(options.comments, workers=options.workers, seed=options.seed):
        print(f"{step.name:8s} {step.seconds:6.1f} s  {step.told}", flush=True)
    own, child = peak_mib()
    print(f"peak memory {own:.0f} MiB, largest worker {child:.0f} MiB")


if __name__ == "__main__":
    main()
