"""What other settings of the head would give: cross-validation over the themes that may be learnt from.

    python recipes/starter/choose.py --data ../shared/data --out runs/starter
    python recipes/starter/choose.py … --set fit.pair_weight=0.3 --set fit.pair_epochs=10

The test part is left out, photos and ratings: settings are chosen here, and the test part is asked once they are.
Stages before the head are done once for each fold and kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from make import training_config
from numpy.typing import NDArray

from tmcr.damage import KINDS
from tmcr.datasets import load_manifest
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import group_folds
from tmcr.matching import match
from tmcr.metrics import srcc
from tmcr.network import expected_score
from tmcr.training.config import TrainConfig, parse_setting
from tmcr.training.pairs import build_pairs
from tmcr.training.pipeline import Fitted, Run
from tmcr.training.stage import Silent, digest

Floats = NDArray[np.float64]


def held_out_gaps(run: Run, fitted: Fitted, held_out: Manifest) -> tuple[Floats, Floats]:
    """Strengths (P,) of damage, a copy of each kind for each held-out photo, and by how far the photo lies above it."""
    pairs = build_pairs(
        held_out.paths,
        run.image_text,
        fitted.encoder,
        copies=len(KINDS),
        seed=0,
        hardware=run.hardware,
        batch_size=64,
        progress=Silent(),
    )
    with torch.no_grad():
        answers = fitted.head.eval()(match(pairs.embeddings, run.matched.text), pairs.features).softmax(1)
        scores = expected_score(answers, torch.from_numpy(run.manifest.score_values).float())
    return pairs.strength.double().numpy(), (scores[pairs.original] - scores[pairs.copy]).double().numpy()


def cross_validate(config: TrainConfig, known: Manifest, folder: Path, folds: int) -> str:
    """SRCC and spread over all held-out answers, and the share of photos above their copy, in one line."""
    groups = list(known.groups or known.ids)
    fold = group_folds(groups, folds, seed=1)
    answers = np.zeros(len(known))
    held_out: list[tuple[Floats, Floats]] = []
    for number in range(folds):
        own = known.with_splits(["test" if held else "train" for held in fold == number])
        run = Run(config, folder / f"fold-{number}", manifest=own)
        fitted = run.fit(config.fit, name=f"fit-{digest(config.fit.model_dump())[:8]}")
        answers[fold == number] = run.predict(fitted, run.part("test")) @ known.score_values
        held_out.append(held_out_gaps(run, fitted, own.part("test")))
    strength, gap = map(np.concatenate, zip(*held_out, strict=True))
    mild, strong = (strength > 0) & (strength < 0.5), strength > 0.75
    spread = answers.std() / known.scores.std()
    order = f"mild {(gap[mild] > 0).mean():.1%}, strong {(gap[strong] > 0).mean():.1%}"
    return f"SRCC {srcc(answers, known.scores):.3f}, spread {spread:.2f}, photos above their copy: {order}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    options = parser.parse_args()
    manifest = load_manifest(f"oasis@{options.data / 'oasis'}")
    known = manifest.take(np.flatnonzero(np.array(manifest.splits) != "test"))
    config = training_config(options.data, options.out, 0).with_overrides(dict(map(parse_setting, options.set)))
    said = cross_validate(config, known, options.out / "choose", options.folds)
    print(f"{' '.join(options.set) or 'as make.py has it'}: {said}")


if __name__ == "__main__":
    main()
