"""`tmcr explain`: one photo, everything the model says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, Model, Offline, OwnTags


def explain(
    photo: Annotated[Path, typer.Argument(help="The photo.")],
    model: Model = "starter",
    device: Device = "auto",
    offline: Offline = False,
    tags: OwnTags = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Distribution, tags, what raised and lowered the score, and standing among similar photos.

    Examples:

        tmcr explain photo.jpg

        tmcr explain photo.jpg --tags my-tags.txt --json
    """
    from tmcr.assessor import load
    from tmcr.tags.library import read_tags

    own_tags = read_tags(tags) if tags else ()
    verdict = load(model, device=device, offline=offline, own_tags=own_tags).assess(photo)
    if as_json:
        import json

        typer.echo(json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False))
        return
    from tmcr.report.terminal import explain_panel, make_console

    make_console().print(explain_panel(verdict))
