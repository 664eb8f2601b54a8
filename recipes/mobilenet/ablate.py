"""The ablation with a MobileNetV2 classifier as encoder; takes the options of `tmcr ablate` that it needs.

python recipes/mobilenet/ablate.py --data oasis@DATA/oasis --weights DATA/weights --out runs/mobilenet
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convert import convert, save
from encoder import ClassNameEncoder, load_class_names

from tmcr.encoders import load_image_encoder
from tmcr.experiments.ablation import SYSTEMS, ablate
from tmcr.report.terminal import StageProgress, make_console, metrics_table
from tmcr.training.config import parse_setting, preset

TFLITE = "mobilenet_v2_1.0_224_quant.tflite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the .tflite file and class names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", action="append", choices=SYSTEMS)
    parser.add_argument("--set", action="append", default=[], metavar="section.name=value")
    options = parser.parse_args()

    folder = options.out / "mobilenet-v2"
    if not (folder / "preprocessor_config.json").exists():
        save(convert(options.weights / TFLITE), folder)
    squashed = load_image_encoder(str(folder)).preprocess.with_margin(1.0, squash=True)
    image_text = ClassNameEncoder(folder, load_class_names(options.weights / "imagenet_classes.txt"), squashed)
    config = preset("small").with_overrides(
        {"data": options.data, "seed": options.seed, "encoders.image": str(folder), "encoders.image_text": str(folder)}
        | dict(parse_setting(text) for text in options.set)
    )
    console = make_console()
    with StageProgress(console) as progress:
        result = ablate(
            config,
            options.out,
            folds=options.folds,
            systems=options.system or SYSTEMS,
            image_text=image_text,
            progress=progress,
        )
    name = "ablation" if options.folds is None else f"ablation-{options.folds}-fold"
    (options.out / f"{name}.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
    (options.out / f"{name}.md").write_text(result.to_markdown(), encoding="utf-8")
    metrics_table(list(result.reports.items()), console)
    print(result.description)


if __name__ == "__main__":
    main()
