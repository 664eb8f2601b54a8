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
    from tmcr.errors import ConfigError
    from tmcr.images import find_photos

    out.mkdir(parents=True, exist_ok=True)
    paths = list(find_photos(photos)) if photos else write_demo_photos(out / "photos")
    if not paths:
        raise ConfigError(f"no photo found in {', '.join(photos or [])}; give files, folders or globs")
    assess_and_report(load(model), paths, out=out / "results.csv", gallery=out / "gallery.html")
