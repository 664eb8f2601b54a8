"""Label distribution smoothing (LDS; Yang et al., Delving into Deep Imbalanced Regression, 2021).

The training scores are counted in narrow bins and the counts smoothed with a Gaussian, because a photo rated 8.1
also tells something about one rated 8.3. A photo's weight is one over the square root of the smoothed count at its
score, the form their published runs on images use; weights have mean 1.

The weights act through the training set: every photo comes into it as often as its weight says, four times on
average, and an epoch over it counts as four. In expectation the gradient is that of the weighted loss, the number of
updates is the unweighted run's, and loss, network and training loop stay the very ones of the other systems.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.training.config import FitConfig

Floats = NDArray[np.float64]

BIN_WIDTH = 0.25  # score points
KERNEL_SIZE = 5  # bins
KERNEL_SIGMA = 2.0  # bins; size and spread are the authors' defaults
COPIES = 4


def lds_weights(scores: Floats, *, bin_width: float = BIN_WIDTH, power: float = 0.5) -> Floats:
    """Weights (n,) with mean 1 for training scores (n,) on 1..10; `power` 1 is the full inverse density."""
    bins = np.floor((scores - 1) / bin_width + 1e-9).astype(np.int64)
    counts = np.bincount(bins, minlength=int(np.ceil(9 / bin_width)) + 1).astype(np.float64)
    offsets = np.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    kernel = np.exp(-0.5 * (offsets / KERNEL_SIGMA) ** 2)
    density = np.convolve(counts, kernel / kernel.sum(), mode="same")
    weights: Floats = density[bins] ** -power
    return weights / weights.mean()


def repeats(weights: Floats, total: int, *, seed: int) -> NDArray[np.int64]:
    """How often each photo (n,) is repeated: whole numbers in proportion to `weights`, `total` in all.

    Systematic sampling: each number is its proportional share rounded up or down, up with just the probability that
    makes the share the expectation.
    """
    ends = np.cumsum(weights) / weights.sum() * total
    ends[-1] = total
    shift = np.random.default_rng(seed).random()
    marks = np.floor(ends + shift).astype(np.int64)
    counts: NDArray[np.int64] = np.diff(marks, prepend=np.int64(0))
    return counts


def reweighted(photos: Manifest, *, seed: int, copies: int = COPIES) -> Manifest:
    """The photos with each training photo repeated by its LDS weight; test photos come once, behind them.

    Validation photos all come `copies` times: what they say of an epoch is unchanged, and where a network is fitted
    anew on training and validation photos together they count as photos of weight 1.
    """
    splits = np.array(photos.splits)
    train, validation, test = (np.flatnonzero(splits == part) for part in ("train", "val", "test"))
    counts = repeats(lds_weights(photos.scores[train]), copies * len(train), seed=seed)
    return photos.take(np.concatenate([np.repeat(train, counts), np.repeat(validation, copies), test]))


def epochs_over_copies(config: FitConfig, copies: int = COPIES) -> dict[str, Any]:
    """Settings under which a training set `copies` times as large takes as many updates as before."""
    return {
        "fit.epochs": -(-config.epochs // copies),
        "fit.patience": max(1, -(-config.patience // copies)),
        "fit.decay": config.decay**copies,
    }
