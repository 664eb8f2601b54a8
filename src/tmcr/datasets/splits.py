"""Splits that keep a theme in one part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.errors import DataError

FEWEST_TRAINED = 2  # batch normalisation has no variance of one photo


def split_by_group(groups: Sequence[str], share: float, *, seed: int) -> NDArray[np.bool_]:
    """Mark whole groups, drawn at random, until about `share` of the members is marked."""
    names, place, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = np.cumsum(sizes[order]) <= max(share * len(groups), sizes[order[0]])
    return np.isin(place, order[taken])


def group_folds(groups: Sequence[str], folds: int, *, seed: int) -> NDArray[np.int64]:
    """Fold 0..folds−1 of each member; a group is in one fold, folds are about equally large."""
    names, place, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    fold_of = np.zeros(len(names), dtype=np.int64)
    load = np.zeros(folds)
    for group in np.random.default_rng(seed).permutation(len(names)):
        fold_of[group] = int(load.argmin())
        load[fold_of[group]] += sizes[group]
    return fold_of[place]


def carve_validation(manifest: Manifest, share: float, *, seed: int) -> Manifest:
    """Mark about `share` of the training photos "val", by group; a manifest that has a "val" part is left as it is.

    Raises:
        DataError: fewer than two photos are left to learn from.
    """
    nothing_to_do = "val" in manifest.splits or "train" not in manifest.splits
    carved = manifest if nothing_to_do else _carve(manifest, share, seed=seed)
    if (left := carved.splits.count("train")) < FEWEST_TRAINED:
        raise DataError(
            f"{manifest.description}: too few photos to split, {left} would be left to learn from; have at "
            f"least {FEWEST_TRAINED + 2} in 3 groups: 1 to test on, 1 to validate on, {FEWEST_TRAINED} to learn from"
        )
    return carved


def _carve(manifest: Manifest, share: float, *, seed: int) -> Manifest:
    train = np.flatnonzero(np.array(manifest.splits) == "train")
    groups = manifest.groups or manifest.ids
    marked = split_by_group([groups[row] for row in train], share, seed=seed)
    splits = list(manifest.splits)
    for row in train[marked]:
        splits[row] = "val"
    return manifest.with_splits(splits)
