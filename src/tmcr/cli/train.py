"""`tmcr train`: rated photos in, a model folder and its honest evaluation out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, resumable


def train(
    data: Annotated[str, typer.Option(help="Data SPEC, e.g. oasis@FOLDER or csv:ratings.csv.")],
    out: Annotated[Path, typer.Option(help="Run folder; a run that was stopped is taken up again.")],
    preset: Annotated[str, typer.Option(help="paper, official or small.")] = "small",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: --set rank.epochs=10 (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Device = "auto",
    tags: Annotated[Path | None, typer.Option(help="Folder with semantic.txt and attribute.txt.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder that 'tmcr score --features' filled: its photos are not encoded again."),
    ] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Train although test photos are in the training part.")
    ] = False,
) -> None:
    """Train a model: match → cluster → rank → fit → evaluate. Every stage resumes after a kill.

    Examples:

        tmcr train --data csv:ratings.csv --out runs/mine

        tmcr train --data oasis@data/oasis --preset small --set fit.mode=lp --out runs/lp

        torchrun --nproc-per-node 2 -m tmcr train --data csv:ratings.csv --preset paper --out runs/two-gpus
    """
    from tmcr.destinations import check_run_folder, left_if_used
    from tmcr.report.figures import training_curves
    from tmcr.report.terminal import StageProgress, make_console, metrics_table
    from tmcr.training.config import parse_setting
    from tmcr.training.config import preset as preset_called
    from tmcr.training.pipeline import Run
    from tmcr.training.processes import joined
    from tmcr.training.train import train as run_training

    overrides = dict(parse_setting(text) for text in settings or [])
    told = {"data": data, "seed": seed, "device": device, "tags": tags, "features": features}
    config = preset_called(preset).with_overrides(told | {"allow_leakage": allow_leakage} | overrides)
    console = make_console()
    with (
        joined() as processes,
        StageProgress(console) if processes.first else nullcontext() as progress,
        left_if_used(out),
    ):
        if processes.first:  # the others would find what the first has begun to write
            check_run_folder(out)
        run = Run(config, out, progress=progress, processes=processes)
        if processes.first:
            many = f", {processes.count} processes" if processes.count > 1 else ""
            console.print(f"{run.everything.description} on {run.hardware}{many}", highlight=False)
        with resumable(out):
            model, report = run_training(run)
    if not processes.first:
        return
    if (out / "metrics.jsonl").exists():
        training_curves(out / "metrics.jsonl", out / "curves.png")
    if report is not None:
        metrics_table([("test", report)], console)
    console.print(f"model: {model}", highlight=False)
