"""The clustering of training photos against scikit-learn's full K-means: time, and how tight the clusters are.

Embeddings of several kinds of photos are drawn at random and compared with the bundled semantic tags, so that the
similarities lie in few dimensions and overlap, as real ones do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import Result, result
from benchmarks.timing import alternated
from tmcr.modelfolder import STARTER, load_model
from tmcr.training.clusters import assign, fit_clusters

K, STARTS = 15, 10


def measure(quick: bool) -> Iterator[Result]:
    from sklearn.cluster import KMeans

    count = 1000 if quick else 10_000
    similarities = drawn(count, kinds=40, seed=0)
    centroids: dict[str, NDArray[np.float32]] = {}

    def ours() -> None:
        centroids["ours"] = fit_clusters(similarities, K, seed=0).centroids

    def full() -> None:
        centroids["full"] = KMeans(K, random_state=0, n_init=STARTS).fit(similarities).cluster_centers_

    seconds = alternated({"full": full, "ours": ours}, rounds=1 if quick else 3, warm_up=False)
    note = f"K-means, {K} kinds, best of {STARTS} starts, {similarities.shape[1]:,} tags, drawn embeddings"
    common: dict[str, Any] = {"photos": count, "threads": torch.get_num_threads(), "note": note}
    yield result(
        "time", seconds["ours"], "s", ratio=seconds["full"].over(seconds["ours"]),
        to="scikit-learn's KMeans (its seconds divided by ours)", **common,
    )  # fmt: skip
    inertias = {name: inertia(similarities, found) for name, found in centroids.items()}
    yield Result(
        "inertia", value=inertias["ours"], unit="squared distance", ratio=inertias["ours"] / inertias["full"],
        ratio_to="scikit-learn's KMeans (1 is as good, more is worse)", goal="≤ 1.05", device="cpu", **common,
    )  # fmt: skip


def drawn(count: int, *, kinds: int, seed: int) -> NDArray[np.float32]:
    """Similarities (count, M) of photos of several kinds with the bundled model's semantic tags."""
    model = load_model(STARTER)
    tags = model.text[: model.libraries.n_semantic].numpy()
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, tags.shape[1]))
    photos = centres[rng.integers(0, kinds, count)] + rng.normal(size=(count, tags.shape[1]))
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    found: NDArray[np.float32] = photos.astype(np.float32) @ tags.T
    return found


def inertia(similarities: NDArray[np.float32], centroids: NDArray[np.float32]) -> float:
    """Sum of squared distances to the nearest centroid."""
    nearest = centroids[assign(similarities, centroids)]
    return float(((similarities - nearest).astype(np.float64) ** 2).sum())
