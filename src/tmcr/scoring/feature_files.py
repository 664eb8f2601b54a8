"""The files of a folder of features, and how photos are found in them; `feature_folder` writes them.

features.json           what the features were made by, how they are stored, and the finished parts with their rows
part-00000.parquet      name and content_hash of its photos
part-00000.safetensors  embeddings (n, E) and, where the model has an image encoder, levels (n, W); sizes (n, 2), width
                        and height of the upright photo; keys (n, 16)

A photo's key is its content, and its suffix where the decoder goes by it: equal photos stand here once, under the name
that came first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tmcr.disk import write_whole
from tmcr.errors import DataError, ModelError, first_line
from tmcr.features import EncoderUse, Encoding
from tmcr.scoring.repeats import decoder_key

Storage = Literal["float16", "float32"]

FORMAT = 2
MANIFEST = "features.json"
KEY_BYTES = 16
_OPEN_PARTS = 64


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


class FeatureIndex:
    """Where in a folder's finished parts each photo is; 16 bytes of memory for each. Not safe to share."""

    def __init__(self, folder: Path, manifest: FeatureManifest) -> None:
        """Read the keys of all parts.

        Raises:
            DataError: a part is missing or damaged.
        """
        self._folder = folder
        self._manifest = manifest
        self._open_parts: OrderedDict[int, _Part] = OrderedDict()
        # The first 8 bytes of every key, ascending, and where each photo is: part · 2³² + row.
        heads, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for number, record in enumerate(manifest.parts):
            with _damage_reported(folder / record.name):
                some_heads, some_places = _entries(_Part(folder, record, manifest.encoding).keys(), number)
            heads.append(some_heads)
            places.append(some_places)
        all_heads, all_places = np.concatenate(heads), np.concatenate(places)
        order = np.argsort(all_heads, kind="stable")
        self._heads, self._places = all_heads[order], all_places[order]

    def find(self, key: bytes) -> Kept | None:
        """What is kept under a photo's key; None where it is not known.

        Raises:
            DataError: its part is missing or damaged.
        """
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

    def add_last_part(self, keys: NDArray[np.uint8]) -> None:
        """Take in the keys (n, 16) of the part that the manifest names last."""
        heads, places = _entries(keys, len(self._manifest.parts) - 1)
        order = np.searchsorted(self._heads, heads)
        self._heads = np.insert(self._heads, order, heads)
        self._places = np.insert(self._places, order, places)

    def _part(self, number: int) -> _Part:
        part = self._open_parts.get(number)
        if part is None:
            record = self._manifest.parts[number]
            with _damage_reported(self._folder / record.name):
                part = self._open_parts[number] = _Part(self._folder, record, self._manifest.encoding)
            if len(self._open_parts) > _OPEN_PARTS:
                self._open_parts.popitem(last=False)
        self._open_parts.move_to_end(number)
        return part


class KeptEmbeddings:
    """Embeddings that scoring has kept, for training to look up; safe to share between threads.

    Another process may add to the folder meanwhile: what is there when it is opened stays as it is.
    """

    def __init__(self, folder: Path, wanted: EncoderUse, arithmetic: str) -> None:
        """Open a folder.

        Raises:
            DataError: it holds no features, or is damaged.
            ModelError: its embeddings are not what `wanted` and `arithmetic` would make.
        """
        manifest = FeatureManifest.load(folder)
        if differences := manifest.encoding.differences(Encoding(wanted, None, arithmetic)):
            raise ModelError(
                f"{folder}: its features were made otherwise than this run makes them: {' and '.join(differences)}; "
                "train with the encoder and the settings of the model that made them (encoders.image_text, "
                "encoders.mirrored, encoders.preprocessing, precision), or without these features"
            )
        self._index = FeatureIndex(folder, manifest)
        self._lock = threading.Lock()

    def find(self, name: str, content_hash: str) -> NDArray[np.float32] | None:
        """The embedding (E,) of a photo; None where it is not known."""
        with self._lock:
            kept = self._index.find(photo_key(name, content_hash))
        return kept.embedding.astype(np.float32) if kept is not None else None


class _Part:
    """A finished part's numbers, read from the disk as they are asked for."""

    def __init__(self, folder: Path, record: PartRecord, encoding: Encoding) -> None:
        self.path = folder / record.name
        self._file = safe_open(folder / f"{record.name}.safetensors", framework="np")
        shapes = {"keys": KEY_BYTES, "sizes": 2, "embeddings": encoding.image_text.width}
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
    if not suffix and len(content) == 2 * KEY_BYTES:
        return bytes.fromhex(content)
    return hashlib.blake2b(f"{content}{suffix}".encode(), digest_size=KEY_BYTES).digest()


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
