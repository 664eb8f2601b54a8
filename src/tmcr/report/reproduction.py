"""Reproduced tables and figures as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmcr.disk import write_whole
from tmcr.experiments.figure_data import Figure, Figure5, Figure6, Figure7, Space
from tmcr.experiments.outcome import Estimate
from tmcr.experiments.tables import Table, paper_csv, to_csv, to_dict, to_latex, to_markdown
from tmcr.report.paper_figures import draw


def write_reproduction(result: Table | Figure, out: Path, *, thumbnails: bool = False) -> list[Path]:
    """Write a table (.md, .csv, .tex, .json; the paper's rows as .paper.csv) or a figure (.png, .svg, .csv, .json)."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(result, Table):
        texts = {
            ".md": to_markdown(result),
            ".csv": to_csv(result),
            ".tex": to_latex(result),
            ".json": _json(to_dict(result)),
        }
        if result.spec.paper:
            texts[".paper.csv"] = paper_csv(result)
        drawn = []
    else:
        header, rows, values = _figure_values(result)
        about = {"facts": dict(result.facts), "notes": list(result.notes), "command": result.command}
        texts = {".csv": _csv(header, rows), ".json": _json(about | values)}
        drawn = draw(result, out, thumbnails=thumbnails)
    for suffix, text in texts.items():
        write_whole(out / f"{result.name}{suffix}", text)
    return [*(out / f"{result.name}{suffix}" for suffix in texts), *drawn]


def _figure_values(figure: Figure) -> tuple[list[str], list[list[object]], dict[str, Any]]:
    """The points that are drawn, as rows, and what else stands in the picture."""
    match figure:
        case Figure5():
            header = ["photo", "region", "mean rating", *figure.predicted]
            columns = [figure.ids, figure.photo_regions, figure.true.tolist(), *figure.predicted.values()]
            ranges = {name: [float(each.min()), float(each.max())] for name, each in figure.predicted.items()}
            histogram = [
                {"from": low, "to": high, "photos": int(count), "region": region}
                for low, high, count, region in zip(
                    figure.edges[:-1].tolist(), figure.edges[1:].tolist(), figure.counts, figure.regions, strict=True
                )
            ]
            return header, _rows(columns), {"training histogram": histogram, "range of predictions": ranges}
        case Figure6():
            header = ["frequency"]
            for name in ("srcc", "plcc", "srcc_gain"):
                header += [name, f"{name}_low", f"{name}_high"]
            bare = figure.without
            rows: list[list[object]] = [] if bare is None else [["none", *_ends(bare[0]), *_ends(bare[1]), "", "", ""]]
            rows += [
                [each, *_ends(srcc), *_ends(plcc), *_ends(gain)]
                for each, srcc, plcc, gain in zip(
                    figure.frequencies, figure.srcc, figure.plcc, figure.srcc_gain, strict=True
                )
            ]
            return header, rows, {}
        case Figure7():
            header = ["space", "photo", "x", "y", "label", "held out", "mark"]
            marks = {photo.id: number for number, photo in enumerate(figure.marked, start=1)}
            spaces = {"semantic": figure.semantic, "attribute": figure.attribute, "level": figure.level}
            rows = [row for name, space in spaces.items() for row in _points(name, space, marks)]
            marked = [
                {"photo": each.id, "mean rating": round(each.score, 3), "semantic tags": each.semantic,
                 "attribute tags": each.attribute}
                for each in figure.marked
            ]  # fmt: skip
            return header, rows, {"cluster": figure.cluster, "clusters": figure.cluster_names, "marked": marked}


def _points(name: str, space: Space, marks: Mapping[str, int]) -> list[list[object]]:
    return [
        [name, photo, f"{x:.4f}", f"{y:.4f}", int(label), int(held_out), marks.get(photo, "")]
        for photo, (x, y), label, held_out in zip(space.ids, space.positions, space.labels, space.held_out, strict=True)
    ]


def _rows(columns: Sequence[Sequence[Any]]) -> list[list[object]]:
    return [
        [f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in zip(*columns, strict=True)
    ]


def _ends(each: Estimate) -> list[str]:
    interval = each.interval() or (None, None)
    return ["" if value is None else f"{value:.5g}" for value in (each.value, *interval)]


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
