"""Features of scored photos, kept: photos are decoded and encoded once, scored as often as one likes.

This is what fills a folder; `feature_files` says what is in it. Every file is written beside its place and moved there
when it is whole; a part counts once features.json names it, so that a kill at any moment leaves the folder in order.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tmcr.disk import write_whole
from tmcr.errors import ConfigError, DataError, ModelError
from tmcr.features import Encoding
from tmcr.results import stored_name
from tmcr.scoring.feature_files import (
    KEY_BYTES,
    MANIFEST,
    FeatureIndex,
    FeatureManifest,
    Kept,
    PartRecord,
    Storage,
    photo_key,
)
from tmcr.scoring.parts import locked

_LOCK = ".lock"
_PART = re.compile(r"part-\d{5,}\.(parquet|safetensors)(\.part)?")
_MOST_BYTES = 64 * 2**20  # of features in memory before a part is finished


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
            self._new: dict[bytes, tuple[str, str, Kept]] = {}
            self._index = FeatureIndex(path, self._manifest)
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
        new = self._new.get(key)
        return new[2] if new is not None else self._index.find(key)

    def _finish_part(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        manifest = self._manifest
        record = PartRecord(f"part-{len(manifest.parts):05d}", len(self._new))
        photos = list(self._new.values())
        keys = np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, KEY_BYTES)
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
        self._index.add_last_part(keys)

    def _discard_leftovers(self) -> None:
        finished = {part.name for part in self._manifest.parts}
        for each in list(self.path.iterdir()):
            if each.name == MANIFEST + ".part" or (
                _PART.fullmatch(each.name) and (each.suffix == ".part" or each.stem not in finished)
            ):
                each.unlink(missing_ok=True)
