"""The numbers behind the paper's figures; `tmcr.report.paper_figures` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import ConfigError, DataError
from tmcr.experiments.bench import Trial
from tmcr.experiments.outcome import Estimate, HeldOut, Outcome, RegionRule
from tmcr.training.clusters import assign
from tmcr.training.fit import level_features
from tmcr.training.heads import similarity_statistics
from tmcr.training.levels import score_levels
from tmcr.training.photos import PhotoViews

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BIN_WIDTH = 0.25  # of Figure 5(a)
TOP_TAGS = 5
MARKED = 3
MOST_POINTS = 3000  # of a t-SNE
_PCA = 50  # dimensions that a t-SNE starts from


@dataclass(frozen=True)
class Figure5:
    """The training distribution with its regions, and predicted against true scores of the balanced draw.

    Attributes:
        edges: (B+1,) of the score bins. counts, regions: (B,) training photos, and the region of the bin's middle.
        true, photo_regions, ids: (n,) of the photos drawn in the first pass.
        predicted: system → (n,) scores in that pass.
    """

    edges: Floats
    counts: NDArray[np.int64]
    regions: tuple[str, ...]
    true: Floats
    photo_regions: tuple[str, ...]
    ids: tuple[str, ...]
    predicted: dict[str, Floats]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    command: str = ""
    name: str = "figure5"


@dataclass(frozen=True)
class Figure6:
    """SRCC and PLCC under linear probe, by sampling frequency; differences are from the lowest frequency."""

    frequencies: tuple[int, ...]
    srcc: tuple[Estimate, ...]
    plcc: tuple[Estimate, ...]
    srcc_gain: tuple[Estimate, ...]
    without: tuple[Estimate, Estimate] | None  # SRCC and PLCC without any ranking
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    command: str = ""
    name: str = "figure6"


@dataclass(frozen=True)
class Space:
    """Photos of one t-SNE: ids, (n, 2) positions, (n,) colours (cluster or level), and which were held out."""

    ids: tuple[str, ...]
    positions: Floats
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]


@dataclass(frozen=True)
class MarkedPhoto:
    """A photo that a figure points at, its rating, and the tags that fit it unusually well."""

    id: str
    path: Path
    score: float
    semantic: tuple[str, ...]
    attribute: tuple[str, ...]


@dataclass(frozen=True)
class Figure7:
    """Semantic space of all kinds; attribute and level space of one kind; three photos of it."""

    semantic: Space
    attribute: Space
    level: Space
    cluster: int
    cluster_names: tuple[str, ...]
    level_bins: int
    marked: tuple[MarkedPhoto, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    command: str = ""
    name: str = "figure7"


Figure = Figure5 | Figure6 | Figure7


def figure5(outcome: Outcome, rule: RegionRule) -> Figure5:
    """From the systems tried for it; where a region has no photo to draw, all held-out photos are shown."""
    held: HeldOut = outcome.held_out
    chosen = np.flatnonzero(held.drawn[0]) if held.drawn[0].any() else np.arange(len(held.photos))
    edges = np.arange(1, 10 + BIN_WIDTH / 2, BIN_WIDTH)
    counts, _ = np.histogram(held.train_scores, edges)
    middles = (edges[:-1] + edges[1:]) / 2
    what = f"a balanced draw of {len(chosen)}" if held.drawn[0].any() else f"all {len(chosen)}"
    return Figure5(
        edges,
        counts,
        tuple(rule.regions(held.train_scores, middles).tolist()),
        held.photos.scores[chosen],
        tuple(held.regions[chosen].tolist()),
        tuple(held.photos.ids[row] for row in chosen),
        {name: (predicted[0] @ held.photos.score_values)[chosen] for name, predicted in outcome.predicted.items()},
        outcome.facts,
        (rule.describe(), f"(b) shows {what} held-out photos in the first pass"),
    )


def figure6(outcome: Outcome, frequencies: Sequence[int], without: str | None = None) -> Figure6:
    """From the sweep's systems, which stand in the outcome in the order of `frequencies`.

    Args:
        without: the system without any ranking, where it was tried too.
    """
    estimates = outcome.estimates(("srcc", "plcc"))
    swept = [each for name, each in estimates.items() if name != without]
    bare = estimates.get(without) if without else None
    return Figure6(
        tuple(frequencies),
        tuple(each["srcc"] for each in swept),
        tuple(each["plcc"] for each in swept),
        tuple(each["srcc"].minus(swept[0]["srcc"]) for each in swept),
        (bare["srcc"], bare["plcc"]) if bare else None,
        outcome.facts,
        ("balanced batches per cluster and epoch, linear probe",),
    )


def figure7(trial: Trial, facts: Mapping[str, Any], cluster: int | None = None, seed: int = 0) -> Figure7:
    """Embed the photos of a trial.

    Args:
        cluster: the kind of photos to look into; None takes the one whose photos spread over most levels.

    Raises:
        ConfigError: no such cluster.
        DataError: the cluster is too small to embed.
    """
    run, photos = trial.run, trial.photos
    table, _ = run.clusters
    everyone = np.arange(len(photos))
    semantic = run.matched.semantic(everyone).numpy()
    kinds = assign(semantic, table.centroids)
    levels = score_levels(photos.scores, bins=trial.config.rank.level_bins)
    present = sorted(set(kinds.tolist()))
    if cluster is None:
        cluster = max(present, key=lambda kind: (len(set(levels[kinds == kind].tolist())), int((kinds == kind).sum())))
    elif cluster not in present:
        raise ConfigError(f"no cluster {cluster}; there are {', '.join(map(str, present))}")
    inside = np.flatnonzero(kinds == cluster)
    if len(inside) < 2 * MARKED:
        raise DataError(f"cluster {cluster} holds {len(inside)} photos, too few to draw; take another with --cluster")

    encoder = run.ranked_encoder()
    views = PhotoViews(
        [photos.paths[row] for row in inside],
        encoder.preprocess,
        seed=0,
        workers=run.hardware.photo_workers,
        flip=False,
    )
    level = level_features(encoder, views, len(inside), run.hardware, trial.config.fit.batch_size).numpy()
    attribute = run.matched.similarities(inside)[:, run.libraries.n_semantic :].numpy()
    marked = inside[_spread_out(photos.scores[inside])]
    shown = _sample(everyone, inside, seed)

    def space(rows: Rows, features: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Space:
        held_out = np.array([photos.splits[row] == "test" for row in rows])
        return Space(tuple(photos.ids[row] for row in rows), _tsne(features, seed), labels, held_out)

    return Figure7(
        space(shown, semantic[shown], kinds[shown]),
        space(inside, attribute, levels[inside]),
        space(inside, level, levels[inside]),
        cluster,
        tuple(" · ".join(tags[:2]) for tags in table.tags),
        trial.config.rank.level_bins,
        tuple(_marked(trial, int(row)) for row in marked),
        facts,
        ("t-SNE of standardised features by their first 50 principal components",
         "held-out photos are ringed: neither ranking nor clustering has seen them"),
    )  # fmt: skip


def _marked(trial: Trial, row: int) -> MarkedPhoto:
    run = trial.run
    mean, std = similarity_statistics(run.matched, run.part("train"))
    z = ((run.matched.similarities([row])[0] - mean) / std.clamp_min(1e-6)).numpy()
    names, split = run.libraries.names, run.libraries.n_semantic

    def top(start: int, end: int) -> tuple[str, ...]:
        return tuple(names[start + place] for place in np.argsort(-z[start:end], kind="stable")[:TOP_TAGS])

    return MarkedPhoto(
        trial.photos.ids[row], trial.photos.paths[row], float(trial.photos.scores[row]), top(0, split),
        top(split, len(names)),
    )  # fmt: skip


def _spread_out(scores: Floats) -> Rows:
    """Rows of a photo that is liked little, one in between and one liked much: the 5, 50 and 95 % quantiles."""
    order = np.argsort(scores, kind="stable")
    return order[np.rint(np.array([0.05, 0.5, 0.95]) * (len(order) - 1)).astype(np.int64)]


def _sample(everyone: Rows, always: Rows, seed: int) -> Rows:
    """At most `MOST_POINTS` rows, among them as many of `always` as fit."""
    if len(everyone) <= MOST_POINTS:
        return everyone
    others = np.random.default_rng(seed).permutation(np.setdiff1d(everyone, always))
    return np.sort(np.concatenate([always, others])[:MOST_POINTS])


def _tsne(features: NDArray[np.floating[Any]], seed: int) -> Floats:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    spread = features.std(0)
    x = (features - features.mean(0)) / np.where(spread > 1e-9, spread, 1)
    x = PCA(min(_PCA, *x.shape), random_state=seed).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(x), dtype=np.float64)
