"""The tables that can be reproduced: which systems stand in them, by which metrics, and how they are told.

What was measured and what the paper prints are kept apart: two blocks in Markdown and LaTeX, two CSV files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tmcr.experiments.outcome import METRICS, TAIL_METRICS, Estimate, Outcome, Which, better
from tmcr.experiments.paper import TABLE_1, TABLE_2_AADB, TABLE_2_PARA, TABLE_3, TABLE_4, TABLE_5, PaperTable
from tmcr.experiments.systems import FULL_FT, FULL_LP, RIDGE, SEMANTIC_ONLY
from tmcr.metrics import REGIONS

TITLES = {
    "acc": "ACC %", "plcc": "PLCC", "srcc": "SRCC", "mse": "MSE", "emd1": "EMD1", "emd2": "EMD2",
    "mse_many": "MSE many", "mse_med": "MSE med", "mse_few": "MSE few",
}  # fmt: skip
_ARROWS = {True: "↑", False: "↓"}


@dataclass(frozen=True)
class TableSpec:
    """A table.

    Attributes:
        title: what it shows.
        systems: its rows.
        metrics: its columns.
        reference: the row that the others' differences are from.
        differences: metrics whose paired differences from the reference are shown.
        which: over all held-out photos or over the balanced draw.
        paper: the paper's tables that belong beside it.
    """

    title: str
    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    reference: str
    differences: tuple[str, ...] = ("srcc",)
    which: Which = "all"
    paper: tuple[PaperTable, ...] = ()


def _ranking(mode: str, full: str) -> TableSpec:
    rivals = tuple(f"{each} {mode}" for each in ("no ranking", "LDS", "SupCon", "Rank-N-Contrast"))
    return TableSpec(
        f"What stands in the traversal loss's place, at equal budget ({mode})",
        (*rivals, full),
        ("srcc", "plcc", "emd1", "mse", "mse_many", "mse_med", "mse_few"),
        full,
        ("srcc", "mse_few"),
    )


TABLES: dict[str, TableSpec] = {
    "table1": TableSpec(
        "Aesthetics prediction",
        (
            "constant", "hand-crafted + ridge", RIDGE, "tags + ridge", "zero-shot prompts", "linear probe", "MLP probe",
            "NIMA", FULL_FT,
        ),
        METRICS,
        FULL_FT,
        paper=(TABLE_1,),
    ),
    "table2": TableSpec(
        "Aesthetics prediction on sets with few raters",
        (RIDGE, "linear probe", "NIMA", FULL_FT),
        ("srcc", "plcc"),
        FULL_FT,
        paper=(TABLE_2_AADB, TABLE_2_PARA),
    ),
    "table3": TableSpec(
        "Long tail: error by how common a score is, on a balanced draw",
        ("NIMA", "no ranking FT", "LDS FT", FULL_FT),
        TAIL_METRICS,
        FULL_FT,
        ("mse", "mse_few"),
        which="balanced",
        paper=(TABLE_3,),
    ),
    "table4": TableSpec(
        "Impact of tag matching and contrastive ranking",
        (RIDGE, "TM", "CR", FULL_LP, FULL_FT),
        METRICS,
        FULL_FT,
        paper=(TABLE_4,),
    ),
    "table5": TableSpec(
        "Impact of semantic and attribute tags", (SEMANTIC_ONLY, FULL_FT), METRICS, FULL_FT, paper=(TABLE_5,)
    ),
    "ranking-lp": _ranking("LP", FULL_LP),
    "ranking-ft": _ranking("FT", FULL_FT),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A measured table.

    Attributes:
        name: "table4", …; the stem of its files.
        estimates: system → metric → estimate.
        differences: system → metric → estimate of the paired difference from `spec.reference`.
        notes: what a reader has to know beside the facts.
        command: what reproduces it.
    """

    name: str
    spec: TableSpec
    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    seconds: dict[str, float]
    missing: dict[str, str]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def heading(self) -> str:
        number = self.name.removeprefix("table")
        return f"Table {number}: {self.spec.title}" if number.isdigit() else self.spec.title


