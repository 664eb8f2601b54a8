"""`tmcr import`: the checkpoint of the paper's authors becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Device, Offline

MOST_REFERENCE = 5000  # photos; more would sharpen neither mean nor quantiles
SETS = ("ava:", "aadb@", "para@", "tad66k:", "eva@", "oasis@", "csv:")


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' state dict, TMCR_AVA.pt.")],
    semantic_tags: Annotated[Path, typer.Option(help="Their semantic tags, one a line, in their order.")],
    attribute_tags: Annotated[Path, typer.Option(help="Their attribute tags, likewise.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    image_text: Annotated[
        str, typer.Option(help="CLIP ViT-L/14@336px: a folder in transformers' format or a Hub id.")
    ] = "clip-l14-336",
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="Photos (files, folders, globs) or a data SPEC to compare with (repeatable): they give kind and "
            "percentile, and explanations start from their mean. Without them explanations start from the mean "
            "training photo that the checkpoint's statistics imply."
        ),
    ] = None,
    copy_encoder: Annotated[
        bool, typer.Option("--copy-encoder", help="Copy the image–text encoder into the model folder.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "TMCR (authors' weights)",
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Turn the checkpoint that the paper's authors hand out into a model folder; nothing pickled in it is run.

    Examples:

        tmcr import TMCR_AVA.pt --semantic-tags semantic.txt --attribute-tags attribute.txt --out models/tmcr-ava

        tmcr import TMCR_AVA.pt --semantic-tags s.txt --attribute-tags a.txt --reference ~/Pictures --out models/mine
    """
    from tmcr.destinations import check_model_folder
    from tmcr.encoders import load_image_text_encoder, resolve_source
    from tmcr.errors import ConfigError
    from tmcr.hardware import pick_hardware
    from tmcr.modelfolder import save_model
    from tmcr.official.importing import MISFIT_LIMIT, import_checkpoint, official_card
    from tmcr.report.terminal import make_console

    check_model_folder(out)
    for given in (checkpoint, semantic_tags, attribute_tags):  # before gigabytes are fetched for nothing
        if not given.is_file():
            raise ConfigError(f"{given}: no such file")
    photos = _reference_photos(reference or [])
    encoder = load_image_text_encoder(image_text, offline=offline)
    imported = import_checkpoint(
        checkpoint, semantic_tags, attribute_tags, encoder, name=name, reference=photos, hardware=pick_hardware(device)
    )
    model = imported.model
    source = resolve_source(image_text, offline=offline) if copy_encoder else None
    save_model(model, out, card=official_card(imported, checkpoint.name), image_text_folder=source)
    console = make_console()
    console.print(
        f"model: {out}, {len(model.libraries.semantic):,} semantic and {len(model.libraries.attribute):,} attribute "
        "tags\n"
        f"explanations compare with {imported.reference}\n"
        f"tags: misfit to the checkpoint's own statistics {imported.misfit:.3f} standard deviations",
        highlight=False,
        soft_wrap=True,
    )
    if not imported.tags_fit:
        console.print(
            f"[yellow]warning[/] more than {MISFIT_LIMIT}: these tags, their order or the image–text encoder are "
            "probably not the ones this checkpoint was trained with, and scores are then worth nothing",
            soft_wrap=True,
        )
    console.print("trained on ava:tanet: never test it on ava:official, nor on eva", style="dim")


def _reference_photos(names: list[str]) -> list[Path]:
    """Photos that are named by patterns or by SPECs (their training part, else all), at most `MOST_REFERENCE`."""
    import numpy as np

    from tmcr.datasets import load_manifest
    from tmcr.images import find_photos

    photos: list[Path] = []
    for each in names:
        if each.startswith(SETS):
            manifest = load_manifest(each)
            photos += manifest.part("train").paths if "train" in manifest.splits else manifest.paths
        else:
            photos += find_photos([Path(each).expanduser()])
    if len(photos) > MOST_REFERENCE:
        chosen = np.random.default_rng(0).choice(len(photos), MOST_REFERENCE, replace=False)
        photos = [photos[row] for row in np.sort(chosen)]
    return photos
