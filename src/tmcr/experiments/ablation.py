"""The ablation: both branches, each alone, linear probe against fine-tuning, and baselines to beat.

Every system sees the same photos for training and early stopping and answers for the same held-out ones:
either the data's own test part, or every photo once in cross-validation over groups (themes).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets import load_manifest
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import carve_validation, group_folds
from tmcr.encoders import ImageTextEncoder
from tmcr.errors import ConfigError, DataError
from tmcr.experiments.baselines import choose_strength, constant, ridge
from tmcr.experiments.handcrafted import SIDE, handcrafted_features
from tmcr.hardware import pick_hardware
from tmcr.images import decode
from tmcr.metrics import Interval, MetricError, Report, evaluate, paired_difference, srcc
from tmcr.streaming import ordered_map
from tmcr.training.config import TrainConfig
from tmcr.training.fit import level_features
from tmcr.training.photos import PhotoViews
from tmcr.training.pipeline import Run
from tmcr.training.stage import Progress, Silent, digest, write_atomically

Floats = NDArray[np.float64]
RIDGE = "ridge on frozen features"
NETWORKS: dict[str, dict[str, str]] = {
    "TM": {"fit.branches": "tm", "fit.mode": "lp"},
    "CR": {"fit.branches": "cr", "fit.mode": "ft"},
    "TM+CR LP": {"fit.branches": "tm+cr", "fit.mode": "lp"},
    "TM+CR FT": {"fit.branches": "tm+cr", "fit.mode": "ft"},
}
SYSTEMS = ("constant", "hand-crafted + ridge", RIDGE, *NETWORKS)


@dataclass
class Ablation:
    """What came out.

    Attributes:
        description: data, split, seed, machine: one line.
        reports: metrics of each system on the held-out photos.
        against_ridge: SRCC minus that of ridge regression on the frozen encoder's features, paired by photo.
    """

    description: str
    reports: dict[str, Report]
    against_ridge: dict[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        return {
            "description": self.description,
            "systems": {name: report.to_dict() for name, report in self.reports.items()},
            "srcc_minus_ridge": {name: [each.value, each.low, each.high] for name, each in self.against_ridge.items()},
        }

    def to_markdown(self) -> str:
        """A table with 95 % intervals."""
        lines = [
            "| system | SRCC | PLCC | MSE | EMD (r=1) | SRCC − ridge on features |",
            "|---|---|---|---|---|---|",
        ]
        for name, report in self.reports.items():
            cells = [_cell(report, metric) for metric in ("srcc", "plcc", "mse", "emd1")]
            gap = self.against_ridge.get(name)
            cells.append(f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if gap else "")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join([f"{self.description}.", "", *lines, ""])


def ablate(
    config: TrainConfig,
    folder: Path,
    *,
    folds: int | None = None,
    systems: Sequence[str] = SYSTEMS,
    image_text: ImageTextEncoder | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Train and measure `systems`; what was finished is kept in `folder` and not computed again.

    Args:
        config: the full model; each ablation changes its `fit` section only.
        folds: cross-validate over that many folds of whole groups; None takes the data's own test part.
        image_text: the frozen encoder, where it is not the one that `config.encoders` names.

    Raises:
        ConfigError: an unknown system, or fewer than two folds.
        DataError: no test part to measure on.
    """
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise ConfigError(f"no system {unknown[0]!r}; there are {', '.join(SYSTEMS)}")
    progress = progress or Silent()
    everything = load_manifest(config.data)
    config = config.with_overrides({"cache": str((config.cache or folder / "cache").resolve())})
    held_out: list[Manifest] = []
    predictions: dict[str, list[Floats]] = {name: [] for name in systems}
    for name, manifest in _rotations(everything, folds, config.seed):
        manifest = carve_validation(manifest, config.validation, seed=config.seed)
        run = Run(config, folder / name, manifest=manifest, image_text=image_text, progress=progress)
        test = run.part("test")
        held_out.append(run.manifest.take(test))
        for system in systems:
            predictions[system].append(_kept(run, system, lambda run=run, system=system: _answers(run, system)))  # type: ignore[misc]
    return _measure(config, run, held_out, predictions, folds)


