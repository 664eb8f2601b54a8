"""Kinds of photos: K-means on the semantic similarities (eq. 8), and what is known of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

QUANTILES = 101
SMALLEST_CLUSTER = 10  # photos per cluster on average, at least; K is lowered to this on small sets
AUTO_CANDIDATES = (3, 5, 8, 10, 15, 20, 30)
_SILHOUETTE_SAMPLE = 2000
_BLOCK = 4096  # photos


@dataclass(frozen=True)
class Clusters:
    """centroids (K, M) in the space of semantic similarities; labels (N,) in 0..K−1, every one of which occurs."""

    centroids: NDArray[np.float32]
    labels: NDArray[np.int64]


def fit_clusters(similarities: NDArray[np.float32], k: int | Literal["auto"] = 15, *, seed: int = 0) -> Clusters:
    """Mini-batch K-means on similarities (N, M); the same under the same seed.

    K is lowered so that a cluster holds at least `SMALLEST_CLUSTER` photos on average, and clusters that end up
    empty are dropped. "auto" takes the K of `AUTO_CANDIDATES` with the best silhouette.
    """
    most = max(1, len(similarities) // SMALLEST_CLUSTER)
    if k != "auto":
        return _fit(similarities, min(int(k), most), seed)
    from sklearn.metrics import silhouette_score

    rows = np.random.default_rng(seed).permutation(len(similarities))[:_SILHOUETTE_SAMPLE]
    candidates = [_fit(similarities, each, seed) for each in AUTO_CANDIDATES if each <= most] or [
        _fit(similarities, 1, seed)
    ]

    def quality(found: Clusters) -> float:
        labels = found.labels[rows]
        return float(silhouette_score(similarities[rows], labels)) if len(set(labels.tolist())) > 1 else -1.0

    return max(candidates, key=quality)


def assign(similarities: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest centroid (N,) of similarities (N, M)."""
    # |x − c|² without the term in x alone, which does not change the order. By torch, which keeps to the threads that
    # it is given: those of NumPy's product take the processors from the encoders while photos are scored.
    products = torch.from_numpy(similarities) @ torch.from_numpy(centroids).T
    distance = (centroids**2).sum(1)[None, :] - 2 * products.numpy()
    return distance.argmin(1).astype(np.int64)


def characteristic_tags(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], tags: Sequence[str], *, top: int = 3
) -> list[list[str]]:
    """For each cluster the tags whose similarity lies furthest above that of all photos, in standard deviations.

    Similarities are gone through block by block: a second array of AVA's size is not to be had on every machine.
    """
    clusters = int(labels.max()) + 1
    sums, squares = np.zeros((clusters, similarities.shape[1])), np.zeros(similarities.shape[1])
    origin = similarities[0].astype(np.float64)  # differences from any photo keep the squares free of cancellation
    for start in range(0, len(similarities), _BLOCK):
        part = similarities[start : start + _BLOCK] - origin
        members = np.arange(clusters)[:, None] == labels[start : start + _BLOCK]
        sums += members.astype(np.float64) @ part
        squares += (part**2).sum(0)
    mean = sums.sum(0) / len(similarities)
    spread = np.sqrt(np.maximum(squares / len(similarities) - mean**2, 0))
    z = (sums / np.bincount(labels)[:, None] - mean) / np.where(spread > 1e-9, spread, 1)
    return [[tags[i] for i in np.argsort(-row, kind="stable")[:top]] for row in z]


def score_quantiles(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K, 101) quantiles 0, 0.01 … 1 of each cluster's scores."""
    steps = np.linspace(0, 1, QUANTILES)
    return np.stack([np.quantile(scores[labels == cluster], steps) for cluster in range(labels.max() + 1)])


def percentile(score: float, quantiles: NDArray[np.floating]) -> float:
    """Share (0..100) of the cluster's photos with a lower score; equal scores count half."""
    below = np.searchsorted(quantiles, score, side="left")
    upto = np.searchsorted(quantiles, score, side="right")
    if below == upto and 0 < below < len(quantiles):  # between two quantiles
        low, high = quantiles[below - 1], quantiles[below]
        return float(100 * (below - 1 + (score - low) / (high - low)) / (len(quantiles) - 1))
    return float(100 * (below + upto) / (2 * len(quantiles)))


def _fit(similarities: NDArray[np.float32], k: int, seed: int) -> Clusters:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(k, random_state=seed, n_init=10, batch_size=4096).fit(similarities)
    present, labels = np.unique(means.labels_, return_inverse=True)
    return Clusters(means.cluster_centers_[present].astype(np.float32), labels.astype(np.int64))
