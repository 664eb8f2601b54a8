"""How well predictions agree with people: ACC, SRCC, PLCC, MSE, EMD, long tail, confidence intervals.

Scores are means on 1..10. Every function raises `MetricError` where its value is undefined rather than
returning NaN: on empty, mismatched or non-finite input, and for correlations on fewer than two or on
constant values.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from tmcr.errors import MetricError

Floats = NDArray[np.float64]
Metric = Callable[..., float]
Region = Literal["many", "med", "few"]

REGIONS: tuple[Region, ...] = get_args(Region)
ACC_THRESHOLD = 5.0
# Between the neighbouring scores of different regions in the paper's balanced AVA test list.
PAPER_EDGES = (3.85, 4.865, 5.885, 6.90)
_SUM_TOLERANCE = 1e-4  # a float32 softmax over tens of bins stays well inside


# --- metrics of the mean ---


def acc(predicted: ArrayLike, true: ArrayLike, *, threshold: float = ACC_THRESHOLD) -> float:
    """Share of photos (0..1) put on the right side of `threshold`; a score equal to it is low quality."""
    predicted, true = _pair(predicted, true)
    return float(np.mean((predicted > threshold) == (true > threshold)))


def mse(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean squared difference, in squared score points."""
    predicted, true = _pair(predicted, true)
    return float(np.mean((predicted - true) ** 2))


def plcc(predicted: ArrayLike, true: ArrayLike) -> float:
    """Pearson's linear correlation, −1..1."""
    predicted, true = _pair(predicted, true, at_least=2)
    _varying(predicted, true, "PLCC")
    return _correlation(predicted, true)


def srcc(predicted: ArrayLike, true: ArrayLike) -> float:
    """Spearman's rank correlation, −1..1: Pearson's of the ranks; ties share their average rank."""
    predicted, true = _pair(predicted, true, at_least=2)
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
    predicted = _distributions(predicted, "predicted distributions")
    true = _distributions(true, "true distributions")
    if predicted.shape != true.shape:
        raise MetricError(
            f"predicted distributions are {_shape(predicted)} but the true ones {_shape(true)}; "
            "bring both to the same bins with on_axis"
        )
    difference = np.abs(np.cumsum(predicted - true, axis=1))
    return np.asarray(np.mean(difference**r, axis=1) ** (1 / r), dtype=np.float64)


def on_axis(distributions: ArrayLike, values: ArrayLike, new_values: ArrayLike) -> Floats:
    """Distributions (N, D) over the scores `values` (D,), moved to the bins `new_values` (K,) → (N, K).

    A bin's mass is split between the two new bins on either side of its score, the nearer getting more, so
    that means are kept exactly; mass beyond either end goes to the end bin.
    """
    distributions = _distributions(distributions, "distributions")
    values = _axis(values, distributions.shape[1])
    new_values = _axis(new_values)
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


# --- uncertainty ---


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
    resampled = [_or_none(metric, [column[draw] for column in columns]) for draw in draws]
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


# --- long tail ---


def regions_by_edges(scores: ArrayLike, edges: Sequence[float] = PAPER_EDGES) -> NDArray[np.str_]:
    """Region (N,) of every score by four ascending edges a, b, c, d; the default is the paper's for AVA.

    "many" is [b, c), "med" [a, b) and [c, d), "few" everything below a and from d on.
    """
    scores = _vector(scores, "scores")
    if len(edges) != 4 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise MetricError(f"region edges must be four ascending scores, not {tuple(edges)}")
    names = np.array(["few", "med", "many", "med", "few"])
    return names[np.searchsorted(np.asarray(edges, dtype=np.float64), scores, side="right")]


def regions_by_density(
    train_scores: ArrayLike,
    scores: ArrayLike,
    *,
    bin_width: float = 0.5,
    many: float = 0.75,
    few: float = 0.1,
) -> NDArray[np.str_]:
    """Region (N,) of every score by how many training photos have a score like it.

    The training scores are counted in bins of `bin_width` from 1 on. A score is in "many" when its bin
    holds at least `many` times as many photos as the fullest bin, in "few" when it holds less than `few`
    times as many, and in "med" otherwise. On AVA the defaults put the borders at 4, 5, 6 and 7, close to
    the paper's 3.85, 4.865, 5.885 and 6.90.
    """
    train_scores = _vector(train_scores, "training scores")
    scores = _vector(scores, "scores")
    if not 0 < few <= many <= 1 or not bin_width > 0:
        raise MetricError(f"regions need 0 < few ≤ many ≤ 1 and a positive bin width, not {few}, {many}, {bin_width}")
    train_bins = _score_bins(train_scores, bin_width)
    bins = _score_bins(scores, bin_width)
    found, counts = np.unique(train_bins, return_counts=True)
    at = np.clip(np.searchsorted(found, bins), 0, len(found) - 1)
    density = np.where(found[at] == bins, counts[at], 0) / counts.max()
    return np.where(density >= many, "many", np.where(density < few, "few", "med"))