def _rotations(manifest: Manifest, folds: int | None, seed: int) -> Iterable[tuple[str, Manifest]]:
    if folds is None:
        if "test" not in manifest.splits:
            raise DataError(f"{manifest.description}: no photo is marked 'test'; cross-validate with --folds 5")
        yield "test", manifest
        return
    if folds < 2:
        raise ConfigError(f"cross-validation needs at least 2 folds, not {folds}")
    fold = group_folds(manifest.groups or manifest.ids, folds, seed=seed)
    for number in range(folds):
        yield f"fold-{number}", manifest.with_splits(["test" if own == number else "train" for own in fold])


def _answers(run: Run, system: str) -> Floats:
    """Predicted distributions (n, D) of the test photos."""
    test = run.part("test")
    if system in NETWORKS:
        config = run.config.with_overrides(NETWORKS[system]).fit
        return run.predict(run.fit(config, name=f"fit-{system.lower().replace(' ', '-')}"), test)
    # A baseline has nothing to stop early: it may learn from the validation photos too.
    known = np.concatenate([run.part("train"), run.part("val")])
    distributions = run.manifest.distributions[known]
    if system == "constant":
        return constant(distributions, len(test))
    features = _frozen_features(run) if system == RIDGE else _handcrafted(run.manifest.paths, run)
    groups = [(run.manifest.groups or run.manifest.ids)[row] for row in known]
    strength = choose_strength(features[known], distributions, groups, run.manifest.score_values, seed=run.config.seed)
    return ridge(features[known], distributions, features[test], strength=strength)


def _frozen_features(run: Run) -> Floats:
    """Features (n, W) of all photos under the image encoder as it was before any training here."""
    encoder = run.starting_encoder()
    hardware = run.hardware
    photos = PhotoViews(run.manifest.paths, encoder.preprocess, seed=0, workers=hardware.photo_workers, flip=False)
    return level_features(encoder, photos, len(run.manifest), hardware, 32).double().numpy()


def _handcrafted(paths: Sequence[Path], run: Run) -> Floats:
    run.progress.start("hand-crafted features", len(paths))
    rows = []
    for row in ordered_map(_measure_photo, paths, workers=run.hardware.photo_workers, ahead=64):
        rows.append(row)
        run.progress.step()
    return np.stack(rows)


def _measure_photo(path: Path) -> Floats:
    return handcrafted_features(decode(path, target_side=SIDE))


def _kept(run: Run, system: str, work: Callable[[], Floats]) -> Floats:
    """The answers of a system that has already been run with the same configuration on the same split."""
    slug = system.lower().replace(" ", "-").replace("+", "")
    path = run.folder / "answers" / f"{slug}.npz"
    stamp = digest({"config": json.loads(run.config.to_json()), "data": run.everything.fingerprint})
    if path.exists():
        with np.load(path) as kept:
            if str(kept["stamp"]) == stamp:
                return np.asarray(kept["answers"], dtype=np.float64)
    answers = work()
    path.parent.mkdir(exist_ok=True)

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, stamp=stamp, answers=answers)

    write_atomically(path, save)
    run.progress.finish(f"{system}: {len(answers)} photos")
    return answers


def _measure(
    config: TrainConfig,
    run: Run,
    held_out: Sequence[Manifest],
    predictions: dict[str, list[Floats]],
    folds: int | None,
) -> Ablation:
    true = np.concatenate([manifest.distributions for manifest in held_out])
    values = run.manifest.score_values
    groups = [name for manifest in held_out for name in manifest.groups or manifest.ids]
    answers = {name: np.concatenate(parts) for name, parts in predictions.items()}
    reports = {
        name: evaluate(answer, true, values, groups=groups, seed=config.seed) for name, answer in answers.items()
    }
    against = {}
    for name, answer in answers.items():
        if name != RIDGE and RIDGE in answers:
            try:
                against[name] = paired_difference(
                    srcc, answer @ values, answers[RIDGE] @ values, true @ values, groups=groups, seed=config.seed
                )
            except MetricError:  # a constant answer has no rank correlation
                continue
    split = f"the {len(true)} test photos" if folds is None else f"{len(true)} photos in {folds}-fold cross-validation"
    hardware = pick_hardware(config.device, config.precision, config.workers)
    return Ablation(
        f"{run.everything.description}; {split}, groups kept whole; preset {config.preset}, "
        f"encoder {Path(config.encoders.image).name}, seed {config.seed}; {hardware}; "
        "95 % bootstrap intervals over groups",
        reports,
        against,
    )


def _cell(report: Report, metric: str) -> str:
    value, interval = getattr(report, metric), report.intervals.get(metric)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")
