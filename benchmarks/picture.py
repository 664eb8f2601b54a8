"""All ratios of a run in one picture: a point each with the range of its repeats, and the goal where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Result
from tmcr.report.paper_figures import FAINT, INK, PALETTE, SOFT, WIDTH

GOOD, BAD = PALETTE[2], PALETTE[3]
_ROW = 0.19  # inches
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.titlelocation": "left",
    "axes.linewidth": 0.6, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "svg.fonttype": "none", "svg.hashsalt": "tmcr",
}  # fmt: skip


def draw(rows: Sequence[Result], out: Path) -> list[Path]:
    """Write `out`/benchmarks.png and .svg; returns both, or nothing where there is no ratio to draw."""
    shown = [row for row in rows if row.ratio is not None and row.ratio > 0]
    if not shown:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_STYLE):
        figure = _figure(plt, shown)
        for suffix, options in ((".png", {"dpi": 300}), (".svg", {"metadata": {"Date": None}})):
            paths.append(out / f"benchmarks{suffix}")
            figure.savefig(paths[-1], bbox_inches="tight", pad_inches=0.05, **options)
        plt.close(figure)
    return paths


def _figure(plt: Any, rows: Sequence[Result]) -> Any:
    groups = list(dict.fromkeys(row.measurement for row in rows))
    figure, axis = plt.subplots(figsize=(WIDTH, 0.7 + _ROW * (len(rows) + 0.5 * len(groups))), layout="constrained")
    place, places, labels = 0.0, [], []
    for group in groups:
        for row in (each for each in rows if each.measurement == group):
            _row(axis, row, place)
            places.append(place)
            labels.append(f"{group}: {row.name}")
            place += 1
        place += 0.5
    axis.axvline(1, color=FAINT, linewidth=0.6, zorder=0)
    axis.set_xscale("log")
    axis.set(yticks=places, yticklabels=labels, ylim=(place, -1), xlabel="ratio, and to what")
    low, high = axis.get_xlim()
    axis.set_xlim(low, max(high, 2) * (high / low) ** 0.12)
    axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.4)
    axis.set_axisbelow(True)
    axis.set_title(f"{rows[0].machine}\n{rows[0].date[:10]}; bars: range of the repeats; strokes: goals", color=SOFT)
    return figure


def _row(axis: Any, row: Result, place: float) -> None:
    ratio = row.ratio or 0.0
    color = {True: GOOD, False: BAD, None: PALETTE[0]}[row.met]
    if row.ratio_low and row.ratio_high:
        axis.plot([row.ratio_low, row.ratio_high], [place, place], color=color, linewidth=1.6, alpha=0.45)
    axis.plot([ratio], [place], "o", color=color, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
    end = max(ratio, row.ratio_high or 0.0)
    if row.goal:
        goal = float(row.goal.split()[1])
        axis.plot([goal, goal], [place - 0.35, place + 0.35], color=INK, linewidth=1)
        end = goal if end < goal < 2 * end else end  # what is said of it does not run into the stroke
    axis.annotate(
        f"{ratio:.3g} to {row.ratio_to.split(' (')[0].split(',')[0].split(':')[0]}", (end, place), xytext=(6, 0),
        textcoords="offset points", va="center", fontsize=6.5, color=SOFT,
    )  # fmt: skip
