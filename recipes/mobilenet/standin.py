"""A `tmcr` command with MobileNetV2 in place of both encoders: converted on the first call, then handed in."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from convert import convert, save
from encoder import ClassNameEncoder, load_class_names

from tmcr.encoders import load_image_encoder
from tmcr.errors import TmcrError

TFLITE = "mobilenet_v2_1.0_224_quant.tflite"
SIDE = 224  # pixels, what MobileNetV2 was trained on


def run(command: Callable[..., None], about: str) -> None:
    """Run `command` with its own options and these: --weights FOLDER, --side PIXELS."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the .tflite file and class names")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels that the trained encoder sees; fewer is faster")
    parser.add_argument("--out", type=Path, required=True)
    options, rest = parser.parse_known_args()

    frozen = prepare(options.weights, options.out, SIDE)
    trained = prepare(options.weights, options.out, options.side)
    squashed = load_image_encoder(str(frozen)).preprocess.with_margin(1.0, squash=True)
    encoder = ClassNameEncoder(frozen, load_class_names(options.weights / "imagenet_classes.txt"), squashed)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    places = [f"encoders.image={trained}", f"encoders.image_text={frozen}"]
    # The user's own settings come last and have the last word.
    arguments = [*(part for place in places for part in ("--set", place)), "--out", str(options.out), *rest]
    try:
        app(arguments, obj=encoder)
    except TmcrError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def prepare(weights: Path, out: Path, side: int) -> Path:
    """The encoder's folder below `out`, for photos of `side` pixels."""
    folder = out / ("mobilenet-v2" if side == SIDE else f"mobilenet-v2-{side}")
    described = folder / "preprocessor_config.json"
    if not described.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save(convert(weights / TFLITE), folder)
        values = json.loads(described.read_text())
        values |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        described.write_text(json.dumps(values, indent=2))
    return folder
