"""AADB (Kong et al. 2016): 9,958 Flickr photos, mean score 0..1 and eleven attributes −1..1, of about five raters.

Expected under FOLDER (the first of each that is there):

- lists of lines `name value`: `imgListFiles_label/`, `imgListFiles_label/imgListFiles_label/`, `labels/` or FOLDER
  itself with `imgList{Train,Validation,TestNew}Regression_score.txt`, and for attributes the same with
  BalacingElements (sic), ColorHarmony, … in place of score. Without them `AADBinfo.mat`, which has names and scores
  of the training and test parts (no validation part, no attributes).
- photos: `datasetImages_originalSize/`, `datasetImages_warp256/`, `images/`; those of the test part also in
  `AADB_newtest_originalSize/` or `AADB_newtest/`, which hold the new test part alone.

Only means are published; each photo's distribution is derived (`tmcr.datasets.distributions`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.distributions import DEFAULT_STD, distributions_from_means
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.tables import find_optional, find_photos_folder, refuse_repeated
from tmcr.errors import DataError

PARTS = {"train": "Train", "val": "Validation", "test": "TestNew"}
ATTRIBUTES = (
    "BalacingElements", "ColorHarmony", "Content", "DoF", "Light", "MotionBlur", "Object", "Repetition",
    "RuleOfThirds", "Symmetry", "VividColor",
)  # fmt: skip
LABEL_FOLDERS = ("imgListFiles_label", "imgListFiles_label/imgListFiles_label", "labels", ".")
PHOTO_FOLDERS = ("datasetImages_originalSize", "datasetImages_warp256", "images")
TEST_FOLDERS = ("AADB_newtest_originalSize", "AADB_newtest")
_SOURCE = "github.com/aimerykong/deepImageAestheticsAnalysis links to it"


def load_aadb(folder: Path, photos: Path | None = None, std: float = DEFAULT_STD) -> Manifest:
    """Read AADB, scores stretched from 0..1 to 1..10; `std` is that of the derived distributions in points of 1..10.

    Raises:
        DataError: a file is missing or is not as published.
    """
    labels = next((place for place in LABEL_FOLDERS if (folder / place / _list_name("train", "score")).is_file()), None)
    attributes: dict[str, NDArray[np.float64]] = {}
    if labels is not None:
        parts = {part: _read_list(folder / labels / _list_name(part, "score")) for part in PARTS}
        for attribute in ATTRIBUTES:
            files = [folder / labels / _list_name(part, attribute) for part in PARTS]
            if all(file.is_file() for file in files):
                known: dict[str, float] = {}
                for file in files:
                    known |= dict(zip(*_read_list(file), strict=True))
                names = [name for ids, _ in parts.values() for name in ids]
                attributes[attribute] = np.array([known.get(name, np.nan) for name in names])
    else:
        mat = find_optional(folder, ["AADBinfo.mat", "labels/AADBinfo.mat"])
        if mat is None:
            raise DataError(f"{folder} has neither {_list_name('train', 'score')} nor AADBinfo.mat; {_SOURCE}")
        parts = _read_mat(mat)
    ids = tuple(name for names, _ in parts.values() for name in names)
    refuse_repeated(ids, folder)
    means = np.concatenate([scores for _, scores in parts.values()])
    if means.min() < 0 or means.max() > 1:
        raise DataError(f"{folder}: scores from {means.min():g} to {means.max():g} instead of 0..1; {_SOURCE}")
    splits = tuple(part for part, (names, _) in parts.items() for _ in names)
    usual = photos or find_photos_folder(folder, PHOTO_FOLDERS)
    for_test = photos or next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), usual)
    values = np.arange(1.0, 11.0)
    counts = ", ".join(f"{len(names):,} {part}" for part, (names, _) in parts.items())
    return Manifest(
        ids=ids,
        paths=tuple((for_test if part == "test" else usual) / name for name, part in zip(ids, splits, strict=True)),
        distributions=distributions_from_means(1 + 9 * means, values, std),
        score_values=values,
        splits=splits,
        attributes=attributes,
        source="aadb",
        namespace="aadb",
        description=f"AADB: {len(ids):,} photos ({counts}), 0..1, means",
    )


def _list_name(part: str, what: str) -> str:
    return f"imgList{PARTS[part]}Regression_{what}.txt"


def _read_list(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    names, values = [], []
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_SOURCE}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, value = line.strip().rpartition(" ")
        try:
            values.append(float(value))
        except ValueError:
            raise DataError(f"{path}, row {number}: {line!r} is not 'name value'; {_SOURCE}") from None
        if not name or not np.isfinite(values[-1]):
            raise DataError(f"{path}, row {number}: {line!r} is not 'name value'; {_SOURCE}")
        names.append(name.strip())
    if not names:
        raise DataError(f"{path}: is empty; {_SOURCE}")
    return names, np.array(values)


def _read_mat(path: Path) -> dict[str, tuple[list[str], NDArray[np.float64]]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
        return {
            part: (
                [str(name.item()) for name in content[f"{part}NameList"].ravel()],
                content[f"{part}Score"].ravel().astype(np.float64),
            )
            for part in ("train", "test")
        }
    except (MatReadError, OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path}: is not as published ({str(error)[:120]}); {_SOURCE}") from None
