"""The paper's figures, drawn from their data: one size of type, a palette that the colour-blind can read, no photos.

Thumbnails are drawn only where asked for: whoever publishes a figure must hold the rights to what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tmcr.disk import write_whole
from tmcr.experiments.figure_data import Figure, Figure5, Figure6, Figure7, MarkedPhoto, Space
from tmcr.experiments.outcome import Estimate
from tmcr.metrics import REGIONS

# Okabe and Ito's palette without its yellow, which is too light for small marks on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#666666")
REGION_COLORS = {"many": "#0072B2", "med": "#E69F00", "few": "#D55E00"}
MARKERS = ("o", "^", "s", "D")
INK, SOFT, FAINT = "#222222", "#666666", "#9a9a9a"
_BADGE: dict[str, Any] = {  # the number of a marked photo
    "fontsize": 6.5, "fontweight": "bold", "color": "white", "ha": "center", "va": "center",
    "bbox": {"boxstyle": "circle,pad=0.22", "facecolor": INK, "edgecolor": "white", "linewidth": 0.6},
}  # fmt: skip
WIDTH = 7.1  # inches: two columns of a paper
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.labelsize": 7.5, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6, "axes.edgecolor": INK, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "legend.handletextpad": 0.4, "svg.fonttype": "none",
    "svg.hashsalt": "tmcr", "axes.titleweight": "normal", "axes.titlelocation": "left", "axes.titlepad": 5,
}  # fmt: skip


def draw(figure: Figure, out: Path, *, thumbnails: bool = False) -> list[Path]:
    """Write `out`/NAME.png and NAME.svg; returns both.

    Args:
        thumbnails: show the marked photos of Figure 7.
    """
    with _matplotlib() as plt:
        match figure:
            case Figure5():
                drawn = _figure5(plt, figure)
            case Figure6():
                drawn = _figure6(plt, figure)
            case Figure7():
                drawn = _figure7(plt, figure, thumbnails)
        paths = []
        for suffix, options in ((".png", {"dpi": 300}), (".svg", {"metadata": {"Date": None}})):
            path = out / f"{figure.name}{suffix}"
            layout = {"format": suffix[1:], "bbox_inches": "tight", "pad_inches": 0.03} | options
            write_whole(path, partial(drawn.savefig, **layout))
            paths.append(path)
        plt.close(drawn)
    return paths


@contextmanager
def _matplotlib() -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context(_STYLE):
        yield plt


# ---- figure 5: the long tail ----------------------------------------------------------------------------------------


def _figure5(plt: Any, data: Figure5) -> Any:
    systems = list(data.predicted)
    figure = plt.figure(figsize=(WIDTH, 2.15), layout="constrained")
    grid = figure.add_gridspec(1, 1 + len(systems), width_ratios=[1.25, *([1] * len(systems))])
    left = figure.add_subplot(grid[0])
    width = data.edges[1] - data.edges[0]
    for region in REGIONS:
        heights = [count if own == region else 0 for count, own in zip(data.counts, data.regions, strict=True)]
        left.bar(data.edges[:-1], heights, width, align="edge", color=REGION_COLORS[region], label=region,
                 edgecolor="white", linewidth=0.4)  # fmt: skip
    left.set(
        xlabel="mean rating", ylabel="training photos", xlim=(1, 10), xticks=range(1, 11), title="(a) training set"
    )
    left.legend(loc="upper left", handlelength=0.9, handleheight=0.9, borderaxespad=0.2)
    left.set_box_aspect(1 / 1.25)  # as high as the squares beside it

    first = None
    for number, system in enumerate(systems):
        axis = figure.add_subplot(grid[1 + number], sharex=first, sharey=first)
        first = first or axis
        _against_truth(axis, data, system)
        axis.set_title(f"({'bcdefgh'[number]}) {system}")
        if number:
            axis.tick_params(labelleft=False)
        else:
            axis.set_ylabel("predicted")
        axis.set_xlabel("mean rating")
    return figure


def _against_truth(axis: Any, data: Figure5, system: str) -> None:
    predicted, regions = data.predicted[system], np.array(data.photo_regions)
    axis.plot([1, 10], [1, 10], color=FAINT, linewidth=0.6, zorder=1)
    for region in REGIONS:
        chosen = regions == region
        axis.scatter(data.true[chosen], predicted[chosen], s=9, color=REGION_COLORS[region], linewidths=0.25,
                     edgecolors="white", alpha=0.9, zorder=2)  # fmt: skip
    low, high = float(predicted.min()), float(predicted.max())
    axis.annotate("", (10.25, low), (10.25, high), annotation_clip=False,
                  arrowprops={"arrowstyle": "|-|,widthA=0.18,widthB=0.18", "linewidth": 0.8, "color": INK,
                              "shrinkA": 0, "shrinkB": 0})  # fmt: skip
    for value, place in ((low, "top"), (high, "bottom")):
        axis.text(
            10.25, value + (0.18 if place == "bottom" else -0.18), f"{value:.1f}", ha="center", va=place, fontsize=6.5
        )
    axis.set(xlim=(1, 10.6), ylim=(1, 10), xticks=range(1, 11, 3), yticks=range(1, 11, 3), box_aspect=1)


# ---- figure 6: sampling frequency -----------------------------------------------------------------------------------


def _figure6(plt: Any, data: Figure6) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 0.82, 2.3), layout="constrained")
    for number, (name, values) in enumerate((("SRCC", data.srcc), ("PLCC", data.plcc))):
        _curve(left, data.frequencies, values, PALETTE[number * 3], MARKERS[number * 2], name, shift=number - 0.5)
        if data.without is not None and data.without[number].value is not None:
            left.axhline(data.without[number].value, color=PALETTE[number * 3], linewidth=0.8, dashes=(4, 3))
    lines, names = left.get_legend_handles_labels()
    if data.without is not None:
        lines += left.plot([], [], color=FAINT, linewidth=0.8, dashes=(4, 3))
        names.append("without ranking")
    left.set(xlabel="sampling frequency", ylabel="correlation", title="(a) linear probe")
    left.legend(lines, names, loc="upper left", ncols=3, columnspacing=1.0, handlelength=1.6)
    _curve(right, data.frequencies, data.srcc_gain, PALETTE[0], MARKERS[0], "", shift=0)
    right.axhline(0, color=FAINT, linewidth=0.6)
    right.set(
        xlabel="sampling frequency", ylabel="ΔSRCC", title=f"(b) gain over frequency {data.frequencies[0]}, paired"
    )
    steps = np.diff(data.frequencies)
    for axis in (left, right):
        if len(steps) > 1 and steps[-1] > 1.5 * steps[0]:  # a geometric sweep
            axis.set_xscale("log", base=2)
            axis.minorticks_off()
        axis.set_xticks(data.frequencies, [str(each) for each in data.frequencies])
        axis.margins(x=0.08)
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.14 * (high - low))  # room for the legend
    return figure


def _curve(
    axis: Any,
    frequencies: Sequence[int],
    estimates: Sequence[Estimate],
    color: str,
    marker: str,
    label: str,
    shift: float,
) -> None:
    x = np.array(frequencies, dtype=float)
    x = (
        x * (1 + 0.03 * shift) if len(x) > 2 and x[-1] - x[-2] > 1.5 * (x[1] - x[0]) else x + 0.4 * shift
    )  # bars side by side
    y = np.array([np.nan if each.value is None else each.value for each in estimates])
    ends = np.array([each.interval() or (value, value) for each, value in zip(estimates, y, strict=True)])
    axis.errorbar(x, y, np.abs(ends.T - y), color=color, marker=marker, markersize=4, markeredgecolor="white",
                  markeredgewidth=0.5, linewidth=1.2, elinewidth=0.7, capsize=2, capthick=0.7, label=label)  # fmt: skip


# ---- figure 7: three spaces -----------------------------------------------------------------------------------------


def _figure7(plt: Any, data: Figure7, thumbnails: bool) -> Any:
    heights = [2.25, 1.2, 1.2] if thumbnails else [2.25, 1.2]
    figure = plt.figure(figsize=(WIDTH, 0.3 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    axes = [figure.add_subplot(grid[0, column]) for column in range(3)]
    marked = [photo.id for photo in data.marked]
    _clusters(axes[0], data, marked)
    colors = {"cmap": plt.get_cmap("viridis", data.level_bins), "norm": plt.Normalize(1, 10)}
    for axis, space, title in zip(
        axes[1:], (data.attribute, data.level), ("(b) attribute space", "(c) level space"), strict=True
    ):
        points = _levels(axis, space, data.level_bins, colors)
        _mark(axis, space, marked)
        axis.set_title(title)
        axis.set_xlabel(f"{_cluster_name(data, data.cluster)}; ringed: held out", color=SOFT)
    bar = figure.colorbar(points, cax=axes[2].inset_axes((1.04, 0, 0.045, 1)))
    bar.set_label("aesthetic level")
    bar.set_ticks(range(1, 11))
    bar.outline.set_visible(False)
    for number, photo in enumerate(data.marked):
        if thumbnails:
            _thumbnail(figure.add_subplot(grid[1, number]), photo)
        _describe(figure.add_subplot(grid[-1, number]), number + 1, photo)
    return figure


def _clusters(axis: Any, data: Figure7, marked: Sequence[str]) -> None:
    space = data.semantic
    for cluster in np.unique(space.labels):
        chosen = space.labels == cluster
        ours = cluster == data.cluster
        _points(axis, space, chosen, color=PALETTE[cluster % len(PALETTE)],
                marker=MARKERS[cluster // len(PALETTE) % len(MARKERS)], alpha=1.0 if ours else 0.45)  # fmt: skip
        x, y = np.quantile(space.positions[chosen], 0.5, axis=0)
        look: dict[str, Any] = {"zorder": 4}
        if ours:  # low among its photos, of which three are marked, and above other names
            y = np.quantile(space.positions[chosen, 1], 0.1)
            look = {"zorder": 6, "fontweight": "bold"}
        name = _cluster_name(data, int(cluster))
        _halo(axis.text(x, y, name, ha="center", va="center", fontsize=6.5, **look))
    _mark(axis, space, marked)
    _bare(axis)
    axis.set_title("(a) semantic space")
    axis.set_xlabel(f"all {len(space.ids)} photos, by kind", color=SOFT)


def _cluster_name(data: Figure7, cluster: int) -> str:
    return data.cluster_names[cluster].split(" · ")[0]


def _levels(axis: Any, space: Space, bins: int, colors: dict[str, Any]) -> Any:
    points = None
    middles = 1 + 9 * (space.labels + 0.5) / bins
    for held_out, look in (
        (False, {"s": 16, "linewidths": 0.3, "edgecolors": "white"}),
        (True, {"s": 20, "linewidths": 0.9, "edgecolors": INK}),
    ):
        chosen = space.held_out == held_out
        points = axis.scatter(*space.positions[chosen].T, c=middles[chosen], **look, **colors)
    _bare(axis)
    return points


def _points(axis: Any, space: Space, chosen: Any, **look: Any) -> None:
    axis.scatter(*space.positions[chosen].T, s=9, linewidths=0, **look)


def _mark(axis: Any, space: Space, marked: Sequence[str]) -> None:
    line = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 1}
    for number, photo in enumerate(marked, start=1):
        place = space.positions[space.ids.index(photo)]
        axis.annotate(str(number), place, (7, 7), textcoords="offset points", arrowprops=line, zorder=5, **_BADGE)


def _bare(axis: Any) -> None:
    """A t-SNE's axes have no unit."""
    axis.set(xticks=[], yticks=[], box_aspect=1)
    axis.spines[["top", "right"]].set_visible(True)
    for spine in axis.spines.values():
        spine.set(color="#cccccc", linewidth=0.6)
    axis.margins(0.07)


def _halo(text: Any) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _thumbnail(axis: Any, photo: MarkedPhoto) -> None:
    from tmcr.images import decode

    axis.imshow(decode(photo.path, target_side=480))
    axis.set_anchor("W")
    axis.axis("off")


def _describe(axis: Any, number: int, photo: MarkedPhoto) -> None:
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.text(0.025, 0.97, str(number), **_BADGE)
    axis.text(0.08, 0.97, f"rated {photo.score:.1f}", va="center", fontweight="bold", fontsize=7)
    for column, (title, tags) in enumerate((("semantic", photo.semantic), ("attribute", photo.attribute))):
        axis.text(column / 2, 0.80, title, fontsize=6.5, color=SOFT, va="center")
        for row, tag in enumerate(tags):
            axis.text(column / 2, 0.66 - 0.145 * row, _shortened(tag), fontsize=6.5, va="center")


def _shortened(text: str, most: int = 21) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
