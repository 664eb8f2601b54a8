"""An evaluation as tables in the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from tmcr.disk import write_whole
from tmcr.evaluation import Evaluation
from tmcr.metrics import REGIONS
from tmcr.report.terminal import metrics_table, print_numbers
from tmcr.wording import counted

_REGION_COLORS = {"many": "#0072B2", "med": "#E69F00", "few": "#D55E00"}  # told apart by the colour-blind
_KIND_METRICS = ("srcc", "plcc", "mse", "emd1")


def print_evaluation(evaluation: Evaluation, title: str, console: Console) -> None:
    """Metrics with intervals, then the error by how common a score is, then by kind of photo."""
    metrics_table([(title, evaluation.report)], console)
    tail = evaluation.report.long_tail
    if tail is not None:
        regions = [(str(region), [str(tail.counts[region]), _number(tail.mse.get(region))]) for region in REGIONS]
        console.print()
        print_numbers("scores like it in training", ["photos", "MSE ↓"], regions, console)
    if len(evaluation.kinds) > 1:
        headers = ["photos", *(name.upper() for name in _KIND_METRICS)]
        rows = [
            (kind, [str(report.n), *(_number(getattr(report, name)) for name in _KIND_METRICS)])
            for kind, report in sorted(evaluation.kinds.items(), key=lambda item: -item[1].n)
        ]
        console.print()
        print_numbers("kind of photo", headers, rows, console, wrap=False)
    if evaluation.seen:
        console.print(
            f"[red]the model has learnt from {evaluation.seen:,} of these photos: quote none of these numbers[/]"
        )
    if evaluation.errors:
        name, reason = next(iter(evaluation.errors.items()))
        failed = counted(len(evaluation.errors), "photo")
        console.print(f"{failed} could not be read, e.g. {escape(name)}: {escape(reason)}")


def draw_evaluation(evaluation: Evaluation, out: Path, *, title: str = "") -> None:
    """Predicted against true scores beside the distributions of both; format by the suffix of `out`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from tmcr.metrics import regions_by_density

    predicted, true = evaluation.predicted, evaluation.true
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), width_ratios=(1, 1), constrained_layout=True)
    if evaluation.train_scores is not None:
        regions = regions_by_density(evaluation.train_scores, true)
        for region, color in _REGION_COLORS.items():
            chosen = regions == region
            if chosen.any():
                left.scatter(true[chosen], predicted[chosen], s=16, alpha=0.7, color=color, label=region, linewidths=0)
        left.legend(frameon=False, title="scores like it\nin training", loc="lower right")
    else:
        left.scatter(true, predicted, s=16, alpha=0.7, color=_REGION_COLORS["many"], linewidths=0)
    left.plot([1, 10], [1, 10], color="#999999", linewidth=1)
    left.set(xlim=(1, 10), ylim=(1, 10), xlabel="mean rating", ylabel="predicted", aspect="equal")
    bins = np.linspace(1, 10, 19).tolist()
    right.hist(true, bins, alpha=0.5, color="#666666", label="mean ratings")
    right.hist(predicted, bins, histtype="step", linewidth=2, color=_REGION_COLORS["many"], label="predicted")
    right.set(xlabel="score", ylabel="photos", xlim=(1, 10))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    write_whole(out, lambda part: figure.savefig(part, dpi=140, format=out.suffix.lstrip(".") or "png"))
    plt.close(figure)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
