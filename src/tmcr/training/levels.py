"""Aesthetic levels and balanced-level batches (eq. 8 and the paper's balanced sampling)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MOST_REPEATS = 4  # a level's photo comes into one batch at most this many times


def score_levels(
    scores: NDArray[np.float64], *, bins: int = 9, form: Literal["paper", "official"] = "paper"
) -> NDArray[np.int64]:
    """Level 0..bins−1 of scores in 1..10: equal bins, with 9 the paper's [1,2), [2,3) … [9,10].

    `form="official"` keeps (2,3) … (8,9) only: scores outside or on an integer get −1 and are not ranked.
    """
    levels = np.clip(np.floor((scores - 1) * bins / 9 + 1e-9), 0, bins - 1).astype(np.int64)
    if form == "official":
        dropped = (scores <= 2) | (scores >= 9) | (scores == np.round(scores))
        levels = np.where(dropped, -1, levels)
    return levels


def balanced_count(level_sizes: NDArray[np.int64], *, batch_limit: int = 64, most_repeats: int = MOST_REPEATS) -> int:
    """N_bal of a cluster from the sizes of its non-empty levels.

    As many photos per level as the batch holds, but no more than `most_repeats` times the rarest level's, and at
    least 2 (one photo has no partner in its level) where the batch allows.
    """
    fits = batch_limit // len(level_sizes)
    return max(1, min(fits, max(2, most_repeats * int(level_sizes.min()))))


class BalancedBatches:
    """Balanced-level batches of every cluster, each of them reproducible on its own.

    An epoch has `frequency` batches for each cluster with two levels or more, in an order shuffled for the epoch.
    A batch depends on (seed, epoch, step) alone.

    Args:
        labels: (n,) cluster of each photo.
        levels: (n,) level of each photo; −1 is left out.
        n_bal: photos per level; None: by `balanced_count`.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        levels: NDArray[np.int64],
        *,
        n_bal: int | None = None,
        batch_limit: int = 64,
        frequency: int = 30,
        seed: int = 0,
    ) -> None:
        self.frequency = frequency
        self.seed = seed
        self.members: list[list[NDArray[np.int64]]] = []
        self.n_bal: list[int] = []
        for cluster in np.unique(labels):
            inside = (labels == cluster) & (levels >= 0)
            groups = [np.flatnonzero(inside & (levels == level)) for level in np.unique(levels[inside])]
            if len(groups) >= 2:
                self.members.append(groups)
                sizes = np.array([len(group) for group in groups])
                self.n_bal.append(n_bal or balanced_count(sizes, batch_limit=batch_limit))
        self.skipped = len(np.unique(labels)) - len(self.members)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.frequency * len(self.members)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Indices of one batch: N_bal of each non-empty level of one cluster.

        A level is drawn from without replacement until it is exhausted, then anew.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
        cluster = int(order[step]) % len(self.members)
        rng = np.random.default_rng((self.seed, epoch, step))
        want = self.n_bal[cluster]
        drawn = [
            np.concatenate([rng.permutation(group) for _ in range(math.ceil(want / len(group)))])[:want]
            for group in self.members[cluster]
        ]
        return np.concatenate(drawn)
