"""`tmcr score`: photos in, a ranking out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tmcr.cli.options import BatchSize, Device, Gallery, Model, Offline, Precision, Workers
from tmcr.errors import ConfigError

if TYPE_CHECKING:
    from tmcr.assessment import Assessment
    from tmcr.assessor import Assessor

KEPT_FOR_TABLE = 2000  # beyond this many photos the ranking on screen would help nobody


def score(
    photos: Annotated[list[str], typer.Argument(help="Files, folders or globs.")],
    model: Model = "starter",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write results to .parquet, .csv or .jsonl.")] = None,
    gallery: Gallery = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    offline: Offline = False,
    top: Annotated[int, typer.Option(min=1, help="Rows of the ranking to print.")] = 40,
) -> None:
    """Score photos and rank them.

    Examples:

        tmcr score holiday/ --gallery holiday.html

        tmcr score 'shoot/*.jpg' best.png --out scores.csv
    """
    from tmcr.assessor import load
    from tmcr.images import find_photos
    from tmcr.results import check_destination

    if out is not None:
        check_destination(out)
    paths = list(find_photos(photos))
    if not paths:
        raise ConfigError(f"no photo found in {', '.join(photos)}; give files, folders or globs")
    assessor = load(model, device=device, precision=precision, workers=workers, offline=offline)
    failed = assess_and_report(assessor, paths, out=out, gallery=gallery, batch_size=batch_size, top=top)
    if failed == len(paths):
        raise typer.Exit(1)


def assess_and_report(
    assessor: Assessor,
    paths: list[Path],
    *,
    out: Path | None,
    gallery: Path | None,
    batch_size: int = 32,
    top: int = 40,
) -> int:
    """Score `paths`, write what is asked for, print the ranking; returns how many photos could not be read."""
    import contextlib

    from tmcr.report.gallery import write_gallery
    from tmcr.report.terminal import make_console, progress, ranking_table
    from tmcr.results import open_writer

    console = make_console()
    console.print(f"{assessor.name} on {assessor.hardware}", style="dim", highlight=False)
    kept: list[Assessment] = []
    failed = 0

    def assessed() -> Iterator[Assessment]:
        nonlocal failed
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(open_writer(out)) if out else None
            bar = stack.enter_context(progress("scoring", len(paths)))
            for verdict in assessor.assess_many(paths, batch_size=batch_size):
                if writer:
                    writer.write(verdict)
                failed += not verdict.ok
                if len(kept) < KEPT_FOR_TABLE:
                    kept.append(verdict)
                bar.advance()
                yield verdict

    if gallery is not None:
        write_gallery(assessed(), gallery)
    else:
        for _ in assessed():
            pass
    ranking_table(kept, console, limit=top)
    for name, path in (("results", out), ("gallery", gallery)):
        if path is not None:
            console.print(f"{name}: {path}", highlight=False)
    return failed
