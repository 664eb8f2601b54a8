"""Results as files: one row for each photo, in Parquet, CSV or JSON lines, by the file's suffix.

Rows are written as they come into FILE.part, which takes the file's name when all are there: whoever finds
FILE finds it whole. Nested values (tags, reasons) are lists of structs in Parquet, objects in JSON lines and
compact text in CSV. A folder of Parquet parts, as `tmcr.scoring` writes it, is read like one file: the parts
that its manifest names, in the order of the photos.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tmcr.assessment import Assessment, Cluster, Facet, Reason, Tag
from tmcr.destinations import check_file
from tmcr.disk import half_written, settle
from tmcr.errors import DataError

SUFFIXES = (".parquet", ".csv", ".jsonl")
MANIFEST = "manifest.json"
CSV_COLUMNS = (
    "photo",
    "score",
    "std",
    "percentile",
    "cluster",
    "semantic_tags",
    "attribute_tags",
    "own_tags",
    "facets",
    "reasons",
    "distribution",
    "score_values",
    "semantic_contribution",
    "attribute_contribution",
    "encoder_contribution",
    "reference_score",
    "model",
    "model_hash",
    "width",
    "height",
    "content_hash",
    "error",
    "error_reason",
)
_ROWS_IN_MEMORY = 1024
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # how `stored_name` writes a byte that is no UTF-8
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Writer(Protocol):
    """Takes verdicts one by one."""

    def write(self, verdict: Assessment) -> None: ...

    def close(self) -> None: ...


def check_destination(path: Path, never: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Find out before the work whether results can be written to `path`, and over none of `never`.

    Raises:
        ConfigError: they cannot.
    """
    check_file(path, SUFFIXES, "results", never=never)


@contextmanager
def open_writer(path: Path) -> Iterator[Writer]:
    """Open a results file; it takes its name when the block ends without an exception.

    Raises:
        ConfigError: see `check_destination`.
        DataError: the disk is full or the file cannot be written; what stood at `path` before is untouched.
    """
    check_destination(path)
    part = half_written(path)
    kinds: dict[str, Callable[[Path], Writer]] = {
        ".parquet": ParquetWriter,
        ".csv": _CsvWriter,
        ".jsonl": _JsonLinesWriter,
    }
    try:
        writer = kinds[path.suffix.lower()](part)
        try:
            yield writer
        except BaseException:
            writer.close()
            part.unlink(missing_ok=True)
            raise
        writer.close()
        settle(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path}: results cannot be written ({error.strerror or error}); is the disk full?") from None


def read_results(path: Path) -> Iterator[Assessment]:
    """Verdicts from a .parquet or .jsonl file, or a results folder, a few at a time.

    Of a run that is not finished, a folder holds the photos that are.

    Raises:
        DataError: it is missing, of another kind, or damaged.
    """
    with _damage_reported(path):
        if path.is_dir():
            for part in parts_of(path):
                with _damage_reported(part):
                    yield from _read_parquet(part)
        elif path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix.lower() == ".jsonl":
            with path.open(encoding="utf-8") as file:
                yield from (_from_dict(json.loads(line)) for line in file if line.strip())
        else:
            raise DataError(
                f"{path}: only .parquet and .jsonl results and results folders hold everything; score to one of these"
            )


def parts_of(folder: Path) -> list[Path]:
    """The finished parts of a results folder, in the order of the photos.

    Raises:
        DataError: the folder has no manifest.
    """
    try:
        parts = json.loads((folder / MANIFEST).read_text(encoding="ascii"))["parts"]
    except FileNotFoundError:
        raise DataError(f"{folder}: no results folder ({MANIFEST} is missing)") from None
    return [folder / part["file"] for part in sorted(parts, key=lambda part: part["rows"])]


