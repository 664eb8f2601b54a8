"""The starter model from random initialisation to the folder that ships, in one command.

    python recipes/starter/make.py --data ../shared/data --out runs/starter [--install]

DATA holds `photos` (tar shards), `oasis` and `weights` (the teachers). Killed and started again, it goes on.
No OASIS photo is shown to the encoders; the OASIS test themes are in no stage but the last, which measures.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from card import starter_card
from confidence import calibrated
from encoder import PREPROCESSING, build_encoder
from photos import Photos, build_photos, read_photo
from PIL import Image
from quality import build_quality_encoder
from student import distil

from tmcr.assessor import Assessor, load
from tmcr.datasets import load_manifest
from tmcr.experiments.judge import judge
from tmcr.modelfolder import STARTER, save_model
from tmcr.training.config import TrainConfig, preset
from tmcr.training.naming import kind_names
from tmcr.training.pipeline import Run
from tmcr.training.train import train

PAIR_PHOTOS, PAIR_SIDE = 400, 400
SETTINGS: dict[str, object] = {
    "encoders.storage": "float16",
    "encoders.mirrored": True,
    "encoders.image_crop_from": 1.0,  # both encoders see the whole frame, so that it is prepared once for both
    "cluster.k": 8,
    "rank.epochs": 2,
    "rank.learning_rate": 1e-5,  # a few hundred photos are soon overlearnt
    "fit.mode": "lp",
    "fit.hidden": 32,
    "fit.heads": 4,  # heads of one recipe differ by as much as most settings do
    "fit.epochs": 10,
    "fit.pair_epochs": 20,
    "fit.pair_weight": 0.25,
    "fit.pair_margin": 0.3,
    "fit.pair_batch": 96,
    "fit.spread": 1.0,
}


def training_config(data: Path, out: Path, seed: int) -> TrainConfig:
    """What the pipeline is told."""
    paths = {
        "data": f"oasis@{data / 'oasis'}",
        "seed": seed,
        "encoders.image_text": str(out / "encoder"),
        "encoders.image": str(out / "quality"),
        "fit.pair_photos": str(out / "pairs"),
        "cache": str(out / "cache"),
    }
    return preset("small").with_overrides(paths | SETTINGS)


def write_pair_photos(data: Path, photos: Photos, out: Path, seed: int) -> None:
    """Some of the encoder's photos as files, enlarged so that damage comes out as fine as on rated photos."""
    if (out / "done").exists():
        return
    out.mkdir(exist_ok=True)
    for row in np.random.default_rng([seed, 2]).choice(photos.rows("train"), PAIR_PHOTOS, replace=False):
        photo = read_photo(data / "photos", photos.shards[row], photos.names[row])
        scale = PAIR_SIDE / max(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size, Image.Resampling.BICUBIC).save(out / f"{row:05d}.jpg", quality=95)
    (out / "done").touch()


def write_captioned(data: Path, photos: Photos, role: str, folder: Path) -> Path:
    """Captioned photos of one role as files with a table; returns the table."""
    table = folder / "captions.csv"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in photos.rows(role):
            name = f"{row:05d}.jpg"
            read_photo(data / "photos", photos.shards[row], photos.names[row]).save(folder / name, quality=95)
            rows.append((name, " | ".join(photos.captions[row])))
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "captions"), *rows])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000, help="distillation steps of 128 crops")
    parser.add_argument("--text-steps", type=int, default=4000)
    parser.add_argument("--quality-steps", type=int, default=1600, help="steps of 36 photos and their damaged copies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="replace the model in the package")
    options = parser.parse_args()
    data, out, seed = options.data, options.out, options.seed
    (out / "work").mkdir(parents=True, exist_ok=True)

    measured = build_encoder(data, out / "encoder", steps=options.steps, text_steps=options.text_steps, seed=seed)
    photos = build_photos(data, out / "work")
    student = distil(data, out / "work", steps=options.steps, seed=seed)
    measured |= build_quality_encoder(
        data, out / "quality", student, photos, PREPROCESSING, steps=options.quality_steps, seed=seed
    )
    write_pair_photos(data, photos, out / "pairs", seed)
    captions = {role: write_captioned(data, photos, role, out / "captions" / role) for role in ("calibrate", "test")}

    config = training_config(data, out, seed)
    run = Run(config, out / "run")
    trained, _ = train(run, name="starter")
    assessor = load(trained, device="cpu", precision="fp32")
    told = [photos.captions[row] for row in photos.rows("train") if photos.captions[row]]
    rated = [run.manifest.paths[row] for row in run.part("train")]
    confidence = calibrated(assessor, captions["calibrate"], told, rated)
    kinds, labels = run.clusters
    similarities = run.matched.semantic(run.part("train")).numpy()
    assessor.model.clusters = replace(kinds, tags=kind_names(assessor.model, similarities, labels))
    model = out / "model"
    save_model(
        assessor.model, model, card="", image_text_folder=trained / "image_text", storage=config.encoders.storage
    )
    assessor: Assessor = load(model, device="cpu", precision="fp32")  # as it ships, rounded to half precision
    verdicts = judge(assessor, load_manifest(config.data), captions=captions["test"], seed=seed, say=print)
    (out / "judge.json").write_text(json.dumps(verdicts.to_dict(), indent=2) + "\n")
    (out / "judge.md").write_text(verdicts.to_markdown())
    (model / "README.md").write_text(starter_card(assessor.model, measured, confidence, verdicts))
    if options.install:
        shutil.rmtree(STARTER, ignore_errors=True)
        shutil.copytree(model, STARTER)
    print(verdicts.to_markdown())


if __name__ == "__main__":
    main()
