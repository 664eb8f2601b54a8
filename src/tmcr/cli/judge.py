"""`tmcr judge`: the full examination of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, Model, Offline


def judge(
    data: Annotated[str, typer.Option(help="Data SPEC, e.g. oasis@FOLDER or csv:ratings.csv.")],
    out: Annotated[Path, typer.Option(help="Folder for judge.json and judge.md.")],
    model: Model = "starter",
    part: Annotated[str, typer.Option(help="Which part of the data: test, val or train.")] = "test",
    captions: Annotated[
        Path | None, typer.Option(help="CSV with the columns file and captions (joined by ' | ') to test tags with.")
    ] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Folder for contact sheets. They show the photos: mind their terms.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap and of the random encoder.")] = 0,
    device: Device = "auto",
    offline: Offline = False,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Examine on photos that the model has learnt from, and say so.")
    ] = False,
) -> None:
    """Examine a model: accuracy, order under damage, spread, tags, cost, all with 95 % intervals.

    A model that has learnt from photos of the part is refused: the result would mean nothing.

    Example:

        tmcr judge --data csv:ratings.csv --model runs/mine/model --out runs/judged --sheets runs/judged/sheets
    """
    import json

    from tmcr.assessor import load
    from tmcr.datasets import load_manifest
    from tmcr.destinations import check_folder
    from tmcr.experiments.judge import judge as examine
    from tmcr.experiments.sheets import write_sheets
    from tmcr.report.terminal import make_console

    check_folder(out)
    if sheets is not None:
        check_folder(sheets)
    manifest = load_manifest(data)
    assessor = load(model, device=device, offline=offline)
    console = make_console()
    verdicts = examine(
        assessor,
        manifest,
        part=part,
        captions=captions,
        seed=seed,
        allow_leakage=allow_leakage,
        say=lambda stage: console.print(stage, highlight=False),
    )
    (out / "judge.json").write_text(json.dumps(verdicts.to_dict(), indent=2), encoding="utf-8")
    (out / "judge.md").write_text(verdicts.to_markdown(), encoding="utf-8")
    if sheets is not None:
        write_sheets(assessor, manifest, part, sheets)
    print(verdicts.to_markdown())
