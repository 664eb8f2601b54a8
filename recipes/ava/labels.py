"""AVA's labels at full size where the votes of a tenth of the photos are at hand.

The rule: TANet's validation and test lists stand first, as published. Every further row has the votes, tags and
challenge of one of theirs, drawn with replacement, under an id that is not theirs: the official test ids whose votes
are not known, then numbers beyond AVA's own. Fewer photos than AVA has: the first part of each list, in proportion.
Without the lists all votes are made up: 210 a photo, from rounded normal distributions.
"""

from __future__ import annotations

import csv
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PHOTOS, OFFICIAL_TEST = 255_530, 19_930
LISTS = {"test": 12_776, "val": 12_775}  # TANet's
FIRST_ID = 2_000_000  # beyond AVA's own
HEADER = ["image_id", *(f"score{number}" for number in range(2, 12)), "tag1", "tag2", "tag3"]
NAMES = ("tags.txt", "challenges.txt")


def write_labels(labels: Path | None, folder: Path, photos: int, *, seed: int = 0) -> str:
    """Write AVA.txt with `photos` rows and the lists of both splits; returns one line that says what is real in them.

    Args:
        labels: folder with TANet's lists, the official test ids, `tags.txt` and `challenges.txt`; None: made up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    published = {part: _published(labels, part) if labels else _made_up(part, rng) for part in LISTS}
    listed = {part: rows[: max(2, round(photos * len(rows) / PHOTOS))] for part, rows in published.items()}
    for part, rows in listed.items():
        with (folder / f"tanet_{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])

    pool = [row for rows in published.values() for row in rows]
    first = [row for rows in listed.values() for row in rows]
    taken = {row[0] for row in pool}
    official = (labels / "official_test_ids.txt").read_text().split() if labels else []
    tested = [photo for photo in official if photo not in taken]
    # 70 of the official ids have no votes in AVA: they are left out here, too.
    wanted = round((OFFICIAL_TEST - (len(official) - len(tested))) * photos / PHOTOS) if labels else 0
    more = _further(tested[:wanted], pool, rng)
    with (folder / "AVA.txt").open("w") as out:
        for number, row in enumerate(itertools.islice(itertools.chain(first, more), photos), 1):
            out.write(" ".join([str(number), *row]) + "\n")
    (folder / "official_test_ids.txt").write_text("\n".join(official or [row[0] for row in listed["test"]]) + "\n")
    for name in NAMES if labels else ():
        shutil.copyfile(labels / name, folder / name)
    if not labels:
        return f"{photos:,} rows with made-up votes"
    drawn = f"{photos - len(first):,} more with votes drawn from {len(pool):,} real ones"
    return f"{len(first):,} real rows of TANet's lists, {drawn}"


def _published(labels: Path, part: str) -> list[list[str]]:
    """Rows of a list: id, ten counts, two tags, challenge."""
    with (labels / f"tanet_{part}.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row and row[0].isdigit()]


def _made_up(part: str, rng: np.random.Generator) -> list[list[str]]:
    scores = np.arange(1, 11)
    first = 1 + sum(LISTS[name] for name in itertools.takewhile(lambda name: name != part, LISTS))
    rows = []
    for number, mean in enumerate(rng.normal(5.4, 0.75, LISTS[part]), first):
        shares = np.exp(-(((scores - mean) / 1.4) ** 2) / 2)
        votes = rng.multinomial(210, shares / shares.sum())
        rows.append([str(number), *map(str, votes), "0", "0", str(rng.integers(1, 1400))])
    return rows


def _further(ids: list[str], pool: list[list[str]], rng: np.random.Generator) -> Iterator[list[str]]:
    """Endless rows: other ids, drawn votes."""
    for photo in itertools.chain(ids, map(str, itertools.count(FIRST_ID))):
        yield [photo, *pool[int(rng.integers(len(pool)))][1:]]
