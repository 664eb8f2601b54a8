"""Common and rare scores: regions many, med and few, balanced draws, and the error region by region (Table 3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tmcr.errors import MetricError
from tmcr.metrics.agreement import mse, plcc, srcc
from tmcr.metrics.checks import Floats, as_pair, as_vector, or_none

Region = Literal["many", "med", "few"]

REGIONS: tuple[Region, ...] = get_args(Region)
# Between the neighbouring scores of different regions in the paper's balanced AVA test list.
PAPER_EDGES = (3.85, 4.865, 5.885, 6.90)


def regions_by_edges(scores: ArrayLike, edges: Sequence[float] = PAPER_EDGES) -> NDArray[np.str_]:
    """Region (N,) of every score by four ascending edges a, b, c, d; the default is the paper's for AVA.

    "many" is [b, c), "med" [a, b) and [c, d), "few" everything below a and from d on.
    """
    scores = as_vector(scores, "scores")
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
    train_scores = as_vector(train_scores, "training scores")
    scores = as_vector(scores, "scores")
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
    predicted, true = as_pair(predicted, true)
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
        srcc=or_none(srcc, [predicted, true]),
        plcc=or_none(plcc, [predicted, true]),
    )


def _score_bins(scores: Floats, width: float) -> NDArray[np.int64]:
    # The small offset keeps a score that should lie on an edge from falling below it by rounding.
    return np.floor((scores - 1) / width + 1e-9).astype(np.int64)
