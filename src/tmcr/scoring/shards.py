"""Photos packed into one file: tar shards, as WebDataset writes them, and Parquet tables.

Shards are untrusted: nothing is extracted, only regular members are read and none beyond the size limit.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tmcr.errors import DataError, ImageError, first_line
from tmcr.images import IMAGE_SUFFIXES, ImageLimits
from tmcr.scoring.photo import is_url, open_url

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
# Looked for in this order, first columns with bytes, then columns with paths or URLs.
_COLUMN_NAMES = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "data")
_PATH_COLUMN_NAMES = ("path", "image_path", "file", "filename", "file_name", "url", "image_url", "image", "photo")
_ROWS_AT_ONCE = 16  # rows of image bytes in memory
_READ_AHEAD = 2**20  # bytes of a Parquet column read at once; by default, a whole row group would be


@dataclass(frozen=True, slots=True)
class Member:
    """A photo in a shard; see `Photo`. `breaks_off`: no photo, but the news that the shard cannot be read further."""

    name: str
    where: str = ""
    data: bytes | None = None
    error: ImageError | None = None
    breaks_off: bool = False


def is_shard(name: str) -> bool:
    return name.lower().endswith(TAR_SUFFIXES + PARQUET_SUFFIXES)


def members(shard: str, *, column: str | None, limits: ImageLimits) -> Iterator[Member]:
    """The photos of a shard in the order in which it holds them.

    A shard that cannot be opened, or is damaged from some point on, ends in one member with an error.

    Args:
        column: the Parquet column that holds the photos; found by name and type where None.
    """
    count = 0
    try:
        with _open(shard) as file:
            if shard.lower().endswith(PARQUET_SUFFIXES):
                found = _parquet_members(shard, file, column)
            else:
                found = _tar_members(shard, file, limits)
            for member in found:
                count += 1
                yield member
    except FileNotFoundError:
        yield Member(shard, error=ImageError("missing", "no such shard", shard), breaks_off=True)
    except Exception as error:  # whatever the plug-in, pyarrow or zlib makes of damage and lost connections
        first = "its first photo" if count == 1 else f"its first {count} photos"
        detail = f"the shard cannot be read beyond {first}" if count else "the shard cannot be read"
        failure = ImageError("unreadable", f"{detail} ({first_line(error)})", shard)
        yield Member(shard, error=failure, breaks_off=True)


def photo_count(shard: str) -> int | None:
    """How many photos a shard holds, where that can be known without reading it."""
    if not shard.lower().endswith(PARQUET_SUFFIXES):
        return None
    from pyarrow import parquet

    try:
        with _open(shard) as file:
            return int(parquet.ParquetFile(file).metadata.num_rows)
    except Exception:  # it becomes a row that says why when its turn comes
        return None


def _open(shard: str) -> Any:
    return open_url(shard) if is_url(shard) else Path(shard).open("rb")


class _StrictMember(tarfile.TarInfo):
    """tarfile takes damage between members for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _StrictMember:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset:,}: {error}") from None


def _tar_members(shard: str, file: BinaryIO, limits: ImageLimits) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictMember) as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header
            path = PurePosixPath(entry.name)
            if not entry.isreg() or path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            name = f"{shard}#{entry.name}"
            if entry.size > limits.max_bytes:
                detail = f"{entry.size / 2**20:,.0f} MiB, more than the {limits.max_bytes / 2**20:,.0f} allowed"
                yield Member(name, error=ImageError("too_large", detail, name))
                continue
            content = archive.extractfile(entry)
            data = content.read() if content is not None else b""
            if len(data) < entry.size:
                raise tarfile.ReadError("unexpected end of data")
            yield Member(name, data=data)


def _parquet_members(shard: str, file: BinaryIO, column: str | None) -> Iterator[Member]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file, buffer_size=_READ_AHEAD)
    chosen = _photo_column(table.schema_arrow, column)
    row = 0
    for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[chosen]):
        for value in batch.column(0).to_pylist():
            yield _parquet_member(f"{shard}#{row}", value)
            row += 1


def _parquet_member(name: str, value: Any) -> Member:
    match value:
        case bytes():
            return Member(name, data=value)
        case {"bytes": bytes() as data}:
            return Member(name + (f":{value['path']}" if value.get("path") else ""), data=data)
        case {"path": str() as path} | (str() as path) if path:
            return Member(path, where=path)
    return Member(name, error=ImageError("empty", "the table has no photo in this row", name))


def _photo_column(schema: Any, wanted: str | None) -> str:
    """The column to read.

    Raises:
        DataError: there is none, or none that can be told from the others.
    """
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    def holds_text(kind: Any) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

    with_bytes = [each.name for each in schema if holds_bytes(each.type)]
    with_text = [each.name for each in schema if holds_text(each.type)]
    if wanted is not None:
        if wanted in with_bytes + with_text:
            return wanted
        raise DataError(f"column {wanted!r} is not there or holds neither bytes nor text; it has {schema.names}")
    for names, known in ((with_bytes, _COLUMN_NAMES), (with_text, _PATH_COLUMN_NAMES)):
        for name in known:
            if found := next((each for each in names if each.lower() == name), None):
                return found
        if names is with_bytes and len(names) == 1:
            return names[0]
    raise DataError(f"no column is known to hold photos; name one of {schema.names} with --column")
