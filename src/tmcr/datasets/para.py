"""PARA (Yang et al. 2022): 31,220 photos rated 1..5 in half points by about 25 people each, with attributes.

Expected under FOLDER (the first of each that is there):

- `PARA-GiaaTrain.csv` and `PARA-GiaaTest.csv`: in `annotation/`, `PARA/annotation/` or FOLDER itself; columns are read
  by name: `sessionId`, `imageName`, `aestheticScore_1.0` … `aestheticScore_5.0`, `semantic`, `…_mean`.
- photos `<sessionId>/<imageName>`: `imgs/`, `PARA/imgs/`.

The licence allows research only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.tables import (
    Column,
    find_file,
    find_photos_folder,
    numbers,
    read_table,
    refuse_repeated,
    refuse_unrated,
    require_columns,
)

SCORES = np.arange(1.0, 5.01, 0.5)
PHOTO_FOLDERS = ("imgs", "PARA/imgs")
_PLACES = ("annotation/", "PARA/annotation/", "")
_VOTES = tuple(f"aestheticScore_{score:.1f}" for score in SCORES)
_SOURCE = "cv-datasets.institutecv.com hands it out"


def load_para(folder: Path, photos: Path | None = None) -> Manifest:
    """Read PARA; the nine half points 1..5 are stretched to 1..10.

    Raises:
        DataError: a file is missing or is not as published.
    """
    tables = {part: _read(folder, f"PARA-Giaa{part.capitalize()}.csv") for part in ("train", "test")}
    counts = np.concatenate([votes for _, _, votes in tables.values()])
    ids = tuple(photo for names, _, _ in tables.values() for photo in names)
    refuse_repeated(ids, folder)
    images = photos or find_photos_folder(folder, PHOTO_FOLDERS)
    columns = [columns for _, columns, _ in tables.values()]
    attributes: dict[str, NDArray[Any]] = {}
    for name in columns[0]:
        values = [value for each in columns for value in each.get(name, [None] * len(each["imageName"]))]
        if name == "semantic":
            attributes[name] = np.array([str(value) for value in values], dtype=object)
        elif name.endswith("_mean") and name != "aestheticScore_mean":
            attributes[name.removesuffix("_mean")] = np.array(values, dtype=np.float64)
    parts = ", ".join(f"{len(names):,} {part}" for part, (names, _, _) in tables.items())
    totals = counts.sum(1)
    return Manifest(
        ids=ids,
        paths=tuple(images / photo for photo in ids),
        distributions=counts / totals[:, None],
        score_values=1 + 9 * (SCORES - 1) / 4,
        splits=tuple(part for part, (names, _, _) in tables.items() for _ in names),
        votes=np.rint(totals).astype(np.int64) if totals.min() > 1.5 else None,
        attributes=attributes,
        source="para",
        namespace="para",
        description=f"PARA: {len(ids):,} photos ({parts}), 1..5, votes",
    )


def _read(folder: Path, name: str) -> tuple[list[str], dict[str, Column], NDArray[np.float64]]:
    """Ids, columns and votes (N, 9) of one of the two files."""
    path = find_file(folder, [f"{place}{name}" for place in _PLACES], name, _SOURCE)
    columns = read_table(path)
    require_columns(columns, ("sessionId", "imageName", *_VOTES), path)
    votes = np.stack([numbers(columns[column], column, path) for column in _VOTES], 1)
    refuse_unrated(votes, path, first_row=2)
    ids = [f"{session}/{photo}" for session, photo in zip(columns["sessionId"], columns["imageName"], strict=True)]
    return ids, columns, votes
