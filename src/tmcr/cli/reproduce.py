"""`tmcr reproduce`: the paper's tables and figures on any rated data, with seeds, intervals and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, resumable


def reproduce(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(help="table1 … table5, ranking-lp, ranking-ft, figure5, figure6, figure7, or all.")
    ],
    data: Annotated[str, typer.Option(help="Data SPEC, e.g. oasis@FOLDER or csv:ratings.csv.")],
    preset: Annotated[str, typer.Option(help="paper, official or small.")] = "small",
    seeds: Annotated[str, typer.Option(help="How many seeds, or FROM-TO.")] = "5",
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over that many folds (default: the data's own test part).")
    ] = None,
    repeats: Annotated[str, typer.Option(help="How many assignments to folds, or FROM-TO.")] = "1",
    out: Annotated[Path, typer.Option(help="Folder for results; what is finished there is not run again.")] = Path(
        "runs/reproduce"
    ),
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: --set rank.epochs=10 (repeatable).")
    ] = None,
    systems: Annotated[
        list[str] | None, typer.Option("--system", help="Only this system instead of the table's rows (repeatable).")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="This system too; a peer is pyiqa:NAME or MODULE:FUNCTION (repeatable)."),
    ] = None,
    edges: Annotated[str | None, typer.Option(help="Four scores between few, med, many, med and few.")] = None,
    many: Annotated[float, typer.Option(help="Without edges: 'many' from this share of the fullest bin.")] = 0.75,
    few: Annotated[float, typer.Option(help="Without edges: 'few' below this share of the fullest bin.")] = 0.1,
    balanced: Annotated[Path | None, typer.Option(help="CSV whose first column lists the balanced test set.")] = None,
    frequencies: Annotated[
        list[int] | None, typer.Option("--frequency", help="Sampling frequency of figure 6 (repeatable).")
    ] = None,
    cluster: Annotated[int | None, typer.Option(help="Kind of photos in figure 7 (default: the most varied).")] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Show the three photos of figure 7.")] = False,
    device: Device = "auto",
) -> None:
    """Run the experiment behind a table or figure; the paper's own numbers stand in a block of their own.

    Examples:

        tmcr reproduce table4 --data oasis@data/oasis --out runs/oasis

        tmcr reproduce all --data ava:tanet@data/ava --preset paper --seeds 1 --out runs/ava

        tmcr reproduce table1 --data csv:ratings.csv --folds 5 --repeats 3 --also pyiqa:topiq_iaa
    """
    import sys

    from tmcr.destinations import check_folder
    from tmcr.experiments.bench import Bench
    from tmcr.experiments.outcome import RegionRule, balanced_list, region_edges
    from tmcr.experiments.plan import Plan, number_range
    from tmcr.experiments.reproduce import Wishes, check_wishes
    from tmcr.experiments.reproduce import reproduce as run_experiments
    from tmcr.report.reproduction import write_reproduction
    from tmcr.report.terminal import StageProgress, make_console
    from tmcr.training.config import parse_setting
    from tmcr.training.config import preset as preset_called

    check_folder(out)
    overrides = dict(parse_setting(text) for text in settings or [])
    config = preset_called(preset).with_overrides({"data": data, "device": device} | overrides)
    plan = Plan(number_range(seeds, "seeds"), folds, number_range(repeats, "repeats"))
    rule = RegionRule(
        edges=region_edges(edges) if edges else None,
        many=many,
        few=few,
        balanced=balanced_list(balanced) if balanced else None,
    )
    wishes = Wishes(
        rule=rule,
        systems=tuple(systems or ()),
        also=tuple(also or ()),
        frequencies=tuple(frequencies) if frequencies else None,
        cluster=cluster,
        command=_as_typed(sys.argv),
    )
    check_wishes(what, wishes, device)
    console = make_console()
    with StageProgress(console) as progress, resumable(out):
        bench = Bench(config, out, image_text=context.obj, progress=progress)  # a recipe may bring an encoder
        for result in run_experiments(what, bench, plan, wishes):
            files = write_reproduction(result, out, thumbnails=thumbnails)
            console.print(f"{result.name}: {', '.join(str(file) for file in files)}", highlight=False)


def _as_typed(arguments: list[str]) -> str:
    """The command to reproduce a number with, be it `tmcr` or a recipe."""
    import shlex

    program = ["python", arguments[0]] if arguments[0].endswith(".py") else [Path(arguments[0]).name]
    return shlex.join([*program, *arguments[1:]])
