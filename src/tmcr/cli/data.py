"""`tmcr data`: rated photo sets before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tmcr.datasets.audit import Audit, Overlap, SetAudit

app = typer.Typer(no_args_is_help=True)

_COLOURS = {"problem": "red", "warning": "yellow", "note": "dim"}
_EXAMPLES = 3


@app.callback()
def commands() -> None:
    """Rated photo sets: check a download, or ratings of your own, before you train on them.

    Examples:

        tmcr data check csv:ratings.csv

        tmcr data check ava:tanet@data/ava --out ava.json
    """


@app.command()
def check(
    specs: Annotated[list[str], typer.Argument(help="Data SPECs, e.g. csv:ratings.csv or ava:tanet@data/ava.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the report to this .json file.")] = None,
    photos: Annotated[
        bool, typer.Option("--photos/--no-photos", help="Read every photo file, or look at the labels alone.")
    ] = True,
    exclusions: Annotated[
        Path | None,
        typer.Option(help="Write the training photos that are also test photos to this list, for ?exclude=FILE."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that read photos (default: one a core).")] = None,
) -> None:
    """Audit sets: counts, photos, labels, and what parts and sets share; exit code 1 if numbers would be spoilt.

    Examples:

        tmcr data check csv:ratings.csv

        tmcr data check ava:tanet@data/ava --out ava.json

        tmcr data check ava:official@data/ava ava:tanet@data/ava eva@data/eva --no-photos
    """
    from tmcr.datasets.audit import audit, read_sets, refuse_ratings
    from tmcr.destinations import check_file
    from tmcr.disk import write_whole
    from tmcr.errors import ConfigError
    from tmcr.report.terminal import make_console, progress

    if exclusions is not None and (len(specs) != 1 or not photos):
        raise ConfigError("--exclusions works on one SPEC, with its photos")
    if len(set(specs)) < len(specs):
        raise ConfigError("the same SPEC is given twice; give each once")
    if out is not None:
        refuse_ratings(out, specs)
        check_file(out, (".json",), "a report")
    if exclusions is not None:
        refuse_ratings(exclusions, specs)
    if photos and workers is None:
        from tmcr.hardware import default_workers

        workers = default_workers()
    sets = read_sets(specs)
    total = sum(map(len, sets.values())) if photos else 0
    with progress("reading photos", total) as bar:
        result = audit(sets, photos=photos, workers=workers or 1, watch=bar.advance)
    try:
        if out is not None:
            import json

            write_whole(out, json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        if exclusions is not None:
            ids = dict.fromkeys(learnt for learnt, _ in result.sets[0].leaks)
            write_whole(exclusions, "".join(f"{photo}\n" for photo in ids))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another place") from None
    _print(result, make_console())
    if not result.ok:
        raise typer.Exit(1)


def _print(result: Audit, console: Console) -> None:
    from rich.markup import escape

    from tmcr.errors import printable

    for each in result.sets:
        _print_set(each, console)
    for overlap in result.overlaps:
        _print_overlap(overlap, console)
    for spec, finding in result.all_findings:
        about = f"{spec}: " if spec and len(result.sets) > 1 else ""
        text = escape(printable(f"{about}{finding.message}"))
        console.print(f"[{_COLOURS[finding.level]}]{finding.level}[/] {text}", soft_wrap=True)
        for photo in finding.photos[:_EXAMPLES]:
            console.print(f"        {escape(printable(photo))}", style="dim", soft_wrap=True)
        if len(finding.photos) > _EXAMPLES:
            console.print(f"        … {len(finding.photos) - _EXAMPLES:,} more (--out lists them)", style="dim")
    console.print("[green]nothing found that would spoil numbers[/]" if result.ok else "[red]not fit for use[/]")


def _print_set(each: SetAudit, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(each.spec)}[/]\n{escape(each.description)}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", *each.counts, "all"):
        table.add_column(name, justify="right" if name else "left")
    total = {"all": sum(each.counts.values())}
    rows = [("photos", each.counts | total)]
    if each.published is not None:
        all_published = each.published.get("all", sum(each.published.values()))
        rows.append(("published", each.published | {"all": all_published}))
    for name, values in rows:
        table.add_row(name, *(f"{values[part]:,}" if part in values else "–" for part in (*each.counts, "all")))
    console.print(table)
    facts = each.labels
    line = (
        f"scores {facts['lowest']:.2f} … {facts['highest']:.2f}, mean {facts['mean']:.2f}, spread {facts['spread']:.2f}"
    )
    if "median votes" in facts:
        line += f"; votes {facts['fewest votes']:.0f} or more, median {facts['median votes']:.0f}"
    if each.photos is not None:
        line += "; photos: " + ", ".join(f"{number:,} {what}" for what, number in each.photos.items())
    console.print(line + "\n", style="dim", soft_wrap=True)


def _print_overlap(overlap: Overlap, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    for how, shared in (("id", overlap.by_id), ("content", overlap.by_content)):
        if not shared:
            continue
        rows = list(dict.fromkeys(first for first, _ in shared))
        columns = list(dict.fromkeys(second for _, second in shared))
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(f"shared by {how}: {escape(overlap.first)} ↓  {escape(overlap.second)} →")
        for column in columns:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(row, *(f"{shared[row, column]:,}" for column in columns))
        console.print(table)
        console.print()
