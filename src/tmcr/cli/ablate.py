"""`tmcr ablate`: which part of the method earns its keep on one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, resumable


def ablate(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="Data SPEC, e.g. oasis@FOLDER or csv:ratings.csv.")],
    out: Annotated[Path, typer.Option(help="Folder for results; what is finished there is not run again.")],
    preset: Annotated[str, typer.Option(help="paper, official or small.")] = "small",
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over that many folds (default: the data's test part).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: --set rank.epochs=10 (repeatable).")
    ] = None,
    systems: Annotated[
        list[str] | None, typer.Option("--system", help="Only this system (repeatable), e.g. 'TM+CR FT'.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Device = "auto",
) -> None:
    """Compare the full model with its parts and with plain baselines, on the same photos.

    Examples:

        tmcr ablate --data csv:ratings.csv --out runs/ablation --folds 5

        tmcr ablate --data oasis@data/oasis --out runs/oasis --system 'TM+CR FT'
    """
    import json

    from tmcr.destinations import check_folder
    from tmcr.experiments.ablation import SYSTEMS
    from tmcr.experiments.ablation import ablate as run_ablation
    from tmcr.report.terminal import StageProgress, make_console, metrics_table
    from tmcr.training.config import parse_setting
    from tmcr.training.config import preset as preset_called

    check_folder(out)
    overrides = dict(parse_setting(text) for text in settings or [])
    config = preset_called(preset).with_overrides({"data": data, "seed": seed, "device": device} | overrides)
    console = make_console()
    with StageProgress(console) as progress, resumable(out):
        result = run_ablation(
            config,
            out,
            folds=folds,
            systems=systems or SYSTEMS,
            image_text=context.obj,  # a recipe may bring an encoder
            progress=progress,
        )
    name = "ablation" if folds is None else f"ablation-{folds}-fold"
    (out / f"{name}.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
    (out / f"{name}.md").write_text(result.to_markdown(), encoding="utf-8")
    metrics_table(list(result.reports.items()), console)
    console.print(f"{result.description}\ntable: {out / f'{name}.md'}", highlight=False)