def read_parquet_backwards(path: Path) -> Iterator[Assessment]:
    """Verdicts of a Parquet file, last one first.

    Raises:
        DataError: the file is missing or damaged.
    """
    from pyarrow import parquet

    with _damage_reported(path):
        file = parquet.ParquetFile(path)
        for group in reversed(range(file.metadata.num_row_groups)):
            yield from (_from_dict(row) for row in reversed(file.read_row_group(group).to_pylist()))


def best_results(folder: Path, *, best: int, failed: int) -> list[Assessment]:
    """The `best` highest scores and the first `failed` failures of a results folder, in the order of the photos.

    Only the scores are read of all rows.

    Raises:
        DataError: the folder holds no results, or damaged ones.
    """
    import numpy as np
    from pyarrow import parquet

    with _damage_reported(folder):
        paths = parts_of(folder)
        scores, places = np.empty(0, np.float32), np.empty((0, 2), np.int64)  # places are (part, row in it)
        failures: list[tuple[int, int]] = []
        for number, path in enumerate(paths):
            column = parquet.read_table(path, columns=["score"]).column(0).to_numpy()
            bad = np.flatnonzero(np.isnan(column))
            failures += [(number, int(row)) for row in bad[: failed - len(failures)]]
            good = np.flatnonzero(~np.isnan(column))
            scores = np.concatenate([scores, column[good]])
            places = np.concatenate([places, np.stack([np.full_like(good, number), good], axis=1)])
            kept = np.argsort(-scores, kind="stable")[:best]
            scores, places = scores[kept], places[kept]
        wanted: dict[int, list[int]] = {}
        for number, row in sorted([*map(tuple, places.tolist()), *failures]):
            wanted.setdefault(number, []).append(row)
        return [verdict for number, rows in wanted.items() for verdict in _pick(paths[number], rows)]


def join_parts(folder: Path, out: Path) -> None:
    """Write a results folder as one file, in the format of its suffix.

    Raises:
        DataError: the folder is damaged, or the file cannot be written.
    """
    with open_writer(out) as writer:
        if isinstance(writer, ParquetWriter):
            for part in parts_of(folder):
                writer.copy(part)
        else:
            for verdict in read_results(folder):
                writer.write(replace(verdict, photo=_original_name(verdict.photo)))


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such results file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no results file or damaged ({str(error).splitlines()[0][:120]})") from None


def _read_parquet(path: Path) -> Iterator[Assessment]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(_ROWS_IN_MEMORY):
        yield from (_from_dict(row) for row in batch.to_pylist())


def _pick(path: Path, rows: list[int]) -> Iterator[Assessment]:
    """The verdicts at ascending `rows` of a Parquet file; only their row groups are read."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        here = [row - first for row in rows if first <= row < end]
        if here:
            yield from (_from_dict(row) for row in file.read_row_group(group).take(here).to_pylist())
        first = end


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape")

    def write(self, verdict: Assessment) -> None:
        self._file.write(json.dumps(_to_dict(verdict), ensure_ascii=True) + "\n")

    def close(self) -> None:
        self._file.close()


class _CsvWriter:
    def __init__(self, path: Path) -> None:
        # The byte order mark lets spreadsheets read the file as UTF-8.
        self._file = path.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="")
        self._writer = csv.DictWriter(self._file, CSV_COLUMNS)
        self._writer.writeheader()

    def write(self, verdict: Assessment) -> None:
        row = {name: _cell(getattr(verdict, name)) for name in CSV_COLUMNS}
        self._writer.writerow(row)

    def close(self) -> None:
        self._file.close()


class ParquetWriter:
    """Writes verdicts to a Parquet file, a row group of them at a time."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._schema = results_schema()
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, verdict: Assessment) -> None:
        self._rows.append(_to_dict(verdict) | {"photo": stored_name(verdict.photo)})
        if len(self._rows) >= _ROWS_IN_MEMORY:
            self._flush()

    def copy(self, path: Path) -> None:
        """Append the rows of another Parquet file of results."""
        from pyarrow import parquet

        self._flush()
        for batch in parquet.ParquetFile(path).iter_batches(_ROWS_IN_MEMORY):
            self._writer.write_batch(batch)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