def balanced_draw(
    regions: Sequence[str] | NDArray[np.str_], *, per_region: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Ascending indices of an equal number of photos from every region, drawn without replacement.

    `per_region` is that number; by default, as many as the smallest region holds.

    Raises:
        MetricError: a region is empty or holds fewer photos than asked for.
    """
    names = np.asarray(regions)
    members = {region: np.flatnonzero(names == region) for region in REGIONS}
    sizes = {region: len(indices) for region, indices in members.items()}
    wanted = min(sizes.values()) if per_region is None else per_region
    if wanted < 1 or wanted > min(sizes.values()):
        held = ", ".join(f"{region} {size}" for region, size in sizes.items())
        raise MetricError(f"cannot draw {max(wanted, 1)} photos from every region: {held}")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(members[region], size=wanted, replace=False) for region in REGIONS]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


@dataclass(frozen=True)
class LongTail:
    """Table 3's row: how the error spreads from common to rare scores, on `n` photos in all.

    `counts` and `mse` are by region ("many", "med", "few"); a region without photos has count 0 and no MSE.
    """

    n: int
    counts: dict[Region, int]
    mse: dict[Region, float]
    mse_all: float
    srcc: float | None
    plcc: float | None


def long_tail(predicted: ArrayLike, true: ArrayLike, regions: Sequence[str] | NDArray[np.str_]) -> LongTail:
    """MSE per region, MSE, SRCC and PLCC over all photos given; draw them with `balanced_draw` for Table 3.

    Raises:
        MetricError: lengths differ, or a region has a name other than "many", "med" and "few".
    """
    predicted, true = _pair(predicted, true)
    names = np.asarray(regions)
    if names.shape != true.shape:
        raise MetricError(f"there are {len(true)} scores but {len(names)} regions")
    unknown = sorted(set(names.tolist()) - set(REGIONS))
    if unknown:
        raise MetricError(f"no region {unknown[0]!r}; there are {', '.join(REGIONS)}")
    inside = {region: names == region for region in REGIONS}
    return LongTail(
        n=len(true),
        counts={region: int(mask.sum()) for region, mask in inside.items()},
        mse={region: mse(predicted[mask], true[mask]) for region, mask in inside.items() if mask.any()},
        mse_all=mse(predicted, true),
        srcc=_or_none(srcc, [predicted, true]),
        plcc=_or_none(plcc, [predicted, true]),
    )


# --- all at once ---


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
    predicted = _distributions(predicted, "predicted distributions")
    true = _distributions(true, "true distributions")
    if len(predicted) != len(true):
        raise MetricError(f"there are {len(predicted)} predictions but {len(true)} rated photos")
    if groups is not None and len(groups) != len(true):
        raise MetricError(f"there are {len(true)} photos but {len(groups)} groups")
    values = _axis(score_values, predicted.shape[1])
    true_axis = _axis(score_values if true_values is None else true_values, true.shape[1])
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
        srcc=_or_none(srcc, [scores, true_scores]),
        plcc=_or_none(plcc, [scores, true_scores]),
        mse=mse(scores, true_scores),
        emd1=mean(distances[1.0]),
        emd2=mean(distances[2.0]),
        intervals=intervals,
        long_tail=tail,
    )


# --- checks ---


def _vector(values: ArrayLike, what: str, at_least: int = 1) -> Floats:
    array = _floats(values, what)
    if array.ndim != 1:
        raise MetricError(f"{what} must be a plain list of numbers, not of shape {_shape(array)}")
    if len(array) < at_least:
        raise MetricError(f"{what}: {len(array)} given, at least {at_least} needed")
    _finite(array, what)
    return array


def _floats(values: ArrayLike, what: str) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise MetricError(f"{what} must be numbers") from None


def _finite(array: Floats, what: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        raise MetricError(f"{what} must be finite; number {int(np.argwhere(bad)[0][0])} (from 0) is not")


def _pair(predicted: ArrayLike, true: ArrayLike, at_least: int = 1) -> tuple[Floats, Floats]:
    first = _vector(predicted, "predicted scores", at_least)
    second = _vector(true, "true scores", at_least)
    if len(first) != len(second):
        raise MetricError(f"there are {len(first)} predicted scores but {len(second)} true ones")
    return first, second


def _distributions(values: ArrayLike, what: str) -> Floats:
    array = _floats(values, what)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise MetricError(f"{what} must be (photos, score bins) with two bins or more, not {_shape(array)}")
    _finite(array, what)
    wrong = (array < 0).any(axis=1) | (np.abs(array.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MetricError(f"{what}: row {row} (from 0) is negative somewhere or does not sum to 1")
    return array


def _axis(values: ArrayLike, bins: int | None = None) -> Floats:
    axis = _vector(values, "score values", at_least=2)
    if bins is not None and len(axis) != bins:
        raise MetricError(f"there are {len(axis)} score values for {bins} score bins")
    if (np.diff(axis) <= 0).any():
        raise MetricError("score values must ascend")
    return axis


def _shape(array: Floats) -> str:
    return " × ".join(map(str, array.shape)) or "a single number"


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


def _score_bins(scores: Floats, width: float) -> NDArray[np.int64]:
    # The small offset keeps a score that should lie on an edge from falling below it by rounding.
    return np.floor((scores - 1) / width + 1e-9).astype(np.int64)


def _or_none(metric: Metric, arrays: Sequence[Floats]) -> float | None:
    try:
        return metric(*arrays)
    except MetricError:
        return None


def _columns(arrays: Sequence[ArrayLike]) -> list[Floats]:
    if not arrays:
        raise MetricError("bootstrap needs at least one array of values")
    columns = [_floats(array, "values") for array in arrays]
    if any(column.ndim == 0 for column in columns) or len({len(column) for column in columns}) != 1:
        shapes = ", ".join(map(_shape, columns))
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
