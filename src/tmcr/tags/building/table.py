"""Tab-separated tables with a header, as every spreadsheet opens them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tmcr.errors import TagError


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, encoding: str = "utf-8") -> int:
    """Write rows; returns how many. Encoding "utf-8-sig" lets every spreadsheet see that it is UTF-8."""
    count = 0
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows as dictionaries.

    Raises:
        TagError: a column is missing.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise TagError(f"{path}: lacks the column {min(missing)!r}; delete the file and build again")
        yield from reader
