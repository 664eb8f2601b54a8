"""`tmcr demo`: real photos and damaged copies of them, scored offline by the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Model


def demo(
    photos: Annotated[list[str] | None, typer.Argument(help="Your own photos instead.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the damaged copies, results and gallery.")] = Path("demo-out"),
    model: Model = "starter",
) -> None:
    """Score two sample photos and damaged copies of them; write a ranking and a gallery.

    Example:

        tmcr demo --out demo-out
    """
    from tmcr.assessor import load
    from tmcr.cli.score import assess_and_report
    from tmcr.damage import write_demo_photos
    from tmcr.destinations import check_folder
    from tmcr.errors import ConfigError
    from tmcr.images import find_photos

    found = list(find_photos(photos)) if photos else []
    if photos and not found:
        raise ConfigError(f"no photo found in {', '.join(photos)}; give files, folders or globs")
    check_folder(out)
    paths = found or write_demo_photos(out / "photos")
    if assess_and_report(load(model), paths, out=out / "results.csv", gallery=out / "gallery.html"):
        raise typer.Exit(2)
