"""`tmcr score`: photos in, a ranking out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tmcr.cli.options import Backend, Device, Exported, Gallery, Model, Offline, OwnTags, Precision, Workers
from tmcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from tmcr.assessor import Assessor
    from tmcr.images import ImageLimits
    from tmcr.scoring.ray_engine import RayOptions
    from tmcr.scoring.run import Plan, Run

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
    features: Annotated[
        Path | None, typer.Option(help="Folder for the photos' features; those that are there are not computed again.")
    ] = None,
    features_storage: Annotated[
        str, typer.Option(help="How a new --features folder keeps numbers: float16 or float32.")
    ] = "float16",
    top: Annotated[int, typer.Option(min=1, help="Rows of the ranking to print.")] = 40,
    engine: Annotated[
        str, typer.Option(help="local, or ray: on many machines, each of which must see the photos and the model.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            envvar="RAY_ADDRESS",
            help="HOST:PORT of a Ray cluster, auto, or ray://HOST:PORT (default: this machine alone).",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option("--ray-workers", min=1, help="Ray processes, each with a model (default: what fits).")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0, max=1, help="Share of a GPU for each of them (default: 1, if any)."),
    ] = None,
) -> None:
    """Score photos and rank them. A run that was cut off goes on with the same command.

    Examples:

        tmcr score holiday/ --gallery holiday.html

        tmcr score 'shoot/*.jpg' best.png --out scores.csv

        tmcr score 's3://bucket/shards/*.tar' --out results

        tmcr score 's3://bucket/shards/*.tar' --out results --engine ray --ray-address auto
    """
    from functools import partial

    from tmcr.assessor import load
    from tmcr.destinations import check_file
    from tmcr.scoring.run import Plan, check_out
    from tmcr.tags.library import read_tags

    if engine not in ("local", "ray"):
        raise ConfigError(f"--engine {engine}: choose local or ray")
    if engine == "local" and (ray_workers is not None or gpus_per_worker is not None):
        raise ConfigError("--ray-workers and --gpus-per-worker say how to use a cluster: add --engine ray")
    if out is not None:
        check_out(out, photos)
    if gallery is not None:
        check_file(gallery, (".html", ".htm"), "a gallery")
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
        features=features,
        features_storage=features_storage,
        settings={"tags": list(own_tags), "backend": backend, "exported": str(exported) if exported else None},
    )
    load_model = partial(
        load,
        model,
        device=device,
        precision=precision,
        offline=offline,
        own_tags=own_tags,
        backend=backend,
        exported=exported,
    )
    if engine == "ray":
        from tmcr.scoring.ray_engine import RayOptions

        options = RayOptions(ray_address, ray_workers, gpus_per_worker, workers)
        none_readable = _run_on_ray(load_model, plan, options, gallery=gallery, top=top)
    else:
        none_readable = run_and_report(load_model(workers=workers), plan, gallery=gallery, top=top)
    if none_readable:
        raise typer.Exit(2)


def assess_and_report(assessor: Assessor, paths: list[Path], *, out: Path, gallery: Path) -> bool:
    """Score `paths` from the beginning, write results and gallery, print the ranking; returns as `run_and_report`."""
    from tmcr.scoring.run import Plan

    return run_and_report(assessor, Plan([str(path) for path in paths], out, restart=True), gallery=gallery)


def run_and_report(assessor: Assessor, plan: Plan, *, gallery: Path | None, top: int = 40) -> bool:
    """Carry out a plan, write the gallery, print the ranking; returns whether no photo at all could be read."""
    from tmcr.report.terminal import make_console
    from tmcr.scoring.run import choose_batch_size, open_run

    console = make_console()
    note = _notes_to(console)
    note(f"{assessor.name} on {assessor.hardware}, batches of {plan.batch_size or choose_batch_size(assessor)}")
    with open_run(assessor, plan, note=note) as run:
        return _complete_and_report(run, plan, assessor.limits, console, gallery=gallery, top=top)


def _run_on_ray(
    load_model: Callable[..., Assessor], plan: Plan, options: RayOptions, *, gallery: Path | None, top: int
) -> bool:
    """The same on a Ray cluster."""
    from tmcr.report.terminal import make_console
    from tmcr.scoring.ray_engine import open_crew, open_ray_run

    console = make_console()
    note = _notes_to(console)
    with open_crew(load_model, plan, options, note=note) as crew:
        note(f"{crew.name} on {crew}")
        with open_ray_run(crew, plan, note=note) as run:
            return _complete_and_report(run, plan, crew.limits, console, gallery=gallery, top=top)


def _notes_to(console: Console) -> Callable[[str], None]:
    from rich.markup import escape

    return lambda line: console.print(escape(printable(line)), style="dim")


def _complete_and_report(
    run: Run, plan: Plan, limits: ImageLimits, console: Console, *, gallery: Path | None, top: int
) -> bool:
    from tmcr.report.gallery import THUMBNAIL, write_gallery
    from tmcr.report.terminal import progress, ranking_table
    from tmcr.results import best_results
    from tmcr.scoring.pictures import Pictures

    note = _notes_to(console)
    with progress("scoring", run.total) as bar:
        bar.advance(run.earlier)
        run.complete(bar.advance)
    shown = best_results(run.folder, best=MOST_SHOWN, failed=MOST_SHOWN)
    ranking_table(shown, console, limit=top)
    if run.count > len(shown):
        note(f"these are the best of {run.count:,} photos; {run.errors:,} could not be read")
    if plan.out is not None:
        note(f"results: {plan.out}")
    if plan.features is not None:
        note(f"features: {plan.features}; 'tmcr rescore' scores them again with another model")
    if gallery is not None:
        pictures = Pictures(run, shown, limits=limits, side=THUMBNAIL)
        count = write_gallery(pictures, gallery, open_photo=pictures.open)
        note(f"gallery: {gallery}" + (f" (the best {count:,} photos)" if count < run.count else ""))
    return run.errors == run.count
