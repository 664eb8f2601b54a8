"""Refuse to test on photos that were trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tmcr.datasets.manifest import Manifest
from tmcr.errors import LeakageError


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
