"""All metrics at once, with confidence intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmcr.errors import MetricError
from tmcr.metrics.agreement import acc, emd_per_photo, mse, on_axis, plcc, srcc
from tmcr.metrics.checks import Floats, Metric, as_axis, as_distributions, or_none
from tmcr.metrics.intervals import Interval, bootstrap
from tmcr.metrics.long_tail import LongTail, long_tail, regions_by_density


@dataclass(frozen=True)
class Report:
    """All metrics of one model on one set of photos.

    Attributes:
        n: number of photos.
        acc: 0..1. srcc, plcc: −1..1, None where undefined (constant predictions or ratings, one photo).
        mse: squared score points. emd1, emd2: eq. 14 with r = 1 and r = 2 on the bins of the true ratings.
        intervals: confidence intervals by metric name ("srcc", …); empty when none were asked for.
        long_tail: the error by how common a score is, over all `n` photos; None without training scores.
    """

    n: int
    acc: float
    srcc: float | None
    plcc: float | None
    mse: float
    emd1: float
    emd2: float
    intervals: dict[str, Interval] = field(default_factory=dict)
    long_tail: LongTail | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        values: dict[str, object] = {"n": self.n, **{name: getattr(self, name) for name in METRIC_NAMES}}
        if self.intervals:
            values["intervals"] = {name: [each.low, each.high] for name, each in self.intervals.items()}
        if self.long_tail is not None:
            values["long_tail"] = asdict(self.long_tail)
        return values


METRIC_NAMES = ("acc", "srcc", "plcc", "mse", "emd1", "emd2")


def evaluate(
    predicted: ArrayLike,
    true: ArrayLike,
    score_values: ArrayLike,
    *,
    true_values: ArrayLike | None = None,
    train_scores: ArrayLike | None = None,
    regions: Sequence[str] | NDArray[np.str_] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> Report:
    """All metrics of predicted distributions (N, D) over `score_values` (D,) against the true ones.

    `true_values` (K,) are the scores of the true distributions (N, K) where they differ from the
    predicted ones'; the predictions are then moved to them for EMD (`on_axis`). With `train_scores`,
    the mean ratings of the training photos, the error is also told by region (`regions_by_density`); `regions` (N,)
    are used instead where a published list says them.
    Every metric gets a bootstrap interval (`bootstrap`), over `groups` where they are given, unless it
    is undefined or there are too few photos for one, or `resamples` is 0.

    Raises:
        MetricError: shapes that do not fit, rows that are no distributions.
    """
    predicted = as_distributions(predicted, "predicted distributions")
    true = as_distributions(true, "true distributions")
    if len(predicted) != len(true):
        raise MetricError(f"there are {len(predicted)} predictions but {len(true)} rated photos")
    if groups is not None and len(groups) != len(true):
        raise MetricError(f"there are {len(true)} photos but {len(groups)} groups")
    values = as_axis(score_values, predicted.shape[1])
    true_axis = as_axis(score_values if true_values is None else true_values, true.shape[1])
    scores, true_scores = predicted @ values, true @ true_axis
    moved = on_axis(predicted, values, true_axis)
    distances = {r: emd_per_photo(moved, true, r=r) for r in (1.0, 2.0)}

    def mean(distance: Floats) -> float:
        return float(np.mean(distance))

    measured: dict[str, tuple[Metric, list[Floats]]] = {
        "acc": (acc, [scores, true_scores]),
        "srcc": (srcc, [scores, true_scores]),
        "plcc": (plcc, [scores, true_scores]),
        "mse": (mse, [scores, true_scores]),
        "emd1": (mean, [distances[1.0]]),
        "emd2": (mean, [distances[2.0]]),
    }
    intervals = {}
    for name, (metric, arrays) in measured.items() if resamples else ():
        # A handful of photos has metrics but no confidence to speak of.
        with contextlib.suppress(MetricError):
            intervals[name] = bootstrap(metric, *arrays, n=resamples, seed=seed, groups=groups, level=level)
    tail = None
    if regions is not None:
        tail = long_tail(scores, true_scores, regions)
    elif train_scores is not None:
        tail = long_tail(scores, true_scores, regions_by_density(train_scores, true_scores))
    return Report(
        n=len(true),
        acc=acc(scores, true_scores),
        srcc=or_none(srcc, [scores, true_scores]),
        plcc=or_none(plcc, [scores, true_scores]),
        mse=mse(scores, true_scores),
        emd1=mean(distances[1.0]),
        emd2=mean(distances[2.0]),
        intervals=intervals,
        long_tail=tail,
    )
