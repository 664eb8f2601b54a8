"""`tmcr rescore`: kept features in, scores out, without a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Model, Offline


def rescore(
    features: Annotated[Path, typer.Argument(help="Folder that 'tmcr score --features' filled.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Results: a .parquet, .csv or .jsonl file.")],
    model: Model = "starter",
    tags: Annotated[bool, typer.Option("--tags", help="Also name the best-fitting tags; takes longer.")] = False,
    offline: Offline = False,
) -> None:
    """Score photos again by their kept features, with any model of the same encoders: another head, other tags.

    Examples:

        tmcr score photos/ --model runs/one/model --features features --out first.parquet

        tmcr rescore features --model runs/other/model --out second.parquet
    """
    import time

    from rich.markup import escape

    from tmcr.assessor import model_folder
    from tmcr.errors import printable
    from tmcr.modelfolder import load_model
    from tmcr.report.terminal import make_console, progress
    from tmcr.scoring.feature_files import FeatureManifest
    from tmcr.scoring.rescore import rescore as score_again
    from tmcr.wording import counted

    total = FeatureManifest.load(features).rows
    trained = load_model(model_folder(model, offline=offline))
    began = time.perf_counter()
    with progress("scoring", total) as bar:
        count = score_again(features, trained, out, tags=tags, scored=bar.advance)
    seconds = time.perf_counter() - began
    line = f"{trained.name}: {counted(count, 'photo')} in {seconds:.1f} s; results: {out}"
    make_console().print(escape(printable(line)), style="dim")