def results_schema() -> Any:
    """Columns of results in Parquet."""
    import pyarrow as pa

    number, text = pa.float32(), pa.string()
    tag = pa.struct([("name", text), ("similarity", number), ("z", number), ("facet", text)])
    reason = pa.struct([("tag", text), ("library", text), ("contribution", number), ("facet", text)])
    facet = pa.struct([("name", text), ("library", text), ("contribution", number), ("tags", pa.list_(text))])
    return pa.schema(
        [
            ("photo", text),
            ("score", number),
            ("std", number),
            ("distribution", pa.list_(number)),
            ("score_values", pa.list_(number)),
            ("percentile", number),
            ("cluster", pa.struct([("index", pa.int32()), ("tags", pa.list_(text))])),
            ("semantic_tags", pa.list_(tag)),
            ("attribute_tags", pa.list_(tag)),
            ("own_tags", pa.list_(tag)),
            ("facets", pa.list_(facet)),
            ("reasons", pa.list_(reason)),
            ("semantic_contribution", number),
            ("attribute_contribution", number),
            ("encoder_contribution", number),
            ("reference_score", number),
            ("model", text),
            ("model_hash", text),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("content_hash", text),
            ("error", text),
            ("error_reason", text),
        ]
    )


def _cell(value: Any) -> Any:
    """A value as one spreadsheet cell; text that a spreadsheet would run as a formula gets a leading quote."""
    match value:
        case None:
            return ""
        case float():
            return round(value, 4)
        case Cluster():
            return _plain(" · ".join(value.tags))
        case tuple() if value and isinstance(value[0], Tag):
            return _plain("; ".join(tag.name for tag in value))
        case tuple() if value and isinstance(value[0], Facet):
            return _plain("; ".join(f"{facet.name} {facet.contribution:+.3f}" for facet in value))
        case tuple() if value and isinstance(value[0], Reason):
            return _plain("; ".join(f"{reason.tag} {reason.contribution:+.3f}" for reason in value))
        case tuple():
            return " ".join(f"{number:.5g}" for number in value)
        case str():
            return _plain(value)
    return value


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def stored_name(text: str) -> str:
    """A photo's name as Parquet holds it: file names on Linux are bytes; those that are no UTF-8 get escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _original_name(text: str) -> str:
    """The inverse of `stored_name`."""
    return _ESCAPED_BYTE.sub(lambda found: chr(int(found[1], 16)), text)


def _to_dict(verdict: Assessment) -> dict[str, Any]:
    """What `Assessment.to_dict` gives, without its deep copies: they took half the time of writing."""
    row = _fields(verdict)
    row["cluster"] = _fields(verdict.cluster) if verdict.cluster is not None else None
    for name in ("semantic_tags", "attribute_tags", "own_tags", "facets", "reasons"):
        row[name] = [_fields(each) for each in row[name]]
    return row


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _from_dict(row: dict[str, Any]) -> Assessment:
    cluster = row["cluster"]
    return Assessment(
        **row
        | {
            "cluster": Cluster(cluster["index"], tuple(cluster["tags"])) if cluster else None,
            "distribution": tuple(row["distribution"] or ()),
            "score_values": tuple(row["score_values"] or ()),
            "semantic_tags": tuple(Tag(**tag) for tag in row["semantic_tags"] or ()),
            "attribute_tags": tuple(Tag(**tag) for tag in row["attribute_tags"] or ()),
            "own_tags": tuple(Tag(**tag) for tag in row.get("own_tags") or ()),
            "facets": tuple(Facet(**facet | {"tags": tuple(facet["tags"])}) for facet in row["facets"] or ()),
            "reasons": tuple(Reason(**reason) for reason in row["reasons"] or ()),
        }
    )
