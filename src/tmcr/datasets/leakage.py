"""Refuse to test on photos that were trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.errors import LeakageError, ModelError


def leaks(manifest: Manifest, hashes: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (id in train or val, id in test) of photos with the same content.

    Args:
        hashes: content hash of each photo of the manifest.
    """
    learnt: dict[str, list[str]] = defaultdict(list)
    for photo, split, content in zip(manifest.ids, manifest.splits, hashes, strict=True):
        if split != "test":
            learnt[content].append(photo)
    tested = zip(manifest.ids, manifest.splits, hashes, strict=True)
    return [(other, photo) for photo, split, content in tested if split == "test" for other in learnt.get(content, ())]


def check_leakage(manifest: Manifest, hashes: Sequence[str], *, allow: bool = False) -> list[tuple[str, str]]:
    """`leaks`, refused unless allowed.

    Raises:
        LeakageError: naming the first few.
    """
    found = leaks(manifest, hashes)
    if found and not allow:
        examples = ", ".join(f"{a} = {b}" for a, b in found[:3])
        raise LeakageError(
            f"{len(found)} test photos are also in the training part ({examples}); "
            "move them into one part, or give --allow-leakage and do not quote the result"
        )
    return found


@dataclass(frozen=True)
class Learnt:
    """What a model has learnt from, so that it is never tested on it: 8-byte hashes of photos, ascending.

    Contents find the same file under any name; ids find the same photo in any encoding, in sets whose ids mean the
    same photos (AVA under its two splits, and EVA).

    Attributes:
        contents: of the training and validation photos' content hashes.
        ids: of their ids; empty where ids mean nothing outside the set.
        source, namespace: the manifest's.
    """

    contents: NDArray[np.uint64]
    ids: NDArray[np.uint64]
    source: str
    namespace: str

    @classmethod
    def from_manifest(cls, manifest: Manifest, hashes: Sequence[str]) -> Learnt:
        """The photos of all parts but "test"; `hashes` are the content hashes of the manifest's photos."""
        learnt = [row for row, split in enumerate(manifest.splits) if split != "test"]
        ids = _short(manifest.ids[row] for row in learnt) if manifest.namespace else _short(())
        contents = _short(hashes[row] for row in learnt)
        return cls(np.unique(contents), np.unique(ids), manifest.source, manifest.namespace)

    def seen(self, manifest: Manifest, hashes: Sequence[str | None]) -> NDArray[np.bool_]:
        """Whether the model has learnt from each photo (N,); a photo without a hash is told by its id alone."""
        known = np.array([content is not None for content in hashes], dtype=bool)
        found = np.zeros(len(manifest), dtype=bool)
        found[known] = np.isin(_short(content for content in hashes if content is not None), self.contents)
        if self.namespace and self.namespace == manifest.namespace:
            found |= np.isin(_short(manifest.ids), self.ids)
        return found

    def save(self, path: Path) -> None:
        """Write safetensors; source and namespace stand in its metadata."""
        from safetensors.numpy import save_file

        notes = {"source": self.source, "namespace": self.namespace}
        save_file({"contents": self.contents, "ids": self.ids}, path, metadata=notes)

    @classmethod
    def load(cls, path: Path) -> Learnt:
        """Read what `save` wrote.

        Raises:
            ModelError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                notes = file.metadata() or {}
                return cls(file.get_tensor("contents"), file.get_tensor("ids"), notes["source"], notes["namespace"])
        except (SafetensorError, OSError, KeyError) as error:
            raise ModelError(f"{path}: the record of training photos is damaged ({error}); copy it again") from None


def check_unseen(
    manifest: Manifest, hashes: Sequence[str | None], learnt: Learnt | None, trained_on: str, *, allow: bool = False
) -> int:
    """How many of the photos to test on a model has learnt from; refused unless allowed.

    A model that came without a record of its photos (`learnt` None) but was trained on a named split of a set
    is refused on any other split of that set, and on sets made of its photos.

    Args:
        manifest: the photos to test on.
        hashes: their content hashes.
        trained_on: what the model says it was trained on, as in a data SPEC: "ava:tanet".

    Raises:
        LeakageError: saying how many, and of what.
    """
    if learnt is not None:
        seen = learnt.seen(manifest, hashes)
        count = int(seen.sum())
        if count and not allow:
            first = manifest.ids[int(np.flatnonzero(seen)[0])]
            raise LeakageError(
                f"the model has learnt from {count:,} of these {len(manifest):,} test photos ({first}, …): it was "
                f"trained on {learnt.source or 'them'}; test it on other photos, or give --allow-leakage and do not "
                "quote the result"
            )
        return count
    own_set = trained_on.partition(":")[0]
    if own_set and own_set == manifest.namespace and trained_on != manifest.source:
        if not allow:
            raise LeakageError(
                f"the model was trained on {trained_on}, whose training photos are among those of "
                f"{manifest.source}; test it on {trained_on}, or give --allow-leakage and do not quote the result"
            )
        return len(manifest)
    return 0


def _short(names: Iterable[str]) -> NDArray[np.uint64]:
    """8 bytes of each name's hash: one pair in 10¹⁹ is alike by chance, of 230,000 × 20,000 photos none."""
    digests = b"".join(
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
