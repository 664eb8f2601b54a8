"""Reading label files: where they lie in a download, and what their columns hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import DataError

Column = list[Any]


def read_table(path: Path, separator: str | None = None) -> dict[str, Column]:
    """Columns of a CSV, TSV or Parquet file by name.

    Raises:
        DataError: the file is missing or no table, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = parquet.read_table(path)
        else:
            delimiter = {"tab": "\t", None: "\t" if path.suffix.lower() == ".tsv" else ","}.get(separator, separator)
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))
    except FileNotFoundError:
        raise DataError(f"{path}: no such ratings file") from None
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table ({str(error).splitlines()[0][:150]})") from None
    if len(set(table.column_names)) != len(table.column_names):
        raise DataError(f"{path}: two columns have the same name")
    return {name.lstrip("\ufeff"): table.column(name).to_pylist() for name in table.column_names}


def require_columns(columns: dict[str, Column], names: Iterable[str], path: Path) -> None:
    """Refuse a table that lacks one of the columns it was published with."""
    missing = [name for name in names if name not in columns]
    if missing:
        there = ", ".join(list(columns)[:8])
        raise DataError(f"{path}: no column {missing[0]!r}; it has {there} …, so it is not the published file")


def numbers(values: Column, column: str, path: Path) -> NDArray[np.float64]:
    """A column as finite numbers (N,); the error names the row as an editor counts it."""
    try:
        out = np.array(values, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(out))
    except (TypeError, ValueError):
        out = np.empty(len(values))
        bad = np.array([], dtype=np.int64)
        for row, value in enumerate(values):
            try:
                out[row] = float(value)
            except (TypeError, ValueError):
                raise DataError(f"{path}, row {row + 2}, column {column}: {value!r} is no number") from None
    if len(bad):
        raise DataError(f"{path}, row {int(bad[0]) + 2}, column {column}: the number is missing or infinite")
    return out


def find_file(folder: Path, names: Sequence[str], what: str, source: str) -> Path:
    """The first of `names` that is a file under `folder`.

    Raises:
        DataError: none is; the message says what was looked for and where it is usually to be had.
    """
    found = find_optional(folder, names)
    if found is not None:
        return found
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that holds {what}")
    raise DataError(f"{folder} has no {what} (looked for {', '.join(names)}); {source}")


def find_optional(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` that is a file under `folder`, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def find_photos_folder(folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is a folder under `folder`, else the first: labels are of use without photos."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def refuse_repeated(ids: Sequence[str], path: Path) -> None:
    """Refuse a list in which an id stands twice."""
    if len(set(ids)) < len(ids):
        again = Counter(ids).most_common(1)[0][0]
        raise DataError(f"{path}: {again} stands there twice; take the published file, or delete one row")


def refuse_unrated(counts: NDArray[np.floating[Any] | np.integer[Any]], path: Path, first_row: int) -> None:
    """Refuse votes (N, D) with a negative count or a row without any; `first_row` is the line that row 0 stands in."""
    bad = np.flatnonzero((counts < 0).any(1) | ~(counts.sum(1) > 0))
    if len(bad):
        row = int(bad[0]) + first_row
        raise DataError(f"{path}, row {row}: votes are negative or missing; take the published file")
