"""Metrics of the mean and of the distribution: ACC, SRCC, PLCC, MSE, EMD."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from tmcr.errors import MetricError
from tmcr.metrics.checks import Floats, as_axis, as_distributions, as_pair, shape_of

ACC_THRESHOLD = 5.0


# --- metrics of the mean ---


def acc(predicted: ArrayLike, true: ArrayLike, *, threshold: float = ACC_THRESHOLD) -> float:
    """Share of photos (0..1) put on the right side of `threshold`; a score equal to it is low quality."""
    predicted, true = as_pair(predicted, true)
    return float(np.mean((predicted > threshold) == (true > threshold)))


def mse(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean squared difference, in squared score points."""
    predicted, true = as_pair(predicted, true)
    return float(np.mean((predicted - true) ** 2))


def plcc(predicted: ArrayLike, true: ArrayLike) -> float:
    """Pearson's linear correlation, −1..1."""
    predicted, true = as_pair(predicted, true, at_least=2)
    _varying(predicted, true, "PLCC")
    return _correlation(predicted, true)


def srcc(predicted: ArrayLike, true: ArrayLike) -> float:
    """Spearman's rank correlation, −1..1: Pearson's of the ranks; ties share their average rank."""
    predicted, true = as_pair(predicted, true, at_least=2)
    _varying(predicted, true, "SRCC")
    return _correlation(rankdata(predicted), rankdata(true))


# --- metrics of the distribution ---


def emd(predicted: ArrayLike, true: ArrayLike, *, r: float = 2.0) -> float:
    """Earth mover's distance of eq. 14, averaged over photos; both are (N, D) on the same D score bins.

    A photo's distance is `((1/D) Σ_d |CDF_predicted(d) − CDF_true(d)|^r)^(1/r)`, 0..1. It counts in
    bins, not in score points, so only values on the same bins compare; see `on_axis`.
    """
    return float(np.mean(emd_per_photo(predicted, true, r=r)))


def emd_per_photo(predicted: ArrayLike, true: ArrayLike, *, r: float = 2.0) -> Floats:
    """The distances (N,) that `emd` averages."""
    if not r > 0:
        raise MetricError(f"EMD needs r > 0, not {r}")
    predicted = as_distributions(predicted, "predicted distributions")
    true = as_distributions(true, "true distributions")
    if predicted.shape != true.shape:
        raise MetricError(
            f"predicted distributions are {shape_of(predicted)} but the true ones {shape_of(true)}; "
            "bring both to the same bins with on_axis"
        )
    difference = np.abs(np.cumsum(predicted - true, axis=1))
    return np.asarray(np.mean(difference**r, axis=1) ** (1 / r), dtype=np.float64)


def on_axis(distributions: ArrayLike, values: ArrayLike, new_values: ArrayLike) -> Floats:
    """Distributions (N, D) over the scores `values` (D,), moved to the bins `new_values` (K,) → (N, K).

    A bin's mass is split between the two new bins on either side of its score, the nearer getting more, so
    that means are kept exactly; mass beyond either end goes to the end bin.
    """
    distributions = as_distributions(distributions, "distributions")
    values = as_axis(values, distributions.shape[1])
    new_values = as_axis(new_values)
    if np.array_equal(values, new_values):
        return distributions
    inside = np.clip(values, new_values[0], new_values[-1])
    right = np.clip(np.searchsorted(new_values, inside), 1, len(new_values) - 1)
    share = (inside - new_values[right - 1]) / (new_values[right] - new_values[right - 1])
    move = np.zeros((len(values), len(new_values)))
    rows = np.arange(len(values))
    move[rows, right - 1] = 1 - share
    move[rows, right] = share
    return np.asarray(distributions @ move, dtype=np.float64)


def _varying(predicted: Floats, true: Floats, metric: str) -> None:
    # The mean of one and the same distribution may differ between rows in its last bit: no variation.
    for values, what in ((predicted, "predicted scores"), (true, "true scores")):
        if np.ptp(values) <= 1e-12 * np.abs(values).max():
            raise MetricError(f"{metric} is undefined: the {what} are all the same")


def _correlation(first: Floats, second: Floats) -> float:
    first, second = first - first.mean(), second - second.mean()
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    value = first @ second / np.sqrt((first @ first) * (second @ second))
    return float(np.clip(value, -1.0, 1.0))
