"""A small rated photo set made on the spot: bright, colourful pictures are liked, dark grey ones are not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = ("train", "train", "train", "val", "test")


def write_rated_photos(folder: Path, photos: int = 40, seed: int = 0) -> Path:
    """Photos, themes of two photos each and votes on 1..5 in `folder`/ratings.csv; returns that file."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ratings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "theme", "split", *(f"votes_{value}" for value in range(1, 6))])
        for number in range(photos):
            quality = rng.uniform(0.1, 1.0)
            name = f"photo {number:02d}.png"
            picture(quality, rng).save(folder / name)
            votes = rng.multinomial(40, rating_shares(quality))
            theme = number // 2
            table.writerow([name, f"theme {theme}", SPLITS[theme % len(SPLITS)], *votes])
    return folder / "ratings.csv"


def picture(quality: float, rng: np.random.Generator) -> Image.Image:
    """A gradient of 96 × 64 pixels with some noise, the brighter and more colourful the better."""
    ramp = np.linspace(0.3, 1, 96)[None, :, None] * np.ones((64, 1, 3))
    colour = np.array([1.0, 1 - 0.7 * quality * rng.random(), 1 - 0.7 * quality])
    pixels = ramp * colour * quality + rng.normal(0, 0.03, (64, 96, 3))
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def rating_shares(quality: float) -> np.ndarray:
    values = np.arange(1, 6)
    shares = np.exp(-((values - (1 + 4 * quality)) ** 2) / 2)
    return shares / shares.sum()
