"""How the starter's recipe does beyond one split: cross-validation over themes, and what the teachers reach.

    python recipes/starter/measure.py --data ../shared/data --out runs/starter [--folds 5] [--repeats 1]

Every stage that uses ratings is done anew in every fold, with the settings of `make.py`; the encoder has seen no
OASIS photo at all. Finished folds are kept.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make import training_config
from numpy.typing import NDArray
from teacher import Teacher

from tmcr.datasets import load_manifest
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import group_folds
from tmcr.encoders import load_image_encoder
from tmcr.experiments.baselines import choose_strength, ridge
from tmcr.experiments.handcrafted import measure_photo
from tmcr.images import decode
from tmcr.metrics import Interval, bootstrap, paired_difference, plcc, srcc
from tmcr.training.config import TrainConfig
from tmcr.training.fit import level_features
from tmcr.training.photos import PhotoViews
from tmcr.training.pipeline import Run

Floats = NDArray[np.float64]
FULL, TEACHERS = "the recipe", "ridge on the teachers' features"


@dataclass(frozen=True)
class Frozen:
    """Features (n, W) that no rating has touched, by name."""

    features: dict[str, Floats]

    @classmethod
    def of(cls, manifest: Manifest, data: Path, config: TrainConfig, kept: Path) -> Frozen:
        if not kept.exists():
            run = Run(config, kept.parent / "frozen", manifest=manifest)
            starting = run.starting_encoder()
            views = PhotoViews(manifest.paths, starting.preprocess, seed=0, workers=2, flip=False)
            encoders = {
                "ridge on the distilled tower": load_image_encoder(config.encoders.image_text),
                "ridge on the tower that knows damage": starting,
                "ridge on a random encoder": load_image_encoder(config.encoders.image, pretrained=False),
            }
            teacher = Teacher(data / "weights")
            arrays = {
                TEACHERS: np.stack([teacher(np.asarray(decode(path)))[0] for path in manifest.paths]),
                "ridge on hand-crafted features": np.stack([measure_photo(path) for path in manifest.paths]),
            }
            for name, encoder in encoders.items():
                encoder.preprocess = starting.preprocess
                arrays[name] = level_features(encoder, views, len(manifest), run.hardware, 32).double().numpy()
            np.savez(kept, **arrays)
        with np.load(kept) as arrays:
            return cls({name: arrays[name].astype(np.float64) for name in arrays.files})

    def answer(self, name: str, manifest: Manifest, test: NDArray[np.bool_], seed: int) -> Floats:
        """Scores (n,) of the test photos by ridge regression on all others."""
        x, groups = self.features[name], np.array(manifest.groups)
        strength = choose_strength(
            x[~test], manifest.distributions[~test], groups[~test].tolist(), manifest.score_values, seed=seed
        )
        return ridge(x[~test], manifest.distributions[~test], x[test], strength=strength) @ manifest.score_values


def fold_scores(
    manifest: Manifest, test: NDArray[np.bool_], config: TrainConfig, folder: Path, frozen: Frozen
) -> dict[str, Floats]:
    """Scores of one fold's held-out photos by every system."""
    kept = folder / "scores.json"
    if not kept.exists():
        own = manifest.with_splits(["test" if out else "train" for out in test])
        run = Run(config, folder, manifest=own)
        scores = {FULL: run.predict(run.fit(), run.part("test")) @ manifest.score_values}
        scores |= {name: frozen.answer(name, manifest, test, config.seed) for name in frozen.features}
        kept.write_text(json.dumps({name: values.tolist() for name, values in scores.items()}))
    return {name: np.array(values) for name, values in json.loads(kept.read_text()).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    manifest = load_manifest(f"oasis@{options.data / 'oasis'}")
    config = training_config(options.data, options.out, 0)
    folder = options.out / "measure"
    folder.mkdir(exist_ok=True)
    frozen = Frozen.of(manifest, options.data, config, folder / "features.npz")
    groups = list(manifest.groups or manifest.ids)

    lines = [f"{manifest.description}; seed 0; 95 % bootstrap intervals over themes.", ""]
    test = np.array(manifest.splits) == "test"
    scores = {name: frozen.answer(name, manifest, test, 0) for name in frozen.features}
    themes = [groups[row] for row in np.flatnonzero(test)]
    lines += _table(f"the {test.sum()} test photos", scores, manifest.scores[test], themes, None)

    sums = {name: np.zeros(len(manifest)) for name in [FULL, *frozen.features]}
    single: list[tuple[float, float]] = []
    for repeat in range(options.repeats):
        fold = group_folds(groups, options.folds, seed=repeat)
        once = np.zeros(len(manifest))
        for number in range(options.folds):
            out = fold == number
            seeded = config.with_overrides({"seed": repeat})
            found = fold_scores(manifest, out, seeded, folder / f"repeat-{repeat}-fold-{number}", frozen)
            for name, values in found.items():
                sums[name][out] += values / options.repeats
            once[out] = found[FULL]
            print(f"repeat {repeat}, fold {number}: SRCC {srcc(found[FULL], manifest.scores[out]):.3f}", flush=True)
        single.append((srcc(once, manifest.scores), float(once.std() / manifest.scores.std())))
    title = f"all {len(manifest)} photos, {options.folds}-fold cross-validation over themes"
    if options.repeats > 1:
        title += f", the mean score of {options.repeats} repeats"
    alone = [", ".join(f"{value:.3f}" for value in values) for values in zip(*single, strict=True)]
    title += f" (the recipe one by one: SRCC {alone[0]}; spread {alone[1]})"
    lines += _table(title, sums, manifest.scores, groups, FULL)
    text = "\n".join(lines)
    (options.out / "measure.md").write_text(text)
    print(text)


def _table(title: str, scores: dict[str, Floats], true: Floats, groups: list[str], first: str | None) -> list[str]:
    lines = [f"### {title[0].upper()}{title[1:]}", "", "| system | SRCC | PLCC | the recipe's SRCC minus this |"]
    lines.append("|---|---|---|---|")
    for name, values in scores.items():
        cells = [str(bootstrap(metric, values, true, groups=groups)) for metric in (srcc, plcc)]
        gap: Interval | None = None
        if first is not None and name != first:
            gap = paired_difference(srcc, scores[first], values, true, groups=groups)
        lines.append(f"| {name} | {' | '.join(cells)} | {gap if gap else ''} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
