"""Anyone's own ratings: a CSV, TSV or Parquet file with a file column and a mean or vote columns, on any scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.distributions import DEFAULT_STD, distributions_from_means
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import split_by_group
from tmcr.datasets.tables import numbers, read_table
from tmcr.errors import DataError

FILE_COLUMNS = ("file", "path", "image", "filename", "file_name", "image_name", "photo", "name", "id")
MEAN_COLUMNS = ("mean", "score", "mos", "rating", "mean_score", "mean_rating", "average")
GROUP_COLUMNS = ("group", "theme", "topic")
SCALES = ((0, 1), (1, 5), (1, 7), (1, 10), (0, 10), (0, 100))
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
OPTIONS = ("file", "mean", "std", "scale", "split", "group", "root", "sep", "encoding")
TEST_SHARE = 0.2
_VOTE = re.compile(r"(?:votes?|v|count|rating|score|bin)?[_\- ]?(\d+(?:\.\d+)?)", re.IGNORECASE)


def load_ratings(spec: str) -> Manifest:
    """Read `FILE[?option=value&…]`.

    Columns are found by name: the file (`FILE_COLUMNS`), then votes for three values or more (`votes_1`, `v1`,
    `1`, …; the number is the score) or else a mean (`MEAN_COLUMNS`), `split`, and a group (`GROUP_COLUMNS`).
    Options name them otherwise: file, mean, std, split, group; root (folder that files are relative to), sep and
    encoding (see `read_table`). A mean or std may have a decimal comma, votes may not.
    The scale of votes is that of their columns; that of means is the smallest of `SCALES` that holds them, unless
    scale=LOW-HIGH says it. Both are stretched to 1..10. Without a split column a fifth of the groups is for testing,
    and all where there is but one.

    Raises:
        DataError: one line naming file, column or row, and what to do.
    """
    file, _, query = spec.partition("?")
    options = dict(parse_qsl(query))
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise DataError(f"data SPEC: no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    path = Path(file).expanduser()
    columns = read_table(path, options.get("sep"), options.get("encoding"))
    by_lower = {name.lower().strip(): name for name in columns}

    def find(option: str, names: tuple[str, ...]) -> str | None:
        if option in options:
            if options[option] not in columns:
                raise DataError(f"{path}: no column {options[option]!r}; there are {', '.join(columns)}")
            return options[option]
        return next((by_lower[name] for name in names if name in by_lower), None)

    file_column = find("file", FILE_COLUMNS)
    if file_column is None and len(columns) == 1:
        raise DataError(f"{path}: is one column, {next(iter(columns))!r}; say what separates columns, e.g. '?sep=|'")
    if file_column is None:
        raise DataError(f"{path}: which column names the photo? There are {', '.join(columns)}; add ?file=COLUMN")
    ids = [str(value).strip() if value is not None else "" for value in columns[file_column]]
    if not ids:
        raise DataError(f"{path}: has a header but no row")
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            raise DataError(f"{path}, row {row + 2}: no file is named; fill it in or delete the row")
        if name in seen:
            raise DataError(f"{path}, row {row + 2}: {name} stands in row {seen[name]} already; keep one")
        seen[name] = row + 2

    votes = _vote_columns(columns, exclude=file_column) if "mean" not in options else {}
    if votes:
        native = np.array(sorted(votes))
        counts = np.stack([numbers(columns[votes[value]], votes[value], path) for value in native], 1)
        if (counts < 0).any():
            raise DataError(f"{path}, row {int(np.argwhere(counts < 0)[0, 0]) + 2}: a count of votes is negative")
        totals = counts.sum(1)
        if (totals == 0).any():
            raise DataError(f"{path}, row {int(np.flatnonzero(totals == 0)[0]) + 2}: has no vote; delete the row")
        low, high = _scale(options.get("scale"), native[0], native[-1])
        values = 1 + 9 * (native - low) / (high - low)
        distributions = counts / totals[:, None]
        number: NDArray[np.int64] | None = np.rint(totals).astype(np.int64)
        what = "votes"
    else:
        mean_column = find("mean", MEAN_COLUMNS)
        if mean_column is None:
            raise DataError(
                f"{path}: neither votes (votes_1, votes_2, …) nor a mean ({', '.join(MEAN_COLUMNS[:4])}) "
                f"among its columns {', '.join(columns)}; add ?mean=COLUMN"
            )
        means = numbers(columns[mean_column], mean_column, path, decimal_commas=True)
        low, high = _scale(options.get("scale"), *_detect_scale(means, path))
        if means.min() < low or means.max() > high:
            raise DataError(
                f"{path}: means from {means.min():g} to {means.max():g} do not fit the scale {low:g}-{high:g}"
            )
        values = np.arange(1.0, 11.0)
        std: float | NDArray[np.float64] = DEFAULT_STD
        if "std" in options and (std_column := find("std", ())):
            std = numbers(columns[std_column], std_column, path, decimal_commas=True) * 9 / (high - low)
        distributions = distributions_from_means(1 + 9 * (means - low) / (high - low), values, std)
        number = None
        what = "means"

    group_column = find("group", GROUP_COLUMNS)
    groups = tuple(str(value) for value in columns[group_column]) if group_column else None
    split_column = find("split", ("split", "part", "set"))
    if split_column:
        splits = tuple(_split(value, row, path) for row, value in enumerate(columns[split_column]))
        how = "split by column"
    else:
        test = split_by_group(groups or ids, TEST_SHARE, seed=0)
        splits = tuple("test" if each else "train" for each in test)
        how = f"split at random by {group_column or 'photo'}"
    root = Path(options["root"]).expanduser() if "root" in options else path.parent
    return Manifest(
        ids=tuple(ids),
        paths=tuple(root / name for name in ids),
        distributions=distributions,
        score_values=values,
        splits=splits,
        groups=groups,
        votes=number,
        description=f"{len(ids)} photo{'' if len(ids) == 1 else 's'}, {low:g}..{high:g}, {what}, {how}",
    )


def _vote_columns(columns: dict[str, list[Any]], exclude: str) -> dict[float, str]:
    """Score → name of the column that counts votes for it; empty unless there are three of one kind."""
    families: dict[str, dict[float, str]] = {}
    for name in columns:
        found = _VOTE.fullmatch(name.strip())
        if found and name != exclude:
            family = name.strip()[: found.start(1)].lower()
            families.setdefault(family, {})[float(found.group(1))] = name
    best = max(families.values(), key=len, default={})
    return best if len(best) >= 3 else {}


def _detect_scale(means: NDArray[np.float64], path: Path) -> tuple[float, float]:
    for low, high in SCALES:
        if low <= means.min() and means.max() <= high:
            return low, high
    raise DataError(f"{path}: means from {means.min():g} to {means.max():g} fit no usual scale; add ?scale=LOW-HIGH")


def _scale(option: str | None, low: float, high: float) -> tuple[float, float]:
    if option is None:
        return float(low), float(high)
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", option)
    if not found or float(found.group(1)) >= float(found.group(2)):
        raise DataError(f"scale={option}: write it as LOW-HIGH, e.g. scale=1-5")
    return float(found.group(1)), float(found.group(2))


def _split(value: Any, row: int, path: Path) -> str:
    name = SPLIT_NAMES.get(str(value).strip().lower())
    if name is None:
        raise DataError(f"{path}, row {row + 2}: split {value!r} is none of train, val, test")
    return name
