"""`tmcr score`: photos in, a ranking out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tmcr.cli.options import Backend, Device, Exported, Gallery, Model, Offline, OwnTags, Precision, Workers
from tmcr.errors import printable

if TYPE_CHECKING:
    from tmcr.assessor import Assessor
    from tmcr.scoring.run import Plan

MOST_SHOWN = 2000  # photos in the ranking and the gallery; beyond, the best ones


def score(
    photos: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, .tar or .parquet shards, URLs, @LIST (one name a line) or -."),
    ],
    model: Model = "starter",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Results: a .parquet, .csv or .jsonl file, or a folder of Parquet parts."),
    ] = None,
    gallery: Gallery = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos in one pass of the encoders (default: by the device).")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    offline: Offline = False,
    tags: OwnTags = None,
    backend: Backend = "torch",
    exported: Exported = None,
    column: Annotated[str | None, typer.Option(help="Parquet column that holds the photos.")] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="A slow photo holds up no other.")] = False,
    isolate: Annotated[bool, typer.Option("--isolate", help="A decoder that crashes costs one photo.")] = False,
    max_errors: Annotated[
        int | None, typer.Option(min=0, help="Stop once more photos than this cannot be read.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what an earlier run left.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Rows of the ranking to print.")] = 40,
) -> None:
    """Score photos and rank them. A run that was cut off goes on with the same command.

    Examples:

        tmcr score holiday/ --gallery holiday.html

        tmcr score 'shoot/*.jpg' best.png --out scores.csv

        tmcr score 's3://bucket/shards/*.tar' --out results
    """
    from tmcr.assessor import load
    from tmcr.scoring.run import Plan, check_out
    from tmcr.tags.library import read_tags

    if out is not None:
        check_out(out)
    own_tags = read_tags(tags) if tags is not None else ()
    plan = Plan(
        photos,
        out,
        column=column,
        batch_size=batch_size,
        ordered=not unordered,
        isolate=isolate,
        max_errors=max_errors,
        restart=restart,
        settings={"tags": list(own_tags), "backend": backend, "exported": str(exported) if exported else None},
    )
    assessor = load(
        model,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
        own_tags=own_tags,
        backend=backend,
        exported=exported,
    )
    if run_and_report(assessor, plan, gallery=gallery, top=top):
        raise typer.Exit(1)


def assess_and_report(assessor: Assessor, paths: list[Path], *, out: Path, gallery: Path) -> None:
    """Score `paths` from the beginning, write results and gallery, print the ranking."""
    from tmcr.scoring.run import Plan

    run_and_report(assessor, Plan([str(path) for path in paths], out, restart=True), gallery=gallery)


def run_and_report(assessor: Assessor, plan: Plan, *, gallery: Path | None, top: int = 40) -> bool:
    """Carry out a plan, write the gallery, print the ranking; returns whether no photo at all could be read."""
    from rich.markup import escape

    from tmcr.report.gallery import THUMBNAIL, write_gallery
    from tmcr.report.terminal import make_console, progress, ranking_table
    from tmcr.results import best_results
    from tmcr.scoring.pictures import Pictures
    from tmcr.scoring.run import choose_batch_size, open_run

    console = make_console()

    def note(line: str) -> None:
        console.print(escape(printable(line)), style="dim")

    note(f"{assessor.name} on {assessor.hardware}, batches of {plan.batch_size or choose_batch_size(assessor)}")
    with open_run(assessor, plan, note=note) as run:
        with progress("scoring", run.total) as bar:
            bar.advance(run.earlier)
            run.complete(bar.advance)
        shown = best_results(run.folder, best=MOST_SHOWN, failed=MOST_SHOWN)
        ranking_table(shown, console, limit=top)
        if run.count > len(shown):
            note(f"these are the best of {run.count:,} photos; {run.errors:,} could not be read")
        if plan.out is not None:
            note(f"results: {plan.out}")
        if gallery is not None:
            pictures = Pictures(run, shown, limits=assessor.limits, side=THUMBNAIL)
            count = write_gallery(pictures, gallery, open_photo=pictures.open)
            note(f"gallery: {gallery}" + (f" (the best {count:,} photos)" if count < run.count else ""))
        return run.errors == run.count
