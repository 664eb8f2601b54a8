"""What a model must beat: the mean distribution, and ridge regression on any features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.splits import group_folds

Floats = NDArray[np.float64]
MOST_TO_CHOOSE_ON = 10_000
STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.arange(-2, 2.1, 0.5))


def constant(train: Floats, n: int) -> Floats:
    """The mean training distribution for everyone: (T, D), n → (n, D)."""
    return np.repeat(train.mean(0, keepdims=True), n, 0)


def ridge(features: Floats, distributions: Floats, new: Floats, *, strength: float) -> Floats:
    """Ridge regression of standardised features (T, F) on all bins (T, D) at once; predictions (n, D) for (n, F).

    The expected score of the raw prediction is that of ridge regression on the scores. Predictions are made
    distributions by cutting negative shares off.

    Args:
        strength: λ against the mean squared length of a standardised photo.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    x, x_new = (features - mean) / std, (new - mean) / std
    width, centre = x.shape[1], distributions.mean(0)
    if len(x) > width:
        gram = x.T @ x / width + strength * np.eye(width)
        weights = np.linalg.solve(gram, x.T @ (distributions - centre) / width)
    else:  # the same by the matrix inversion lemma, with the smaller system to solve
        kernel = x @ x.T / width + strength * np.eye(len(x))
        weights = x.T @ np.linalg.solve(kernel, distributions - centre) / width
    raw = np.clip(centre + x_new @ weights, 1e-6, None)
    shares: Floats = raw / raw.sum(1, keepdims=True)
    return shares


def choose_strength(
    features: Floats,
    distributions: Floats,
    groups: Sequence[str],
    score_values: Floats,
    *,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """The strength with the smallest squared error of the score in cross-validation over groups.

    It is chosen on `MOST_TO_CHOOSE_ON` photos drawn at random where there are more.
    """
    if len(features) > MOST_TO_CHOOSE_ON:
        rows = np.random.default_rng(seed).permutation(len(features))[:MOST_TO_CHOOSE_ON]
        features, distributions, groups = features[rows], distributions[rows], [groups[row] for row in rows]
    fold = group_folds(groups, folds, seed=seed)
    scores = distributions @ score_values

    def error(strength: float) -> float:
        wrong = 0.0
        for held_out in range(folds):
            out = fold == held_out
            predicted = ridge(features[~out], distributions[~out], features[out], strength=strength) @ score_values
            wrong += float(((predicted - scores[out]) ** 2).sum())
        return wrong

    return min(STRENGTHS, key=error)
