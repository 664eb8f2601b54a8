"""Reading label files: where they lie in a download, and what their columns hold."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import DataError

Column = list[Any]
_HEAD = 65536  # bytes or characters that a header is looked for in
_QUOTED = re.compile(r'(^|[,;\t])"(?:[^"]|"")*"')
_DECIMAL_POINT = re.compile(r"\d\.\d")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


def read_table(path: Path, separator: str | None = None, encoding: str | None = None) -> dict[str, Column]:
    """Columns of a CSV, TSV or Parquet file by name.

    Args:
        separator: of a CSV: one character, or "tab"; by default what the header has of tab, semicolon and comma.
        encoding: of a CSV, as Python calls it; by default UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        DataError: the file is missing or no table, is encoded otherwise, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = parquet.read_table(path)
        else:
            with pa.input_stream(path) as stream:
                text = _decoded(stream.read(), encoding, path)
            delimiter = "\t" if separator == "tab" else separator or _separator(text)
            table = csv.read_csv(
                pa.BufferReader(text.encode()),
                # Threads that read from memory abort one process in ten that ends soon after (pyarrow 26, with torch).
                read_options=csv.ReadOptions(use_threads=False),
                parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            )
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


def numbers(values: Column, column: str, path: Path, *, decimal_commas: bool = False) -> NDArray[np.float64]:
    """A column as finite numbers (N,); the error names the row as an editor counts it.

    Args:
        decimal_commas: "5,3" is 5.3, unless another number of the column has a point.
    """
    if decimal_commas and any(isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) for value in values):
        values = [_with_point(value, row, column, path) for row, value in enumerate(values)]
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


def _decoded(data: bytes, encoding: str | None, path: Path) -> str:
    if encoding is None:
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
        if encoding == "utf-8" and b"\0" in data[:_HEAD]:
            raise DataError(f"{path}: is no text (it holds zero bytes); export it as CSV in UTF-8")
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(f"{path}: there is no encoding {encoding!r}; write e.g. ?encoding=cp1252") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, row {line}: is not in {encoding.upper()}; save the file as UTF-8, or say what it is in: "
            "csv:FILE?encoding=cp1252 (Western European Windows)"
        ) from None


def _separator(text: str) -> str:
    """Tab, semicolon or comma, by the header outside of its quotes."""
    header = _QUOTED.sub(r"\1", text[:_HEAD].lstrip("\ufeff\r\n")).partition("\n")[0]
    if "\t" in header:
        return "\t"
    return ";" if header.count(";") >= max(header.count(","), 1) else ","


def _with_point(value: Any, row: int, column: str, path: Path) -> Any:
    if not isinstance(value, str):
        return value
    if _DECIMAL_POINT.search(value):
        where = f"{path}, row {row + 2}, column {column}"
        raise DataError(f"{where}: {value!r} has a point, other rows a decimal comma; write all alike")
    return value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value) else value
