"""Photo features on disk, computed once per (photo content, encoder, preprocessing).

`Encoding` says what features were made by. `FeatureStore` is where training keeps them: an SQLite file for each encoder
and preprocessing; a row is a photo's content hash and its feature as float32 bytes. SQLite gives what such a store
needs: a kill loses at most the batch being written, several readers may look while one writes, and a feature is found
without reading the others. Scoring keeps features by the million and reads them in a row, in files of its own
(`tmcr.scoring.feature_files`), where training may look before it encodes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import DataError
from tmcr.images import DRAFT_MARGIN
from tmcr.preprocess import PreprocessSpec


def store_key(encoder_fingerprint: str, preprocess: PreprocessSpec) -> str:
    """Name of the store for an encoder, its preprocessing, and how photos are decoded for it."""
    text = json.dumps([encoder_fingerprint, preprocess.to_dict(), DRAFT_MARGIN], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class EncoderUse:
    """One encoder as it is used.

    Attributes:
        fingerprint: hash of its weights and configuration.
        preprocess: what photos go through first.
        width: of its features.
    """

    fingerprint: str
    preprocess: PreprocessSpec
    width: int


@dataclass(frozen=True)
class Encoding:
    """All that features depend on beside the photo.

    Attributes:
        image_text: the image–text encoder, of width E.
        level: the image encoder, of width W; None where there is none.
        arithmetic: "fp32", "bf16", or which 8-bit file; None where no encoder is at hand and any will do.
    """

    image_text: EncoderUse
    level: EncoderUse | None
    arithmetic: str | None = None

    @property
    def decoded_side(self) -> int:
        """Shorter side that a photo is decoded for: a large JPEG may be decoded at a fraction of its size."""
        return max(use.preprocess.target_side for use in (self.image_text, self.level) if use is not None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Encoding:
        """Inverse of `to_dict`, also after a journey through JSON.

        Raises:
            KeyError, TypeError, ModelError: something is missing, or is not what it should be.
        """

        def use(part: Mapping[str, Any]) -> EncoderUse:
            preprocess = PreprocessSpec.from_dict(part["preprocess"])
            return EncoderUse(str(part["fingerprint"]), preprocess, int(part["width"]))

        level = values["level"]
        return cls(use(values["image_text"]), use(level) if level is not None else None, values["arithmetic"])

    def differences(self, wanted: Encoding) -> list[str]:
        """What keeps features made like this from serving where `wanted` ones are asked for, in words.

        Level features that nobody asks for do no harm.
        """
        found = []
        pairs: list[tuple[str, EncoderUse | None, EncoderUse]] = [
            ("image–text encoder", self.image_text, wanted.image_text)
        ]
        if wanted.level is not None:
            pairs.append(("image encoder", self.level, wanted.level))
        for what, here, there in pairs:
            if here is None or here.fingerprint != there.fingerprint:
                mine = here.fingerprint[:12] if here is not None else "none"
                found.append(f"the {what} ({mine}, not {there.fingerprint[:12]})")
            elif here.preprocess != there.preprocess:
                found.append(f"the preprocessing for the {what}")
        if not found and self.decoded_side != wanted.decoded_side:
            found.append(f"the side photos are decoded for ({self.decoded_side} pixels, not {wanted.decoded_side})")
        if wanted.arithmetic is not None and self.arithmetic != wanted.arithmetic:
            found.append(f"the arithmetic ({self.arithmetic}, not {wanted.arithmetic})")
        return found


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
