"""Features of scored photos in a folder, by content: photos are decoded and encoded once, scored as often as one likes.

features.json           what the features were made by, how they are stored, and the finished parts with their rows
part-00000.parquet      name and content_hash of its photos
part-00000.safetensors  embeddings (n, E) and, where the model has an image encoder, levels (n, W); sizes (n, 2), width
                        and height of the upright photo; keys (n, 16)

A photo's key is its content, and its suffix where the decoder goes by it: equal photos stand here once, under the name
that came first. Every file is written beside its place and moved there when it is whole; a part counts once
features.json names it, so that a kill at any moment leaves the folder in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tmcr.errors import ConfigError, DataError, ModelError, first_line
from tmcr.features import Encoding
from tmcr.results import stored_name
from tmcr.scoring.parts import locked, write_whole
from tmcr.scoring.repeats import decoder_key

Storage = Literal["float16", "float32"]

FORMAT = 2
MANIFEST = "features.json"
_LOCK = ".lock"
_PART = re.compile(r"part-\d{5,}\.(parquet|safetensors)(\.part)?")
_MOST_BYTES = 64 * 2**20  # of features in memory before a part is finished
_OPEN_PARTS = 64
_KEY_BYTES = 16


@dataclass(frozen=True)
class PartRecord:
    """A finished part: its files without their suffixes, and its number of photos."""

    name: str
    rows: int


@dataclass
class FeatureManifest:
    """What `features.json` holds."""

    encoding: Encoding
    storage: Storage
    parts: list[PartRecord]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def require(self, wanted: Encoding, folder: Path) -> None:
        """Refuse features that would not serve.

        Raises:
            ModelError: they were made by other encoders, preprocessing or arithmetic than `wanted`.
        """
        if differences := self.encoding.differences(wanted):
            raise ModelError(
                f"{folder}: its features were made otherwise than this model makes them: {' and '.join(differences)}; "
                "use a model with the same encoders, or score the photos into another --features folder"
            )

    def save(self, folder: Path) -> None:
        values = {
            "format": FORMAT,
            "encoding": self.encoding.to_dict(),
            "storage": self.storage,
            "parts": [{"name": part.name, "rows": part.rows} for part in self.parts],
        }
        write_whole(folder / MANIFEST, json.dumps(values, indent=1).encode("ascii"))

    @classmethod
    def load(cls, folder: Path) -> FeatureManifest:
        """Read a folder's manifest.

        Raises:
            DataError: there is none, or it is damaged.
        """
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="ascii"))
            if values["format"] != FORMAT or values["storage"] not in get_args(Storage):
                raise ValueError("written by another version of tmcr")
            parts = [PartRecord(str(part["name"]), int(part["rows"])) for part in values["parts"]]
            return cls(Encoding.from_dict(values["encoding"]), values["storage"], parts)
        except FileNotFoundError:
            raise DataError(
                f"{folder}: no features there ({MANIFEST} is missing); 'tmcr score PHOTOS --features FOLDER' makes them"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
            raise DataError(f"{path}: is damaged ({first_line(error)}); delete the folder and score again") from None


@dataclass(frozen=True, slots=True)
class Kept:
    """One photo's features as they are kept: embedding (E,), levels (W,) or None, and the photo's width and height."""

    size: tuple[int, int]
    embedding: NDArray[np.floating]
    levels: NDArray[np.floating] | None


@dataclass(frozen=True)
class FeatureRows:
    """Features of some photos: embeddings (B, E), levels (B, W) or None, sizes (B, 2), and columns of Parquet."""

    names: Any
    content_hashes: Any
    sizes: NDArray[np.int32]
    embeddings: NDArray[np.floating]
    levels: NDArray[np.floating] | None

    def __len__(self) -> int:
        return len(self.embeddings)


def read_features(folder: Path, manifest: FeatureManifest, rows: int) -> Iterator[FeatureRows]:
    """All photos of a folder, at most `rows` at a time, in the order in which they were kept.

    Raises:
        DataError: a part is missing or damaged.
    """
    from pyarrow import parquet

    for record in manifest.parts:
        with _damage_reported(folder / record.name):
            part = _Part(folder, record, manifest.encoding)
            table = parquet.read_table(folder / f"{record.name}.parquet")
            if table.num_rows != record.rows:
                raise ValueError(f"{table.num_rows} photos, not {record.rows}")
            for start in range(0, record.rows, rows):
                end = min(start + rows, record.rows)
                names, hashes = (table.column(name).slice(start, end - start) for name in ("name", "content_hash"))
                yield FeatureRows(
                    names, hashes, part.sizes(start, end), part.embeddings(start, end), part.levels(start, end)
                )


class FeatureFolder:
    """A folder of features to look up and add to; locked against a second writer, safe to share between threads.

    Finding a photo takes 16 bytes of memory for each that is kept.
    """

    def __init__(self, path: Path, encoding: Encoding, storage: str = "float16") -> None:
        """Open or create the folder, and clear away what a kill left half done.

        Args:
            storage: "float16" or "float32", for a new folder; one that is there keeps its own.

        Raises:
            ConfigError: it holds other things, cannot be written, another process writes there, or there is no such
                storage.
            DataError: it is damaged.
            ModelError: its features were made otherwise than `encoding` says.
        """
        if storage not in get_args(Storage):
            raise ConfigError(f"features are kept as {' or '.join(get_args(Storage))}, not {storage!r}")
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = sorted(each.name for each in path.iterdir())
            begun = MANIFEST in names
            strangers = [
                name
                for name in names
                if name not in (MANIFEST, MANIFEST + ".part", _LOCK) and not (begun and _PART.fullmatch(name))
            ]
            if strangers:
                raise ConfigError(f"{path}: holds {strangers[0]} and is no feature folder; name a new or empty folder")
            self._lock_file = locked(path / _LOCK)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
        try:
            if begun:
                self._manifest = FeatureManifest.load(path)
                self._manifest.require(encoding, path)
                if encoding.level is None and self._manifest.encoding.level is not None:
                    raise ModelError(
                        f"{path}: keeps an image encoder's features too, which this model does not make; "
                        "name another --features folder"
                    )
                self._discard_leftovers()
            else:
                self._manifest = FeatureManifest(encoding, cast(Storage, storage), [])
                self._manifest.save(path)
            self._lock = threading.Lock()
            self._open_parts: OrderedDict[int, _Part] = OrderedDict()
            self._new: dict[bytes, tuple[str, str, Kept]] = {}
            self._heads, self._places = self._index()
        except OSError as error:
            self._lock_file.close()
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
        except BaseException:
            self._lock_file.close()
            raise

    def __enter__(self) -> FeatureFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process in. What was not flushed is lost."""
        self._lock_file.close()

    def __len__(self) -> int:
        """Photos, those included that are not on disk yet."""
        return self._manifest.rows + len(self._new)

    @property
    def storage(self) -> Storage:
        return self._manifest.storage

    def get(self, name: str, content_hash: str) -> Kept | None:
        """What is kept of a photo; None where it is not known.

        Raises:
            DataError: its part is missing or damaged.
        """
        with self._lock:
            return self._find(photo_key(name, content_hash))

    def put(
        self,
        name: str,
        content_hash: str,
        size: tuple[int, int],
        embedding: NDArray[np.floating],
        levels: NDArray[np.floating] | None,
    ) -> Kept:
        """Keep a photo's features; returns what is kept, in the folder's own precision: of equal photos, the first's.

        It is on disk after `flush`, which comes by itself now and then.

        Raises:
            DataError: a feature is no number that the folder's precision can hold.
            OSError: the disk is full.
        """
        with np.errstate(over="ignore"):
            rounded = [part.astype(self.storage) if part is not None else None for part in (embedding, levels)]
        if not all(np.isfinite(part).all() for part in rounded if part is not None):
            hint = (
                "keep them in a new folder with --features-storage float32"
                if self.storage == "float16"
                else "the encoder is damaged"
            )
            raise DataError(f"{self.path}: features of {name} are beyond what {self.storage} holds; {hint}")
        if rounded[0] is None:
            raise AssertionError("a photo without an embedding")
        kept = Kept(size, rounded[0], rounded[1])
        key = photo_key(name, content_hash)
        with self._lock:
            if (known := self._find(key)) is not None:
                return known
            self._new[key] = (name, content_hash, kept)
            encoding = self._manifest.encoding
            width = encoding.image_text.width + (encoding.level.width if encoding.level else 0)
            if len(self._new) * width * np.dtype(self.storage).itemsize >= _MOST_BYTES:
                self._finish_part()
        return kept

    def flush(self) -> None:
        """Bring to disk what is not there yet.

        Raises:
            OSError: the disk is full; finished parts are untouched.
        """
        with self._lock:
            if self._new:
                self._finish_part()

    def _find(self, key: bytes) -> Kept | None:
        if (new := self._new.get(key)) is not None:
            return new[2]
        head = np.frombuffer(key[:8], ">u8").astype(np.uint64)[0]
        at = int(np.searchsorted(self._heads, head))
        while at < len(self._heads) and self._heads[at] == head:
            number, row = divmod(int(self._places[at]), 2**32)
            part = self._part(number)
            with _damage_reported(part.path):
                if part.key(row) == key:
                    return part.kept(row)
            at += 1
        return None

    def _finish_part(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        manifest = self._manifest
        record = PartRecord(f"part-{len(manifest.parts):05d}", len(self._new))
        photos = list(self._new.values())
        keys = np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, _KEY_BYTES)
        tensors: dict[str, NDArray[Any]] = {
            "keys": keys,
            "sizes": np.array([kept.size for _, _, kept in photos], np.int32),
            "embeddings": np.stack([kept.embedding for _, _, kept in photos]),
        }
        if manifest.encoding.level is not None:
            tensors["levels"] = np.stack([kept.levels for _, _, kept in photos if kept.levels is not None])
        table = pa.table(
            {
                "name": pa.array([stored_name(name) for name, _, _ in photos], pa.string()),
                "content_hash": pa.array([content_hash for _, content_hash, _ in photos], pa.string()),
            }
        )
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        write_whole(self.path / f"{record.name}.safetensors", save(tensors))
        write_whole(self.path / f"{record.name}.parquet", sink.getvalue())
        manifest.parts.append(record)
        try:
            manifest.save(self.path)
        except OSError:
            manifest.parts.pop()
            raise
        self._new = {}
        heads, places = _entries(keys, len(manifest.parts) - 1)
        order = np.searchsorted(self._heads, heads)
        self._heads = np.insert(self._heads, order, heads)
        self._places = np.insert(self._places, order, places)

    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The first 8 bytes of every key on disk, ascending, and where each photo is: part · 2³² + row."""
        heads, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for number, record in enumerate(self._manifest.parts):
            with _damage_reported(self.path / record.name):
                some_heads, some_places = _entries(_Part(self.path, record, self._manifest.encoding).keys(), number)
            heads.append(some_heads)
            places.append(some_places)
        all_heads, all_places = np.concatenate(heads), np.concatenate(places)
        order = np.argsort(all_heads, kind="stable")
        return all_heads[order], all_places[order]

    def _part(self, number: int) -> _Part:
        part = self._open_parts.get(number)
        if part is None:
            record = self._manifest.parts[number]
            with _damage_reported(self.path / record.name):
                part = self._open_parts[number] = _Part(self.path, record, self._manifest.encoding)
            if len(self._open_parts) > _OPEN_PARTS:
                self._open_parts.popitem(last=False)
        self._open_parts.move_to_end(number)
        return part

    def _discard_leftovers(self) -> None:
        finished = {part.name for part in self._manifest.parts}
        for each in list(self.path.iterdir()):
            if each.name == MANIFEST + ".part" or (
                _PART.fullmatch(each.name) and (each.suffix == ".part" or each.stem not in finished)
            ):
                each.unlink(missing_ok=True)


class _Part:
    """A finished part's numbers, read from the disk as they are asked for."""

    def __init__(self, folder: Path, record: PartRecord, encoding: Encoding) -> None:
        self.path = folder / record.name
        self._file = safe_open(folder / f"{record.name}.safetensors", framework="np")
        shapes = {"keys": _KEY_BYTES, "sizes": 2, "embeddings": encoding.image_text.width}
        if encoding.level is not None:
            shapes["levels"] = encoding.level.width
        self._parts = {name: self._file.get_slice(name) for name in shapes}
        for name, width in shapes.items():
            if self._parts[name].get_shape() != [record.rows, width]:
                raise ValueError(f"{name} are {self._parts[name].get_shape()}, not {[record.rows, width]}")

    def keys(self) -> NDArray[np.uint8]:
        return np.asarray(self._file.get_tensor("keys"))

    def key(self, row: int) -> bytes:
        return self._rows("keys", row, row + 1).tobytes()

    def sizes(self, start: int, end: int) -> NDArray[np.int32]:
        return self._rows("sizes", start, end)

    def embeddings(self, start: int, end: int) -> NDArray[np.floating]:
        return self._rows("embeddings", start, end)

    def levels(self, start: int, end: int) -> NDArray[np.floating] | None:
        return self._rows("levels", start, end) if "levels" in self._parts else None

    def kept(self, row: int) -> Kept:
        levels = self.levels(row, row + 1)
        width, height = self.sizes(row, row + 1)[0].tolist()
        return Kept((width, height), self.embeddings(row, row + 1)[0], levels[0] if levels is not None else None)

    def _rows(self, name: str, start: int, end: int) -> NDArray[Any]:
        return np.asarray(self._parts[name][start:end])


def photo_key(name: str, content_hash: str) -> bytes:
    """16 bytes that stand for a photo: its content hash, mixed with its suffix where the decoder goes by it."""
    content, suffix = decoder_key(name, content_hash)
    if not suffix and len(content) == 2 * _KEY_BYTES:
        return bytes.fromhex(content)
    return hashlib.blake2b(f"{content}{suffix}".encode(), digest_size=_KEY_BYTES).digest()


def _entries(keys: NDArray[np.uint8], number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """First 8 bytes of the keys (n, 16) of part `number`, ascending, and the places of their photos."""
    heads = np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    order = np.argsort(heads, kind="stable")
    return heads[order], order.astype(np.int64) + number * 2**32


@contextlib.contextmanager
def _damage_reported(part: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{part}.*: is missing or damaged ({first_line(error)}); delete the folder and score again"
        ) from None
