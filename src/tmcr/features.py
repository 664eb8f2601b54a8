"""Photo features on disk, computed once per (photo content, encoder, preprocessing).

One SQLite file for each encoder and preprocessing; a row is a photo's content hash and its feature as
float32 bytes. SQLite gives what such a store needs: a kill loses at most the batch being written, several
readers may look while one writes, and a feature is found without reading the others.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import DataError
from tmcr.preprocess import PreprocessSpec


def store_key(encoder_fingerprint: str, preprocess: PreprocessSpec) -> str:
    """Name of the store for an encoder and its preprocessing."""
    text = json.dumps([encoder_fingerprint, preprocess.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class FeatureStore:
    """Features of `width` numbers, by content hash."""

    def __init__(self, path: Path, width: int) -> None:
        """Open or create the store.

        Raises:
            DataError: the file is no store, or the folder cannot be written.
        """
        self.path = path
        self.width = width
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS feature (photo TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{path}: cannot use this feature store ({error}); delete it or choose another") from None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM feature").fetchone()[0])

    def all_keys(self) -> Iterator[str]:
        """The content hashes that the store has."""
        for (photo,) in self._db.execute("SELECT photo FROM feature"):
            yield photo

    def put(self, photos: Iterable[str], features: NDArray[np.float32]) -> None:
        """Add features (B, width) under their content hashes, durably, all or none."""
        rows = [
            (photo, np.ascontiguousarray(feature, dtype="<f4").tobytes())
            for photo, feature in zip(photos, features, strict=True)
        ]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO feature VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: cannot add to the feature store ({error}); is the disk full?") from None

    def get(self, photos: Sequence[str]) -> NDArray[np.float32]:
        """Features (B, width) of the content hashes, in their order.

        Raises:
            KeyError: a photo is not in the store.
        """
        out = np.empty((len(photos), self.width), dtype=np.float32)
        for row, photo in enumerate(photos):
            found = self._db.execute("SELECT value FROM feature WHERE photo = ?", (photo,)).fetchone()
            if found is None:
                raise KeyError(photo)
            out[row] = np.frombuffer(found[0], dtype="<f4")
        return out