def make_table(name: str, outcome: Outcome, notes: Sequence[str] = (), command: str = "") -> Table:
    """The table called `name` from what was tried."""
    spec = TABLES[name]
    estimates = outcome.estimates(spec.metrics, spec.which)
    if estimates and spec.reference not in estimates:  # other rows were asked for: the last one serves
        spec = replace(spec, reference=list(estimates)[-1])
    reference = estimates.get(spec.reference)
    differences = {
        system: {metric: row[metric].minus(reference[metric]) for metric in spec.differences}
        for system, row in estimates.items()
        if reference is not None and system != spec.reference
    }
    held_out = outcome.held_out
    notes = list(notes)
    if any(metric.startswith("mse_") for metric in spec.metrics):
        counts = ", ".join(f"{region} {int((held_out.regions == region).sum())}" for region in REGIONS)
        notes.append(f"held-out photos by region: {counts}")
    if spec.which == "balanced":
        drawn, again = held_out.drawn.sum(1), bool((held_out.drawn != held_out.drawn[0]).any())
        if drawn[0]:
            notes.append(f"balanced draw: {drawn[0]} photos" + (", drawn anew for each pass" if again else ""))
        else:
            notes.append("no balanced draw: a region is empty; move its borders with --edges, --many or --few")
    return Table(
        name, spec, estimates, differences, outcome.seconds, outcome.missing, outcome.facts, tuple(notes), command
    )


# ---- as text ------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Measured rows with 95 % intervals, the facts, and the paper's numbers in a quoted block of their own."""
    best = _best(table)
    lines = [f"## {table.heading}", "", "**Measured here**", ""]
    header = ["system", *(_title(metric) for metric in table.spec.metrics)]
    header += [f"Δ{TITLES[metric]} from {table.spec.reference}" for metric in table.spec.differences]
    lines += [_bar(header), _bar(["---"] * len(header))]
    for system, row in table.estimates.items():
        cells = [system]
        cells += [_cell(metric, row[metric], bold=best.get(metric) == system) for metric in table.spec.metrics]
        cells += [_difference(table, system, metric) for metric in table.spec.differences]
        lines.append(_bar(cells))
    lines += [_bar([system, f"not tried: {why}"]) for system, why in table.missing.items()]
    lines.append("")
    lines += [f"- {key}: {value}" for key, value in table.facts.items()]
    lines += [f"- {note}" for note in table.notes]
    if table.command:
        lines.append(f"- command: `{table.command}`")
    for paper in table.spec.paper:
        lines += ["", f"> **{paper.label}.** As printed; other photos, other encoders, not measured here.", ">"]
        lines.append("> " + _bar(["method", *(_title(metric) for metric in paper.metrics)]))
        lines.append("> " + _bar(["---"] * (len(paper.metrics) + 1)))
        lines += ["> " + _bar([method, *(value or "–" for value in values)]) for method, values in paper.rows.items()]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """One row a system: each metric with the ends of its interval, differences likewise, seconds. ACC is 0..1."""
    header = ["system"]
    for name in (*table.spec.metrics, *(f"{metric}_difference" for metric in table.spec.differences)):
        header += [name, f"{name}_low", f"{name}_high"]
    rows = []
    for system, row in table.estimates.items():
        cells: list[object] = [system]
        apart = table.differences.get(system, {})
        for each in (*(row[metric] for metric in table.spec.metrics), *map(apart.get, table.spec.differences)):
            interval = each.interval() if each is not None else None
            cells += [_plain(each.value if each else None), *(map(_plain, interval) if interval else ("", ""))]
        rows.append([*cells, round(table.seconds[system], 1)])
    return _csv([*header, "seconds"], rows)


def paper_csv(table: Table) -> str:
    """The paper's rows: table label, method, metrics as printed."""
    metrics = list(dict.fromkeys(metric for paper in table.spec.paper for metric in paper.metrics))
    rows = [
        [paper.label, method, *(dict(zip(paper.metrics, values, strict=True)).get(metric, "") for metric in metrics)]
        for paper in table.spec.paper
        for method, values in paper.rows.items()
    ]
    return _csv(["source", "method", *metrics], rows)


