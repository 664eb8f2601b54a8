"""TAD66K (He et al. 2022): 66,327 Flickr photos of 47 themes with a mean score 0..10.

Expected under FOLDER (the first of each that is there):

- `train.csv` and `test.csv` with `image,score`: in `merge/`, `labels/merge/`, `dataset/merge/`.
- the same by theme, for the theme of each photo: `unmerge/{train,test}/<theme>.csv` beside `merge/`. 478 photos are
  in the other part there; `merge` is the split that is in use.
- photos: `TAD66K/`, `images/`, `imgs/`.

Only means are published; each photo's distribution is derived (`tmcr.datasets.distributions`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.distributions import DEFAULT_STD, distributions_from_means
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.tables import (
    find_file,
    find_photos_folder,
    numbers,
    read_table,
    refuse_repeated,
    require_columns,
)
from tmcr.errors import DataError

PHOTO_FOLDERS = ("TAD66K", "images", "imgs")
_PLACES = ("merge", "labels/merge", "dataset/merge")
_SOURCE = "github.com/woshidandan/TANet-image-aesthetics-and-quality-assessment has it"


def load_tad66k(folder: Path, split: str, photos: Path | None = None, std: float = DEFAULT_STD) -> Manifest:
    """Read TAD66K under `split` "merge", scores stretched from 0..10 to 1..10.

    Args:
        std: of the derived distributions, in points of 1..10.

    Raises:
        DataError: a file is missing or is not as published.
    """
    if split != "merge":
        raise DataError(f"tad66k has the split 'merge': write tad66k:merge@FOLDER, not {split!r}")
    files = {
        part: find_file(folder, [f"{place}/{part}.csv" for place in _PLACES], f"merge/{part}.csv", _SOURCE)
        for part in ("train", "test")
    }
    tables = {part: _read(path) for part, path in files.items()}
    ids = tuple(name for names, _ in tables.values() for name in names)
    refuse_repeated(ids, files["train"].parent)
    means = np.concatenate([scores for _, scores in tables.values()])
    if means.min() < 0 or means.max() > 10:
        raise DataError(
            f"{files['train'].parent}: scores from {means.min():g} to {means.max():g} instead of 0..10; {_SOURCE}"
        )
    images = photos or find_photos_folder(folder, PHOTO_FOLDERS)
    themes = {
        name: file.stem
        for part in ("train", "test")
        for file in sorted((files["train"].parent.parent / "unmerge" / part).glob("*.csv"))
        for name in _read(file)[0]
    }
    attributes: dict[str, NDArray[Any]] = {}
    if themes:
        attributes["theme"] = np.array([themes.get(name, "") for name in ids], dtype=object)
    values = np.arange(1.0, 11.0)
    parts = ", ".join(f"{len(names):,} {part}" for part, (names, _) in tables.items())
    return Manifest(
        ids=ids,
        paths=tuple(images / name for name in ids),
        distributions=distributions_from_means(1 + 9 * means / 10, values, std),
        score_values=values,
        splits=tuple(part for part, (names, _) in tables.items() for _ in names),
        attributes=attributes,
        source="tad66k:merge",
        namespace="tad66k",
        description=f"TAD66K, merge split: {len(ids):,} photos ({parts}), 0..10, means",
    )


def _read(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    columns = read_table(path)
    require_columns(columns, ("image", "score"), path)
    return [str(name) for name in columns["image"]], numbers(columns["score"], "score", path)
