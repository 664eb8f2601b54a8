"""Rated photos in one form, whatever set they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import DataError

PARTS = ("train", "val", "test")
_ATTRIBUTE = "attribute:"  # before the name of such a column in Parquet


@dataclass(frozen=True)
class Manifest:
    """Rated photos.

    Attributes:
        ids: names within the set.
        paths: photo files.
        distributions: (N, D) shares of the ratings; rows sum to 1.
        score_values: (D,) the score each bin stands for, ascending on 1..10.
        splits: "train", "val" or "test" for each photo.
        groups: theme of each photo, or None; near-duplicates share one, so a split keeps it whole.
        votes: (N,) number of ratings, or None where only means are known.
        attributes: what else is known of the photos, by name: (N,) numbers (NaN: unknown) or strings ("": none).
        source: the set and its split as in a data SPEC: "ava:tanet"; "" for ratings of one's own.
        namespace: whose ids these are. Photos of two sets with one namespace and one id are the same photo (EVA's
            are AVA's); "" where an id means nothing outside its set.
        description: one line for people: "383 photos, 1..7, votes, split by column".
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    distributions: NDArray[np.float64]
    score_values: NDArray[np.float64]
    splits: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    votes: NDArray[np.int64] | None = None
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: str = ""
    namespace: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("paths", "splits", "groups"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.ids):
                raise DataError(f"manifest: {len(self.ids)} ids but {len(column)} {name}")
        if self.distributions.shape != (len(self.ids), len(self.score_values)):
            raise DataError(f"manifest: distributions of shape {self.distributions.shape} do not fit")
        for name, values in self.attributes.items():
            if len(values) != len(self.ids):
                raise DataError(f"manifest: {len(self.ids)} ids but {len(values)} values of {name}")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """(N,) mean rating on 1..10."""
        means: NDArray[np.float64] = self.distributions @ self.score_values
        return means

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Manifest:
        """The photos at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            distributions=self.distributions[rows],
            splits=tuple(self.splits[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows) if self.groups is not None else None,
            votes=self.votes[rows] if self.votes is not None else None,
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )

    def part(self, name: str) -> Manifest:
        """The photos of one split."""
        return self.take(np.flatnonzero(np.array(self.splits) == name))

    def with_splits(self, splits: Sequence[str]) -> Manifest:
        return replace(self, splits=tuple(splits))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of photos, ratings and splits."""
        total = hashlib.sha256(json.dumps([self.ids, [str(path) for path in self.paths], self.splits]).encode())
        total.update(np.ascontiguousarray(self.distributions).tobytes())
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """Write Parquet; the score values stand in the schema's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        further = {f"{_ATTRIBUTE}{name}": values.tolist() for name, values in self.attributes.items()}
        table = pa.table(
            {
                "id": list(self.ids),
                "path": [str(photo) for photo in self.paths],
                "distribution": self.distributions.tolist(),
                "split": list(self.splits),
                "group": list(self.groups) if self.groups is not None else [None] * len(self),
                "votes": self.votes.tolist() if self.votes is not None else [None] * len(self),
                **further,
            }
        )
        notes = {
            "score_values": json.dumps(self.score_values.tolist()),
            "source": self.source,
            "namespace": self.namespace,
            "description": self.description,
        }
        pq.write_table(table.replace_schema_metadata(notes), path)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        notes = table.schema.metadata
        columns = table.to_pydict()
        return cls(
            ids=tuple(columns["id"]),
            paths=tuple(Path(photo) for photo in columns["path"]),
            distributions=np.array(columns["distribution"], dtype=np.float64),
            score_values=np.array(json.loads(notes[b"score_values"]), dtype=np.float64),
            splits=tuple(columns["split"]),
            groups=tuple(columns["group"]) if columns["group"][:1] != [None] else None,
            votes=np.array(columns["votes"], dtype=np.int64) if columns["votes"][:1] != [None] else None,
            attributes={
                name.removeprefix(_ATTRIBUTE): _attribute(values)
                for name, values in columns.items()
                if name.startswith(_ATTRIBUTE)
            },
            source=notes[b"source"].decode(),
            namespace=notes[b"namespace"].decode(),
            description=notes[b"description"].decode(),
        )


def _attribute(values: list[Any]) -> NDArray[Any]:
    return np.array(values, dtype=object if values and isinstance(values[0], str) else np.float64)
