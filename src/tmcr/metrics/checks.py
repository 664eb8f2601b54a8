"""What metrics refuse: empty, mismatched and non-finite input, rows that are no distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmcr.errors import MetricError

Floats = NDArray[np.float64]
Metric = Callable[..., float]
_SUM_TOLERANCE = 1e-4  # a float32 softmax over tens of bins stays well inside


def as_vector(values: ArrayLike, what: str, at_least: int = 1) -> Floats:
    array = as_floats(values, what)
    if array.ndim != 1:
        raise MetricError(f"{what} must be a plain list of numbers, not of shape {shape_of(array)}")
    if len(array) < at_least:
        raise MetricError(f"{what}: {len(array)} given, at least {at_least} needed")
    _finite(array, what)
    return array


def as_floats(values: ArrayLike, what: str) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise MetricError(f"{what} must be numbers") from None


def _finite(array: Floats, what: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        raise MetricError(f"{what} must be finite; number {int(np.argwhere(bad)[0][0])} (from 0) is not")


def as_pair(predicted: ArrayLike, true: ArrayLike, at_least: int = 1) -> tuple[Floats, Floats]:
    first = as_vector(predicted, "predicted scores", at_least)
    second = as_vector(true, "true scores", at_least)
    if len(first) != len(second):
        raise MetricError(f"there are {len(first)} predicted scores but {len(second)} true ones")
    return first, second


def as_distributions(values: ArrayLike, what: str) -> Floats:
    array = as_floats(values, what)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise MetricError(f"{what} must be (photos, score bins) with two bins or more, not {shape_of(array)}")
    _finite(array, what)
    wrong = (array < 0).any(axis=1) | (np.abs(array.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MetricError(f"{what}: row {row} (from 0) is negative somewhere or does not sum to 1")
    return array


def as_axis(values: ArrayLike, bins: int | None = None) -> Floats:
    axis = as_vector(values, "score values", at_least=2)
    if bins is not None and len(axis) != bins:
        raise MetricError(f"there are {len(axis)} score values for {bins} score bins")
    if (np.diff(axis) <= 0).any():
        raise MetricError("score values must ascend")
    return axis


def shape_of(array: Floats) -> str:
    return " × ".join(map(str, array.shape)) or "a single number"


def or_none(metric: Metric, arrays: Sequence[Floats]) -> float | None:
    try:
        return metric(*arrays)
    except MetricError:
        return None
