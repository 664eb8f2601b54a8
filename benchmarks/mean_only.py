"""What it costs when a set publishes means only: derived against real rating distributions, where both are known.

The distributions of a set with votes are thrown away but for their means and derived again by
`tmcr.datasets.distributions`. Then ridge regression is fitted on real and on derived ones, in cross-validation over
themes, and held against the real ones.

python -m benchmarks.mean_only --data oasis@../shared/data/oasis
python -m benchmarks.mean_only --data ava:tanet@../shared/data/ava_labels --no-photos
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tmcr.datasets import Manifest, load_manifest
from tmcr.datasets.distributions import DEFAULT_STD, distributions_from_means
from tmcr.datasets.splits import group_folds
from tmcr.encoders import load_image_text_encoder
from tmcr.experiments.baselines import choose_strength, ridge
from tmcr.experiments.handcrafted import measure_photo
from tmcr.images import decode
from tmcr.metrics import emd, plcc, srcc
from tmcr.modelfolder import STARTER, load_model

Floats = NDArray[np.float64]
FOLDS = 5


def spread(shares: Floats, values: Floats) -> Floats:
    """Standard deviation (N,) of the ratings under distributions (N, D)."""
    means = shares @ values
    found: Floats = np.sqrt((shares * (values - means[:, None]) ** 2).sum(1))
    return found


def embeddings(manifest: Manifest) -> Floats:
    """Photos as the bundled image–text encoder sees them (N, E)."""
    model = load_model(STARTER)
    encoder = load_image_text_encoder(str(STARTER / "image_text"), preprocess=model.image_text.preprocess)
    rows = []
    for path in manifest.paths:
        pixels = encoder.preprocess(decode(path, target_side=encoder.preprocess.target_side))
        rows.append(encoder.encode_images(torch.from_numpy(pixels)[None])[0].double().numpy())
    return np.stack(rows)


def cross_validated(features: Floats, targets: Floats, manifest: Manifest, seed: int) -> Floats:
    """Predictions (N, D), each for a photo whose theme was held out, of ridge fitted on `targets` (N, D)."""
    groups = manifest.groups or manifest.ids
    fold = group_folds(groups, FOLDS, seed=seed)
    predicted = np.empty_like(targets)
    for held_out in range(FOLDS):
        test = fold == held_out
        known = [groups[row] for row in np.flatnonzero(~test)]
        strength = choose_strength(features[~test], targets[~test], known, manifest.score_values, seed=seed)
        predicted[test] = ridge(features[~test], targets[~test], features[test], strength=strength)
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="data SPEC of a set with votes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-photos", action="store_true", help="compare the distributions alone")
    options = parser.parse_args()

    manifest = load_manifest(options.data)
    real, values, means = manifest.distributions, manifest.score_values, manifest.scores
    own = float(spread(real, values).mean())
    targets = {
        "real": real,
        f"derived, spread {DEFAULT_STD} (the default)": distributions_from_means(means, values),
        f"derived, spread {own:.2f} (this set's own)": distributions_from_means(means, values, own),
    }
    print(f"{manifest.description}; {len(values)} bins on 1..10\n")
    print("| distributions | mean spread | EMD r=1 to real | EMD r=2 to real |\n|---|---|---|---|")
    everyone = np.repeat(real.mean(0, keepdims=True), len(real), 0)
    for name, shares in {**targets, "the mean distribution for every photo": everyone}.items():
        one, two = (emd(shares, real, r=r) for r in (1.0, 2.0))
        print(f"| {name} | {spread(shares, values).mean():.2f} | {one:.3f} | {two:.3f} |")

    if options.no_photos:
        return
    print(f"\n{FOLDS} folds over themes, mean ± deviation over seeds 0–{options.seeds - 1}\n")
    print("| features | fitted on | SRCC | PLCC | EMD r=1 | EMD r=2 |\n|---|---|---|---|---|---|")
    paths: list[Path] = list(manifest.paths)
    for what, features in (
        ("hand-crafted (22)", np.stack([measure_photo(path) for path in paths])),
        ("bundled encoder (128)", embeddings(manifest)),
    ):
        for name, shares in targets.items():
            rows = []
            for seed in range(options.seeds):
                predicted = cross_validated(features, shares, manifest, seed)
                scores = predicted @ values
                rows.append(
                    (srcc(scores, means), plcc(scores, means), emd(predicted, real, r=1.0), emd(predicted, real, r=2.0))
                )
            cells = " | ".join(f"{each.mean():.3f} ± {each.std(ddof=1):.3f}" for each in np.array(rows).T)
            print(f"| {what} | {name} | {cells} |")


if __name__ == "__main__":
    main()
