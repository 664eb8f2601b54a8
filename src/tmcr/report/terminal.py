"""Verdicts, metrics and progress in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.bar import Bar as HorizontalBar
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tmcr.assessment import Assessment
from tmcr.errors import printable
from tmcr.metrics import METRIC_NAMES, Report
from tmcr.wording import counted

Rows = Sequence[tuple[str, Sequence[str]]]  # name, cells
_Column = tuple[str, int, Callable[[Assessment], str]]  # title, share of the width, cell in markup

_BLOCKS = " ▁▂▃▄▅▆▇█"
_GAP = 2  # between the columns of a table
_NARROWEST_NAME = 8  # with the gap
_FITS = 1.0  # standard deviations above the training photos from which on a tag of the user's own is worth a place
_BETTER = {"acc": "↑", "srcc": "↑", "plcc": "↑", "mse": "↓", "emd1": "↓", "emd2": "↓"}


def make_console() -> Console:
    """Results go to standard output; without a terminal, lines are wide enough not to be cut."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "–/s", style="cyan")


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Bar:
    """A progress bar on standard error."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1) -> None:
        self._progress.advance(self._task, amount)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Bar]:
    """A bar with rate and time left while the block runs; nothing where standard error is no terminal."""
    with _bar(Console(stderr=True)) as bar:
        yield Bar(bar, bar.add_task(description, total=total, note=""))


class StageProgress:
    """Shows the stages of a training run: a bar for the one at work, one line for each that is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = _bar(Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._clear()
        self._task = self._bar.add_task(stage, total=total, completed=done, note="")

    def step(self, amount: int = 1, **values: float) -> None:
        if self._task is not None:
            note = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._bar.update(self._task, advance=amount, note=note)

    def finish(self, summary: str) -> None:
        self._clear()
        self._console.print(f"[green]✓[/] {escape(summary)}")

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def ranking_table(verdicts: Sequence[Assessment], console: Console, *, limit: int = 40) -> None:
    """Print the ranking, best first; photos that could not be read come last with the reason."""
    ranked = sorted((v for v in verdicts if v.score is not None), key=lambda v: -(v.score or 0))
    failed = [v for v in verdicts if not v.ok]
    names = _short_names([v.photo for v in verdicts])
    if ranked:
        wide = console.width >= 100  # the numbers and the name come first; a narrow screen gets no reasons
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        for title, style in (("#", "dim"), ("score", ""), ("±", "dim")):
            table.add_column(title, justify="right", style=style, no_wrap=True)
        table.add_column("ratings", style="cyan", no_wrap=True)
        table.add_column("photo", overflow="ellipsis", no_wrap=True, max_width=36 if wide else 24)
        about = _columns_about(ranked[:limit], wide)
        for title, ratio, _ in about:
            table.add_column(title, overflow="ellipsis", no_wrap=True, ratio=ratio)
        for place, verdict in enumerate(ranked[:limit], start=1):
            table.add_row(
                str(place),
                f"[bold]{verdict.score:.2f}[/]",
                f"{verdict.std:.2f}",
                _sparkline(verdict.distribution),
                escape(names[verdict.photo]),
                *(said(verdict) for _, _, said in about),
            )
        console.print(table)
        if len(ranked) > limit:
            console.print(f"… and {len(ranked) - limit} more; --top shows more, --out and --gallery all", style="dim")
    for verdict in failed[:limit]:
        console.print(f"[red]✗[/] {escape(names[verdict.photo])}: {escape(verdict.error or '')}")
    if len(failed) > limit:
        console.print(f"… and {len(failed) - limit} more that cannot be read; --out lists all", style="dim")


def _columns_about(verdicts: Sequence[Assessment], wide: bool) -> list[_Column]:
    """What is said of each photo beside its numbers. On a narrow screen the user's own tags take the kind's place."""
    own: list[_Column] = [("your tags", 2, _own_tags)] if any(verdict.own_tags for verdict in verdicts) else []
    kind: _Column = ("among its kind", 2, _standing)
    return [kind, *own, ("raised / lowered by", 4, _why)] if wide else own or [kind]


def explain_panel(verdict: Assessment) -> RenderableType:
    """Everything about one photo."""
    if verdict.score is None:
        return Text(f"✗ {printable(verdict.photo)}: {verdict.error}", style="red")
    parts: list[RenderableType] = [
        Text.from_markup(f"[bold]{verdict.score:.2f}[/] of 10, ratings spread ±{verdict.std:.2f}"),
        Text.from_markup(_standing_in_full(verdict)),
        Text(),
        _histogram(verdict),
        Text(),
    ]
    named = (("shows", verdict.semantic_tags), ("impression", verdict.attribute_tags), ("your tags", verdict.own_tags))
    for title, tags in named:
        if not tags:
            continue
        parts.append(Text.from_markup(f"[bold]{title}[/]  " + escape(", ".join(tag.name for tag in tags))))
    parts += [Text(), _reasons(verdict)]
    return Panel(Group(*parts), title=escape(printable(Path(verdict.photo).name)), width=90)


def metrics_table(reports: Sequence[tuple[str, Report]], console: Console) -> None:
    """Print metrics of several models or parts, one row each, with 95 % intervals."""
    headers = ["photos", *(f"{name.upper()} {_BETTER[name]}" for name in METRIC_NAMES)]
    rows, note = _metric_rows(reports, "…"), "95 % bootstrap intervals below the values"
    if sum(_widths("", headers, rows)) > console.width:
        rows, note = _metric_rows(reports, "\n"), f"{note}, the low end above the high one"
    print_numbers("", headers, rows, console)
    if any(report.intervals for _, report in reports):
        console.print(note, style="dim")


def print_numbers(title: str, headers: Sequence[str], rows: Rows, console: Console, *, wrap: bool = True) -> None:
    """Print a table of names and numbers. Where the terminal is narrow, names wrap or are cut; numbers never are.

    Args:
        title: of the column of names.
        rows: name, and the cells under `headers` in markup.
        wrap: names may take several lines; else they end in an ellipsis.
    """
    longest, *widths = _widths(title, headers, rows)
    name = min(longest, max(console.width - sum(widths), _NARROWEST_NAME))
    needed = name + sum(widths)
    table = Table(box=None, header_style="bold", pad_edge=False, width=needed if needed > console.width else None)
    table.add_column(title, no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", max_width=name - _GAP)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for text, cells in rows:
        table.add_row(escape(text), *cells)
    console.print(table, crop=False)


def _metric_rows(reports: Sequence[tuple[str, Report]], between: str) -> Rows:
    """Title and cells of each report; `between` stands between the ends of an interval."""
    rows = []
    for title, report in reports:
        cells = [str(report.n)]
        for name in METRIC_NAMES:
            value, interval = getattr(report, name), report.intervals.get(name)
            text = "–" if value is None else f"{value:.3f}"
            if interval is not None:
                text += f"\n[dim]{interval.low:.3f}{between}{interval.high:.3f}[/]"
            cells.append(text)
        rows.append((title, cells))
    return rows


def _widths(title: str, headers: Sequence[str], rows: Rows) -> list[int]:
    """Of the column of names and of each column of numbers, with the gap to the next."""
    names = [title, *(escape(name) for name, _ in rows)]
    columns = [names, *zip(headers, *(cells for _, cells in rows), strict=True)]
    return [
        _GAP + max(cell_len(line) for cell in column for line in Text.from_markup(cell).plain.split("\n"))
        for column in columns
    ]


def _short_names(photos: Sequence[str]) -> dict[str, str]:
    """Names fit for a terminal, without the folder that all photos share."""
    parents = {str(Path(photo).parent) for photo in photos}
    return {photo: printable(Path(photo).name if len(parents) == 1 else photo) for photo in photos}


def _sparkline(distribution: Sequence[float]) -> str:
    top = max(distribution, default=0) or 1
    return "".join(_BLOCKS[round(share / top * (len(_BLOCKS) - 1))] for share in distribution)


def _standing(verdict: Assessment) -> str:
    if verdict.percentile is None:
        return ""
    name = f" of [italic]{escape(verdict.kind[0])}[/]" if verdict.kind else ""
    return f"above {verdict.percentile:.0f} %{name}"


def _standing_in_full(verdict: Assessment) -> str:
    if verdict.percentile is None:
        return ""
    name = f": [italic]{escape(' · '.join(verdict.kind))}[/]" if verdict.kind else ""
    return f"above {verdict.percentile:.0f} % of the training photos of its kind{name}"


def _own_tags(verdict: Assessment) -> str:
    return escape(", ".join(tag.name for tag in verdict.own_tags if tag.z >= _FITS))


def _why(verdict: Assessment, top: int = 3) -> str:
    """The facets that moved the score most, each with the tag that shows it."""
    return "  ".join(
        f"[{'green' if facet.contribution > 0 else 'red'}]{facet.contribution:+.2f} {escape(facet.name)}[/]"
        + (f" [dim]{escape(facet.tags[0])}[/]" if facet.tags else "")
        for facet in verdict.facets[:top]
    )


def _histogram(verdict: Assessment, width: int = 40) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("bar", max_width=width)  # in a narrow terminal all bars shrink alike
    table.add_column("share", justify="right", no_wrap=True)
    top = max(verdict.distribution)
    for value, share in reversed(list(zip(verdict.score_values, verdict.distribution, strict=True))):
        table.add_row(f"{value:g}", HorizontalBar(top, 0, share, color="cyan"), f"[dim]{share:.0%}[/]")
    return table


def _reasons(verdict: Assessment, top: int = 8) -> Table:
    """From the mean training photo to this one, facet by facet; the points add up to the score."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("why", no_wrap=True)
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("because of" if any(facet.tags for facet in verdict.facets[:top]) else "")
    table.add_row("the mean training photo", f"{verdict.reference_score:.2f}", "")
    for facet in verdict.facets[:top]:
        table.add_row(escape(facet.name), _signed(facet.contribution), escape(", ".join(facet.tags)))
    if rest := verdict.facets[top:]:
        others = counted(len(rest), "other facet")
        table.add_row(others, _signed(sum(facet.contribution for facet in rest)), "", style="dim")
    table.add_row("what the image encoder sees", _signed(verdict.encoder_contribution or 0.0), "", style="dim")
    table.add_row("[bold]this photo[/]", f"[bold]{verdict.score:.2f}[/]", "")
    return table


def _signed(value: float) -> str:
    return f"[{'green' if value > 0 else 'red'}]{value:+.2f}[/]"
