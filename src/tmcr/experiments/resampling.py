"""Metrics on bootstrap resamples, all resamples at once.

A resample is a row of weights: how often each photo is in it. Means and correlations under whole-number weights equal
those on the photos repeated so many times, ties and all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # weights held at a time


def group_weights(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks (b, N) of weights, `resamples` rows in all: whole groups drawn with replacement, as many as there are."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, CHUNK // len(member))
    for start in range(0, resamples, block):
        drawn = [
            np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
            for _ in range(min(block, resamples - start))
        ]
        yield np.stack(drawn)[:, member].astype(np.float64)


def mean(weights: Floats, values: Floats) -> Floats:
    """Weighted mean (b,) of values (N,) under weights (b, N); NaN where all weights are 0."""
    total = weights.sum(1)
    return np.asarray(np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan))


def pearson(weights: Floats, first: Floats, second: Floats) -> Floats:
    """Weighted linear correlation (b,) of two columns, (N,) or (b, N); NaN where one does not vary."""
    total = np.maximum(weights.sum(1, keepdims=True), 1)
    varies = _varies(weights, first) & _varies(weights, second)
    x = first - (weights * first).sum(1, keepdims=True) / total
    y = second - (weights * second).sum(1, keepdims=True) / total
    covariance = (weights * x * y).sum(1)
    spread = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return np.asarray(np.where(varies, covariance / np.where(varies, spread, 1), np.nan))


def ranks(weights: Floats, values: Floats) -> Floats:
    """Average ranks (b, N) of values (N,) among the photos repeated by their weights."""
    distinct, place = np.unique(values, return_inverse=True)
    held = np.zeros((len(weights), len(distinct)))
    np.add.at(held.T, place, weights.T)
    upto = held.cumsum(1)
    return np.asarray((upto - (held - 1) / 2)[:, place])


def _varies(weights: Floats, values: Floats) -> NDArray[np.bool_]:
    # The mean of one and the same distribution may differ between photos in its last bit: no variation.
    inside = weights > 0
    highest = np.where(inside, values, -np.inf).max(1)
    lowest = np.where(inside, values, np.inf).min(1)
    return np.asarray(highest - lowest > 1e-12 * np.abs(values).max())
