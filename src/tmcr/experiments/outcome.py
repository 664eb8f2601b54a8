"""What systems are worth: metrics over passes, with intervals that hold both the photos' luck and the seeds'.

A value is the mean over passes of the metric on that pass's held-out photos. Its 95 % interval comes from 1,000
resamples; each draws whole groups of photos with replacement, the same for all systems and passes, and as many passes
as there are, with replacement too. Differences between systems are taken resample by resample, so that what they share
cancels.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.errors import ConfigError, DataError, MetricError
from tmcr.experiments import resampling
from tmcr.experiments.bench import Bench, in_common_order
from tmcr.experiments.plan import Plan
from tmcr.experiments.systems import System
from tmcr.metrics import ACC_THRESHOLD, REGIONS, balanced_draw, emd_per_photo, regions_by_density, regions_by_edges

Floats = NDArray[np.float64]
Which = Literal["all", "balanced"]

RESAMPLES = 1000
HIGHER_IS_BETTER = {"acc": True, "srcc": True, "plcc": True}
METRICS = ("acc", "plcc", "srcc", "mse", "emd1", "emd2")
TAIL_METRICS = ("mse", "mse_many", "mse_med", "mse_few", "srcc", "plcc")


@dataclass(frozen=True)
class RegionRule:
    """How scores are told common from rare.

    Attributes:
        edges: four scores; None divides by how many training photos have a score like it.
        many, few: shares of the fullest half-point bin, where there are no edges.
        balanced: ids of a balanced test set; None draws as many photos of each region as the rarest has.
    """

    edges: tuple[float, float, float, float] | None = None
    many: float = 0.75
    few: float = 0.1
    balanced: tuple[str, ...] | None = None

    def regions(self, train_scores: Floats, scores: Floats) -> NDArray[np.str_]:
        """Region (n,) of each score."""
        if self.edges is not None:
            return regions_by_edges(scores, self.edges)
        return regions_by_density(train_scores, scores, many=self.many, few=self.few)

    def describe(self) -> str:
        if self.edges is not None:
            return "regions by edges " + ", ".join(f"{edge:g}" for edge in self.edges)
        return (
            f"regions by training density in half-point bins: many from {self.many:.0%} of the fullest, "
            f"few below {self.few:.0%}"
        )


@dataclass(frozen=True)
class HeldOut:
    """The photos that every pass holds out, in one order.

    Attributes:
        photos: (N) photos with their ratings.
        regions: (N,) by the training distribution.
        train_scores: mean ratings of the photos that were learnt from; in cross-validation of all photos.
        drawn: (P, N) which photos are in each pass's balanced draw.
    """

    photos: Manifest
    regions: NDArray[np.str_]
    train_scores: Floats
    drawn: NDArray[np.bool_]

    @property
    def groups(self) -> Sequence[str]:
        return self.photos.groups or self.photos.ids


@dataclass(frozen=True)
class Estimate:
    """A metric's mean over passes and its value on each resample (NaN where undefined); `value` None: undefined."""

    value: float | None
    resampled: Floats = field(repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Percentile interval; None where a tenth of the resamples or more is undefined."""
        defined = self.resampled[np.isfinite(self.resampled)]
        if self.value is None or len(defined) <= 0.9 * len(self.resampled):
            return None
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference."""
        if self.value is None or other.value is None:
            return Estimate(None, self.resampled * np.nan)
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        interval = self.interval()
        return f"{self.value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


@dataclass(frozen=True)
class Outcome:
    """What came out of trying systems under a plan.

    Attributes:
        held_out: the photos that were answered for.
        predicted: system → (P, N, D) distributions.
        seconds: system → seconds of learning and answering over all trials; what is shared counts for the first.
        missing: system → why it could not be tried.
        facts: data, split, seeds, machine, wall-clock: what a number needs beside it.
    """

    held_out: HeldOut
    predicted: dict[str, Floats]
    seconds: dict[str, float]
    missing: dict[str, str]
    facts: dict[str, Any]

    def estimates(self, metrics: Sequence[str], which: Which = "all") -> dict[str, dict[str, Estimate]]:
        """system → metric → estimate, all on the same resamples (see `estimate`)."""
        return {
            name: estimate(predicted, self.held_out, metrics, which=which) for name, predicted in self.predicted.items()
        }


def region_edges(text: str) -> tuple[float, float, float, float]:
    """Read "3.85,4.865,5.885,6.90".

    Raises:
        ConfigError: not four ascending numbers.
    """
    try:
        first, second, third, fourth = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--edges wants four scores like 3.85,4.865,5.885,6.90, not {text!r}") from None
    if not first < second < third < fourth:
        raise ConfigError(f"--edges must ascend: {text}")
    return first, second, third, fourth


def balanced_list(path: Path) -> tuple[str, ...]:
    """The photo ids in the first column of a CSV file with a header.

    Raises:
        DataError: it cannot be read or holds no id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))[1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot read this list ({error}); give a CSV file with ids in its first column"
        ) from None
    ids = tuple(row[0].strip() for row in rows if row and row[0].strip())
    if not ids:
        raise DataError(f"{path}: lists no photo; its first column must hold ids under a header")
    return ids


def try_systems(bench: Bench, plan: Plan, systems: Sequence[System], rule: RegionRule | None = None) -> Outcome:
    """Train and ask every system in every trial; what has been answered before is not asked again.

    Raises:
        DataError: no test part; a balanced list that names none of the test photos.
    """
    passes = bench.passes(plan)
    first = passes[0]
    missing = {system.name: why for system in systems if (why := system.unavailable(first[0]))}
    photos = first[0].photos
    ids = [photos.ids[row] for row in sorted(row for trial in first for row in trial.test)]
    predicted: dict[str, Floats] = {}
    seconds: dict[str, float] = {}
    for system in systems:
        if system.name in missing:
            continue
        answers = [[trial.answer(system) for trial in trials] for trials in passes]
        predicted[system.name] = np.stack(
            [
                in_common_order(trials, [each.distributions for each in row], ids)
                for trials, row in zip(passes, answers, strict=True)
            ]
        )
        seconds[system.name] = sum(each.seconds for row in answers for each in row)
    run = first[0].run
    pooled = ", pooled over the folds of a pass" if plan.folds is not None else ""
    place = {photo: row for row, photo in enumerate(photos.ids)}
    tested = photos.take([place[photo] for photo in ids])
    learnt = photos.scores if plan.folds is not None else photos.scores[first[0].known]
    facts = {
        "data": f"{bench.config.data} ({bench.everything.description})",
        "split": plan.describe(),
        "held-out photos": f"{len(tested)}{pooled}",
        "groups": len(set(tested.groups or tested.ids)),
        "learnt from": f"{len(first[0].known)} photos, {len(run.part('val'))} of them for early stopping",
        "preset": bench.config.preset,
        "image–text encoder": _short(bench.config.encoders.image_text),
        "image encoder": f"{_short(bench.config.encoders.image)}, {run.starting_encoder().preprocess.size} pixels",
        "tag libraries": run.libraries.hash[:12],
        "machine": machine(str(run.hardware)),
        "wall-clock": f"{sum(seconds.values()):.0f} s of learning and answering, whenever that was",
        "intervals": f"95 %, {RESAMPLES} resamples of whole groups" + (" and of passes" if len(passes) > 1 else ""),
    }
    if bench.config.allow_leakage:
        facts["leakage"] = "the check for test photos among the training photos was overridden: quote no number"
    return Outcome(held_out(tested, learnt, rule or RegionRule(), len(passes)), predicted, seconds, missing, facts)


def held_out(photos: Manifest, train_scores: Floats, rule: RegionRule, passes: int) -> HeldOut:
    """The photos with their regions and each pass's balanced draw (empty where a region has no photo).

    Raises:
        DataError: the balanced list names none of the photos.
    """
    regions = rule.regions(train_scores, photos.scores)
    drawn = np.zeros((passes, len(photos)), dtype=bool)
    if rule.balanced is not None:
        wanted = set(rule.balanced)
        drawn[:] = [photo in wanted or _stem(photo) in wanted for photo in photos.ids]
        if not drawn.any():
            raise DataError(f"the balanced list names {len(wanted)} photos, none of which is held out here")
    else:
        for number in range(passes):
            with contextlib.suppress(MetricError):
                drawn[number, balanced_draw(regions, seed=number)] = True
    return HeldOut(photos, regions, train_scores, drawn)


def estimate(
    predicted: Floats,
    held_out: HeldOut,
    metrics: Sequence[str],
    *,
    which: Which = "all",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Each metric of predictions (P, N, D), over all held-out photos or over each pass's balanced draw."""
    photos = held_out.photos
    values, truth = photos.score_values, photos.scores
    scores = predicted @ values
    chosen = held_out.drawn if which == "balanced" else np.ones_like(held_out.drawn)
    inside = {"": chosen} | {region: chosen & (held_out.regions == region) for region in REGIONS}
    per_photo = {
        "acc": ((scores > ACC_THRESHOLD) == (truth > ACC_THRESHOLD)).astype(np.float64),
        "mse": (scores - truth) ** 2,
        "emd1": np.stack([emd_per_photo(each, photos.distributions, r=1) for each in predicted]),
        "emd2": np.stack([emd_per_photo(each, photos.distributions, r=2) for each in predicted]),
    }

    def of_passes(metric: str, weights: Floats) -> Floats:
        """(b, P): the metric on each resample of each pass."""
        base, _, region = metric.partition("_")
        columns = []
        for number, mask in enumerate(inside[region]):
            counted = weights * mask
            if base in per_photo:
                columns.append(resampling.mean(counted, per_photo[base][number]))
            elif base == "plcc":
                columns.append(resampling.pearson(counted, scores[number], truth))
            else:
                ranked = (resampling.ranks(counted, scores[number]), resampling.ranks(counted, truth))
                columns.append(resampling.pearson(counted, *ranked))
        return np.stack(columns, 1)

    everyone, passes = np.ones((1, len(photos))), len(predicted)
    blocks = list(resampling.group_weights(held_out.groups, resamples, seed))
    drawn_passes = np.random.default_rng(seed).integers(passes, size=(resamples, passes))
    out = {}
    for metric in metrics:
        whole = float(of_passes(metric, everyone).mean())
        resampled = np.concatenate([of_passes(metric, weights) for weights in blocks])
        means = np.take_along_axis(resampled, drawn_passes, 1).mean(1)
        out[metric] = Estimate(whole if np.isfinite(whole) else None, means)
    return out


def better(metric: str, first: float, second: float) -> bool:
    """Whether `first` is the better value."""
    return first > second if HIGHER_IS_BETTER.get(metric, False) else first < second


def machine(hardware: str) -> str:
    """Processor, and what of it was used."""
    import platform

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}; {hardware}"


def _stem(photo: str) -> str:
    return photo.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _short(source: str) -> str:
    """The name of a folder, or a Hub id as it is."""
    return Path(source).name if source.startswith((".", "/", "~")) or source.count("/") > 1 else source
