"""Results as text: a line on the screen, a table in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.photos import REPOSITORY
from benchmarks.record import Result

PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
_COLUMNS = ("measurement", "what", "value", "ratio", "goal", "photos", "threads", "remarks")
_MARKS = {True: "met", False: "**missed**", None: ""}


def line(row: Result) -> str:
    """One result for the screen."""
    text = f"{row.name or row.measurement}: "
    if row.value is None:
        return text + row.note
    text += f"{number(row.value)} {row.unit}".rstrip()
    if row.ratio is not None:
        text += f", {number(row.ratio)}{_range(row.ratio_low, row.ratio_high)} × {row.ratio_to}"
    if row.goal:
        text += f"; goal {row.goal} {'met' if row.met else 'MISSED'}"
    return text + (f"; {row.note}" if row.note else "")


def table(rows: Sequence[Result]) -> str:
    """Results as Markdown, with machine and dates above."""
    if not rows:
        return "Nothing has been measured yet.\n"
    gpus = sorted({row.device for row in rows} - {"", "cpu"})
    machines = gpus + sorted({row.machine for row in rows})
    dates = sorted({row.date[:10] for row in rows})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    text = f"{'; '.join(machines)}; {when}. Medians of repeats; in brackets, the smallest and the largest ratio.\n\n"
    text += f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"
    before = ""
    for row in rows:
        value = f"{number(row.value)} {row.unit}" if row.value is not None else "–"
        ratio = ""
        if row.ratio is not None:
            ratio = f"{number(row.ratio)}{_range(row.ratio_low, row.ratio_high)} to {row.ratio_to}"
        cells = [
            row.measurement if row.measurement != before else "", row.name if row.name != row.measurement else "",
            value, ratio, f"{row.goal} {_MARKS[row.met]}".strip() if row.goal else "",
            f"{row.photos:,}" if row.photos else "", str(row.threads or ""), row.note,
        ]  # fmt: skip
        before = row.measurement
        text += "| " + " | ".join(cell.replace("|", "∣") for cell in cells) + " |\n"
    return text


def fill(page: Path, rows: Sequence[Result]) -> None:
    """Replace what stands between the markers of a page by the table.

    Raises:
        ValueError: the page has no markers.
        OSError: it cannot be read or written.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    part = page.with_name(page.name + ".part")
    part.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n{END}{after}", encoding="utf-8")
    part.replace(page)


def number(value: float) -> str:
    """About three digits."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if 0.99 < size < 1:
        return f"{value:.4f}"  # an agreement
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def _range(low: float | None, high: float | None) -> str:
    return f" [{number(low)}, {number(high)}]" if low is not None and high is not None and low != high else ""