def to_latex(table: Table) -> str:
    """A `table` environment for what was measured and one for each of the paper's (needs booktabs)."""
    best = _best(table)
    metrics, facts = table.spec.metrics, table.facts
    body = [
        " & ".join([_tex(system), *(_tex_cell(metric, row[metric], best.get(metric) == system) for metric in metrics)])
        for system, row in table.estimates.items()
    ]
    caption = f"{table.heading}. Measured on {facts['data']}; {facts['split']}; {facts['intervals']}."
    parts = [_tex_table(caption, f"tab:{table.name}", metrics, body)]
    for number, paper in enumerate(table.spec.paper):
        rows = [
            " & ".join([_tex(method), *(value or "--" for value in values)]) for method, values in paper.rows.items()
        ]
        caption = f"Not measured: {paper.label}, as printed."
        parts.append(_tex_table(caption, f"tab:{table.name}-paper-{number + 1}", paper.metrics, rows))
    return "\n".join(parts)


def to_dict(table: Table) -> dict[str, Any]:
    """Plain values, ready for JSON: measured and printed under different keys."""
    return {
        "title": table.heading,
        "facts": dict(table.facts),
        "notes": list(table.notes),
        "command": table.command,
        "measured": {system: _plain_row(row) for system, row in table.estimates.items()},
        f"difference from {table.spec.reference}": {
            system: _plain_row(row) for system, row in table.differences.items()
        },
        "seconds": {system: round(value, 1) for system, value in table.seconds.items()},
        "not tried": table.missing,
        "printed in the paper": {
            paper.label: {
                method: dict(zip(paper.metrics, values, strict=True)) for method, values in paper.rows.items()
            }
            for paper in table.spec.paper
        },
    }


def _title(metric: str) -> str:
    return f"{TITLES[metric]} {_ARROWS[better(metric, 1, 0)]}"


def _best(table: Table) -> dict[str, str]:
    """metric → the system with the best value."""
    best: dict[str, str] = {}
    for metric in table.spec.metrics:
        for system, row in table.estimates.items():
            value, held = row[metric].value, table.estimates[best[metric]][metric].value if metric in best else None
            if value is not None and (held is None or better(metric, value, held)):
                best[metric] = system
    return best


def _shown(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if metric == "acc" else f"{value:.3f}"


def _cell(metric: str, each: Estimate, *, bold: bool) -> str:
    if each.value is None:
        return "–"
    value, interval = _shown(metric, each.value), each.interval()
    shown = f"**{value}**" if bold else value
    return shown + (f" [{_shown(metric, interval[0])}, {_shown(metric, interval[1])}]" if interval else "")


def _difference(table: Table, system: str, metric: str) -> str:
    each = table.differences.get(system, {}).get(metric)
    if each is None or each.value is None:
        return "" if system == table.spec.reference else "–"
    interval = each.interval()
    return f"{each.value:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _plain_row(row: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        metric: None if each.value is None else [each.value, *(each.interval() or (None, None))]
        for metric, each in row.items()
    }


def _tex_table(caption: str, label: str, metrics: Sequence[str], rows: Sequence[str]) -> str:
    titles = " & ".join(["", *map(_tex_title, metrics)])
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(caption)}}}", rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'c' * len(metrics)}}}", r"\toprule", rf"{titles} \\", r"\midrule",
        *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _tex_title(metric: str) -> str:
    arrow = r"$\uparrow$" if better(metric, 1, 0) else r"$\downarrow$"
    return f"{_tex(TITLES[metric])} {arrow}"


def _tex_cell(metric: str, each: Estimate, bold: bool) -> str:
    if each.value is None:
        return "--"
    value, interval = _shown(metric, each.value), each.interval()
    shown = rf"\textbf{{{value}}}" if bold else value
    if interval is None:
        return shown
    return rf"{shown} {{\scriptsize [{_shown(metric, interval[0])}, {_shown(metric, interval[1])}]}}"


def _tex(text: str) -> str:
    for character in "&%_#$":
        text = text.replace(character, f"\\{character}")
    for character, command in (("Δ", r"$\Delta$"), ("×", r"$\times$"), ("…", r"\dots{}"), ("–", "--"), ("→", r"$\to$")):
        text = text.replace(character, command)
    return text
