"""A rating distribution where only the mean is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEFAULT_STD = 1.4  # score points on 1..10; about what photographs get from a crowd


def distributions_from_means(
    means: NDArray[np.float64],
    score_values: NDArray[np.float64],
    std: float | NDArray[np.float64] = DEFAULT_STD,
) -> NDArray[np.float64]:
    """The normal distribution of that mean and standard deviation on the score bins, tilted so that the mean is exact.

    The density at the bins is multiplied by exp(t·value), with t such that the mean of the result is the mean
    asked for (among all distributions with that mean, the nearest to the normal one in the sense of
    Kullback and Leibler). At the ends of the scale all weight comes to the end bin.

    Args:
        means: (N,) within the score values.
        score_values: (D,) ascending.
        std: score points, one number or (N,).

    Returns:
        (N, D); rows sum to 1.
    """
    asked = np.stack([means, np.broadcast_to(np.asarray(std, dtype=np.float64), means.shape)], 1)
    asked, place = np.unique(asked, axis=0, return_inverse=True)  # published means are rounded, so most are repeated
    means, width = asked[:, 0], asked[:, 1, None]
    log_density = -0.5 * ((score_values[None, :] - means[:, None]) / np.maximum(width, 0.05)) ** 2
    low, high = np.full(len(means), -200.0), np.full(len(means), 200.0)
    for _ in range(80):  # bisection on t; the mean grows with t
        tilt = (low + high) / 2
        shares = _softmax(log_density + tilt[:, None] * score_values)
        below = shares @ score_values < means
        low, high = np.where(below, tilt, low), np.where(below, high, tilt)
    return shares[place]


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(values - values.max(1, keepdims=True))
    shares: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
    return shares
