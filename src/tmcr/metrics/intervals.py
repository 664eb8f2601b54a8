"""How sure a metric is on so many photos: percentile bootstrap over photos or whole groups of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmcr.errors import MetricError
from tmcr.metrics.checks import Floats, Metric, as_floats, or_none, shape_of


@dataclass(frozen=True)
class Interval:
    """A value and its percentile bootstrap confidence interval.

    Attributes:
        value: the metric on all photos.
        low, high: ends of the interval.
        level: its confidence level, e.g. 0.95.
        resamples: how many resamples it rests on.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    metric: Metric,
    *arrays: ArrayLike,
    n: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of `metric(*arrays)`; the arrays run over the same N photos.

    With `groups` (N names), whole groups are drawn instead of photos: pictures of one theme are no
    independent witnesses, and drawing them one by one would make the interval too narrow. Resamples on
    which the metric is undefined are left out.

    Raises:
        MetricError: fewer than two photos or groups, or a metric undefined on more than a tenth of the
            resamples.
    """
    columns = _columns(arrays)
    value = metric(*columns)
    draws = _resamples(len(columns[0]), n, seed, groups, level)
    resampled = [or_none(metric, [column[draw] for column in columns]) for draw in draws]
    return _interval(value, resampled, level)


def paired_difference(
    metric: Metric,
    first: ArrayLike,
    second: ArrayLike,
    true: ArrayLike,
    *,
    n: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of `metric(first, true) − metric(second, true)`, both on the same resamples.

    Two models judged on the same photos share the luck of the draw; their difference is surer than their
    separate intervals suggest. It is credible at `level` when the interval leaves 0 out.

    Raises:
        MetricError: as for `bootstrap`.
    """

    def difference(a: Floats, b: Floats, truth: Floats) -> float:
        return metric(a, truth) - metric(b, truth)

    return bootstrap(difference, first, second, true, n=n, seed=seed, groups=groups, level=level)


def _columns(arrays: Sequence[ArrayLike]) -> list[Floats]:
    if not arrays:
        raise MetricError("bootstrap needs at least one array of values")
    columns = [as_floats(array, "values") for array in arrays]
    if any(column.ndim == 0 for column in columns) or len({len(column) for column in columns}) != 1:
        shapes = ", ".join(map(shape_of, columns))
        raise MetricError(f"bootstrap needs arrays of the same length, not {shapes}")
    return columns


def _resamples(
    photos: int, n: int, seed: int, groups: Sequence[str] | None, level: float
) -> Iterator[NDArray[np.int64]]:
    if n < 1 or not 0 < level < 1:
        raise MetricError(f"bootstrap needs n ≥ 1 and a level between 0 and 1, not {n} and {level}")
    if groups is not None and len(groups) != photos:
        raise MetricError(f"there are {photos} photos but {len(groups)} groups")
    _, member = np.unique(np.arange(photos) if groups is None else np.asarray(groups), return_inverse=True)
    order = np.argsort(member, kind="stable")
    units = np.split(order, np.cumsum(np.bincount(member))[:-1])
    if len(units) < 2:
        kind = "photos" if groups is None else "groups"
        raise MetricError(f"bootstrap needs two {kind} or more, not {len(units)}")
    rng = np.random.default_rng(seed)
    for _ in range(n):
        drawn = rng.integers(len(units), size=len(units))
        # Where every unit is one photo, drawing units is drawing photos; joining them would only be slow.
        yield drawn if len(units) == photos else np.concatenate([units[unit] for unit in drawn])


def _interval(value: float, resampled: Sequence[float | None], level: float) -> Interval:
    defined = [each for each in resampled if each is not None]
    if len(defined) < 0.9 * len(resampled):
        raise MetricError(
            f"the metric is undefined on {len(resampled) - len(defined)} of {len(resampled)} resamples; "
            "there are too few different photos for a confidence interval"
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, len(defined))
