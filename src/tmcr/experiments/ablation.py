"""The ablation: both branches, each alone, linear probe against fine-tuning, and baselines to beat.

Every system sees the same photos for training and early stopping and answers for the same held-out ones:
either the data's own test part, or every photo once in cross-validation over groups (themes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tmcr.encoders import ImageTextEncoder
from tmcr.errors import ConfigError, MetricError
from tmcr.experiments.bench import Bench
from tmcr.experiments.outcome import Outcome, try_systems
from tmcr.experiments.plan import Plan
from tmcr.experiments.systems import FULL_FT, FULL_LP, RIDGE, find_systems
from tmcr.metrics import Interval, Report, evaluate, paired_difference, srcc
from tmcr.training.config import TrainConfig
from tmcr.training.stage import Progress

SYSTEMS = ("constant", "hand-crafted + ridge", RIDGE, "TM", "CR", FULL_LP, FULL_FT)


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
        config: the full model; each system changes what it has to.
        folds: cross-validate over that many folds of whole groups; None takes the data's own test part.
        image_text: the frozen encoder, where it is not the one that `config.encoders` names.

    Raises:
        ConfigError: an unknown system, or fewer than two folds.
        DataError: no test part to measure on.
    """
    chosen = find_systems(systems, config.device)
    plan = Plan(seeds=(config.seed,), folds=folds, repeats=(config.seed,))
    bench = Bench(config, folder, image_text=image_text, progress=progress)
    outcome = try_systems(bench, plan, chosen)
    if outcome.missing:
        name, why = next(iter(outcome.missing.items()))
        raise ConfigError(f"{name} cannot be tried: {why}; leave it out")
    return _measure(config, outcome, folds)


def _measure(config: TrainConfig, outcome: Outcome, folds: int | None) -> Ablation:
    photos, groups = outcome.held_out.photos, outcome.held_out.groups
    values, truth = photos.score_values, photos.scores
    answers = {name: predicted[0] for name, predicted in outcome.predicted.items()}
    reports = {
        name: evaluate(answer, photos.distributions, values, groups=groups, seed=config.seed)
        for name, answer in answers.items()
    }
    against = {}
    for name, answer in answers.items():
        if name != RIDGE and RIDGE in answers:
            try:
                against[name] = paired_difference(
                    srcc, answer @ values, answers[RIDGE] @ values, truth, groups=groups, seed=config.seed
                )
            except MetricError:  # a constant answer has no rank correlation
                continue
    count, facts = len(photos), outcome.facts
    split = f"the {count} test photos" if folds is None else f"{count} photos in {folds}-fold cross-validation"
    return Ablation(
        f"{facts['data']}; {split}, groups kept whole; preset {config.preset}, encoder {facts['image encoder']}; "
        f"seed {config.seed}; {facts['machine']}; 95 % bootstrap intervals over groups",
        reports,
        against,
    )


def _cell(report: Report, metric: str) -> str:
    value, interval = getattr(report, metric), report.intervals.get(metric)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")
