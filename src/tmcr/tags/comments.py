"""Comments on photos, streamed from files as they come: text, JSON lines, CSV, Parquet.

Nothing is read whole, and nothing is dropped in silence: a `Reading` counts what was skipped and why.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tmcr.errors import DataError
from tmcr.tags.words import is_english

Half = Literal["held-out", "other"]
SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
LONGEST = 200_000  # characters; a longer line is no comment
_LONGEST_BYTES = 4 * LONGEST
_PHOTO_FIELDS = ("image", "photo", "image_id", "photo_id", "file")
_BATCH_ROWS = 4096
_HAS_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Comment:
    """One comment.

    Attributes:
        text: as it stands in the file.
        photo: what it is about, or the text itself where the file does not say.
    """

    text: str
    photo: str

    @property
    def half(self) -> Half:
        """Comments on one photo are in one half: by the hash of its name, whatever the order of the files."""
        return "held-out" if hashlib.sha256(self.photo.encode("utf-8", "replace")).digest()[0] & 1 else "other"


@dataclass
class Reading:
    """What became of the lines (or rows) that were read.

    Attributes:
        kept: comments handed on.
        empty: without a letter.
        too_long: over `LONGEST` characters.
        foreign: not in English, by the share of function words.
        broken: no JSON, no CSV, or without the field.
        other_encoding: file → lines that are no UTF-8 and were read as Latin-1 (Windows-1252).
    """

    kept: int = 0
    empty: int = 0
    too_long: int = 0
    foreign: int = 0
    broken: int = 0
    other_encoding: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.kept + self.empty + self.too_long + self.foreign + self.broken

    def lines(self) -> list[str]:
        """What to tell people, one line each."""
        said = [f"{self.kept:,} comments read"]
        for count, what in (
            (self.empty, "empty"),
            (self.foreign, "not in English"),
            (self.too_long, f"longer than {LONGEST:,} characters"),
            (self.broken, "damaged or without the field"),
        ):
            if count:
                said.append(f"{count:,} skipped: {what}")
        for name, count in self.other_encoding.items():
            said.append(f"{name}: {count:,} lines are no UTF-8, read as Latin-1")
        return said


def read_comments(
    paths: Sequence[Path],
    *,
    field: str = "comment",
    english_only: bool = True,
    reading: Reading | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Comment]:
    """Stream the comments of files.

    Args:
        field: the field or column that holds the comment; .txt files have one comment a line.
        english_only: skip comments that are mostly in another language.
        reading: is kept up to date on what was skipped.
        on_bytes: called with the bytes read since the last call.

    Raises:
        DataError: a file is missing, of another kind, binary, or none of its rows has the field.
    """
    reading = reading if reading is not None else Reading()
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: comments are read from {', '.join(SUFFIXES)}; convert it to one of these")
        if not path.is_file():
            raise DataError(f"{path}: no such comments file")
    for path in paths:
        try:
            yield from _of_file(path, field, english_only, reading, on_bytes or (lambda _: None))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _of_file(
    path: Path, field: str, english_only: bool, reading: Reading, on_bytes: Callable[[int], None]
) -> Iterator[Comment]:
    rows: dict[str, Callable[[], Iterator[Comment | None]]] = {
        ".txt": lambda: (Comment(line, line) if line else None for line in _lines(path, reading, on_bytes)),
        ".jsonl": lambda: _json_rows(path, field, reading, on_bytes),
        ".csv": lambda: _csv_rows(path, field, reading, on_bytes),
        ".parquet": lambda: _parquet_rows(path, field, on_bytes),
    }
    for comment in rows[path.suffix.lower()]():
        if comment is None:
            reading.empty += 1
        elif len(comment.text) > LONGEST:
            reading.too_long += 1
        elif not _HAS_LETTER.search(comment.text):
            reading.empty += 1
        elif english_only and not is_english(comment.text):
            reading.foreign += 1
        else:
            reading.kept += 1
            yield comment


# --- rows of one kind of file ---


def _json_rows(path: Path, field: str, reading: Reading, on_bytes: Callable[[int], None]) -> Iterator[Comment | None]:
    seen: set[str] = set()
    found = False
    for line in _lines(path, reading, on_bytes):
        if not line:
            yield None
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get(field), str | None) or field not in row:
            reading.broken += 1
            if isinstance(row, dict) and len(seen) < 20:
                seen.update(map(str, row))
            continue
        found = True
        yield _comment(row, field)
    if not found and reading.broken:
        raise DataError(_lacks_field(path, field, sorted(seen)))


def _csv_rows(path: Path, field: str, reading: Reading, on_bytes: Callable[[int], None]) -> Iterator[Comment | None]:
    rows = csv.reader(line + "\n" for line in _lines(path, reading, on_bytes))
    try:
        names = next(rows, None)
    except csv.Error as error:
        raise DataError(f"{path}: its first line is no CSV header ({error})") from None
    if not names or field not in names:
        raise DataError(_lacks_field(path, field, names or []))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:  # a quote that is never closed, say: what it swallowed is one damaged row
            reading.broken += 1
            continue
        if not row:
            continue
        if len(row) != len(names):
            reading.broken += 1
            continue
        yield _comment(dict(zip(names, row, strict=True)), field)


def _parquet_rows(path: Path, field: str, on_bytes: Callable[[int], None]) -> Iterator[Comment | None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if field not in names:
            raise DataError(_lacks_field(path, field, names))
        columns = [field, *(name for name in _PHOTO_FIELDS if name in names)]
        share = path.stat().st_size / max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                yield _comment(row, field) if isinstance(row[field], str) else None
            on_bytes(round(share * batch.num_rows))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is no Parquet file or damaged ({str(error).splitlines()[0][:120]})") from None


def _comment(row: dict[str, Any], field: str) -> Comment | None:
    text = row[field]
    if not text:
        return None
    photo = next((str(row[name]) for name in _PHOTO_FIELDS if row.get(name) not in (None, "")), text)
    return Comment(text, photo)


def _lacks_field(path: Path, field: str, names: Iterable[str]) -> str:
    there = ", ".join(names) or "none"
    return f"{path}: has no field {field!r} with text; its fields are: {there}. Name the right one with --field"


# --- lines ---


def _lines(path: Path, reading: Reading, on_bytes: Callable[[int], None]) -> Iterator[str]:
    """Lines without their ends, in bounded memory; those that are too long are counted and left out."""
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield from _utf16_lines(path, reading, on_bytes)
            return
        if b"\0" in start:
            raise DataError(f"{path}: is no text file; give comments as {', '.join(SUFFIXES)}")
        if start.startswith(codecs.BOM_UTF8):
            file.seek(len(codecs.BOM_UTF8))
        while raw := file.readline(_LONGEST_BYTES):
            on_bytes(len(raw))
            if not raw.endswith(b"\n") and len(raw) >= _LONGEST_BYTES:
                _skip_line(file, on_bytes)
                reading.too_long += 1
                continue
            yield _decode(raw, path, reading).rstrip("\r\n")


def _skip_line(file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
    while rest := file.readline(_LONGEST_BYTES):
        on_bytes(len(rest))
        if rest.endswith(b"\n"):
            return


def _utf16_lines(path: Path, reading: Reading, on_bytes: Callable[[int], None]) -> Iterator[str]:
    with path.open(encoding="utf-16", errors="replace", newline="\n") as file:
        while line := file.readline(LONGEST + 2):
            on_bytes(2 * len(line))
            if not line.endswith("\n") and len(line) > LONGEST:
                while (rest := file.readline(LONGEST)) and not rest.endswith("\n"):
                    on_bytes(2 * len(rest))
                reading.too_long += 1
                continue
            yield line.rstrip("\r\n")


def _decode(raw: bytes, path: Path, reading: Reading) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        reading.other_encoding[str(path)] = reading.other_encoding.get(str(path), 0) + 1
        return raw.decode("cp1252", errors="replace")
