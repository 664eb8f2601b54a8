"""EVA (Kang et al. 2020): 4,070 photos of AVA, each rated anew 0..10 by 30 people or more.

Expected under FOLDER (the first of each that is there):

- `votes_filtered.csv`, one vote a line, `=` between columns: in `data/`, `eva-dataset-master/data/`, or FOLDER itself.
- kinds of photos, where wanted: `image_content_category.csv` beside it.
- photos `<image id>.jpg`: `images/EVA_together/`, `EVA_together/`, `images/`, also under `eva-dataset-master/`.

The ids are AVA's: EVA is never an independent test of a model trained on AVA. It has no published split; a fifth of
the photos, the same ones always, is for testing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import split_by_group
from tmcr.datasets.tables import find_file, find_photos_folder, numbers, read_table, require_columns
from tmcr.errors import DataError

SCORES = np.arange(0.0, 11.0)
TEST_SHARE = 0.2
_ROOTS = ("", "eva-dataset-master/", "eva-dataset/")
PHOTO_FOLDERS = tuple(f"{root}{name}" for root in _ROOTS for name in ("images/EVA_together", "EVA_together", "images"))
ASPECTS = ("difficulty", "visual", "composition", "quality", "semantic")  # 1..4 each
KINDS = {
    "1": "animals", "2": "architecture and cities", "3": "people", "4": "nature", "5": "still life", "6": "other",
}  # fmt: skip
_SOURCE = "github.com/kang-gnak/eva-dataset has it"


def load_eva(folder: Path, photos: Path | None = None) -> Manifest:
    """Read EVA; the eleven scores 0..10 are stretched to 1..10.

    Raises:
        DataError: a file is missing or is not as published.
    """
    places = [f"{root}{name}" for root in _ROOTS for name in ("data/votes_filtered.csv", "votes_filtered.csv")]
    path = find_file(folder, places, "votes_filtered.csv", _SOURCE)
    columns = read_table(path, "=")
    require_columns(columns, ("image_id", "score"), path)
    names, photo = np.unique(np.array([str(value) for value in columns["image_id"]]), return_inverse=True)
    scores = numbers(columns["score"], "score", path)
    wrong = np.flatnonzero((scores < 0) | (scores > 10) | (scores != np.rint(scores)))
    if len(wrong):
        raise DataError(f"{path}, row {int(wrong[0]) + 2}: the score {scores[wrong[0]]:g} is none of 0, 1, …, 10")
    counts = np.zeros((len(names), len(SCORES)))
    np.add.at(counts, (photo, scores.astype(np.int64)), 1)
    totals = counts.sum(1)
    attributes: dict[str, NDArray[Any]] = {}
    for aspect in ASPECTS:
        if aspect in columns:
            values = numbers(columns[aspect], aspect, path)
            attributes[aspect] = np.bincount(photo, weights=values, minlength=len(names)) / totals
    kinds = path.with_name("image_content_category.csv")
    if kinds.is_file():
        first, second, *_ = read_table(kinds).values()
        of = {str(name): str(kind) for name, kind in zip(first, second, strict=True)}
        attributes["kind"] = np.array([KINDS.get(of.get(name, ""), "") for name in names.tolist()], dtype=object)
    ids = tuple(names.tolist())
    images = photos or find_photos_folder(folder, PHOTO_FOLDERS)
    test = split_by_group(ids, TEST_SHARE, seed=0)
    return Manifest(
        ids=ids,
        paths=tuple(images / f"{name}.jpg" for name in ids),
        distributions=counts / totals[:, None],
        score_values=1 + 9 * SCORES / 10,
        splits=tuple("test" if each else "train" for each in test),
        votes=totals.astype(np.int64),
        attributes=attributes,
        source="eva",
        namespace="ava",
        description=f"EVA: {len(ids):,} photos of AVA, 0..10, votes, a fifth for testing by our seed 0",
    )
