"""`tmcr evaluate`: a model against ratings it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, Model, Offline


def evaluate(
    data: Annotated[str, typer.Option(help="Data SPEC, e.g. oasis@FOLDER or csv:ratings.csv.")],
    model: Model = "starter",
    part: Annotated[str, typer.Option(help="Which part of the data: test, val or train.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """All metrics of a model on rated photos, with 95 % confidence intervals.

    Example:

        tmcr evaluate --model runs/mine/model --data csv:ratings.csv
    """
    from tmcr.assessor import load
    from tmcr.datasets import load_manifest
    from tmcr.evaluation import evaluate_assessor
    from tmcr.report.terminal import make_console, metrics_table

    manifest = load_manifest(data)
    report = evaluate_assessor(load(model, device=device, offline=offline), manifest, part)
    console = make_console()
    console.print(f"{manifest.description}; part {part}", highlight=False)
    metrics_table([(part, report)], console)
    if out is not None:
        import json

        out.write_text(json.dumps(report.to_dict(), indent=2), encoding="utf-8")
