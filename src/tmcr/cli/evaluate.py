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
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw predicted against true scores to this .png, .svg or .pdf.")
    ] = None,
    device: Device = "auto",
    offline: Offline = False,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Test although the model has learnt from some of the photos.")
    ] = False,
) -> None:
    """All metrics of a model on rated photos, with 95 % intervals, by rarity of the score and by kind of photo.

    Examples:

        tmcr evaluate --model runs/mine/model --data csv:ratings.csv

        tmcr evaluate --data csv:ratings.csv --out report.json --figure report.png
    """
    from tmcr.assessor import load
    from tmcr.datasets import load_manifest
    from tmcr.destinations import check_file
    from tmcr.errors import ConfigError
    from tmcr.evaluation import evaluate_assessor
    from tmcr.report.evaluation import draw_evaluation, print_evaluation
    from tmcr.report.terminal import make_console, progress

    if figure is not None:
        check_file(figure, (".png", ".svg", ".pdf"), "a figure")
    if out is not None:
        check_file(out, (".json",), "a report")
    manifest = load_manifest(data)
    assessor = load(model, device=device, offline=offline)
    with progress("scoring", manifest.splits.count(part)) as bar:
        evaluation = evaluate_assessor(assessor, manifest, part, allow_leakage=allow_leakage, watch=bar.advance)
    console = make_console()
    title = f"{assessor.name} on {manifest.description}; part {part}"
    console.print(title, highlight=False)
    print_evaluation(evaluation, part, console)
    try:
        if out is not None:
            import json

            out.write_text(json.dumps(evaluation.to_dict(), indent=2), encoding="utf-8")
        if figure is not None:
            draw_evaluation(evaluation, figure, title=title)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another place") from None
