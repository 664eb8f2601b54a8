"""The training photos, decoded once into one array on disk.

Every photo is squashed to SIDE x SIDE, as the finished encoder will see photos (at 128): the training loop
then reads pixels from a memory map and never decodes.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 144


@dataclass(frozen=True)
class Photos:
    """`pixels`: uint8 (N, SIDE, SIDE, 3). `trainable`: bool (N,), False for the photos kept for the caption test."""

    pixels: np.ndarray
    names: list[str]
    sources: list[str]
    classes: list[str]
    captions: list[list[str]]
    trainable: np.ndarray


def oasis_rows(data: Path, split: str) -> list[dict[str, str]]:
    """Rows of OASIS's ratings.csv of one split; "test" is for measuring only and is never decoded for training."""
    with (data / "oasis" / "ratings.csv").open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if row["split"] == split]


def squash(image: Image.Image, side: int = SIDE) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def build_photos(data: Path, out: Path) -> Photos:
    """Decode the tar shards and the OASIS train photos; a second call reads what the first one wrote."""
    table, array = out / "photos.json", out / "photos.npy"
    if not table.exists():
        rows: list[dict[str, object]] = []
        with (data / "photos" / "photos.csv").open(newline="") as handle:
            listed = list(csv.DictReader(handle))
        oasis = oasis_rows(data, "train")
        pixels = np.lib.format.open_memmap(
            array, mode="w+", dtype=np.uint8, shape=(len(listed) + len(oasis), SIDE, SIDE, 3)
        )
        shards: dict[str, tarfile.TarFile] = {}
        with ExitStack() as opened:
            for row in listed:
                shard = row["shard"]
                if shard not in shards:
                    shards[shard] = opened.enter_context(tarfile.open(data / "photos" / shard))
                member = shards[shard].extractfile(row["name"])
                if member is None:
                    raise FileNotFoundError(f"{row['name']} is listed but not in {shard}")
                pixels[len(rows)] = squash(Image.open(io.BytesIO(member.read())))
                captions = [caption.strip() for caption in row["captions"].split(" | ") if caption.strip()]
                held_out = row["source"] == "coco_mini" and bool(captions)
                rows.append(
                    {
                        "name": row["name"],
                        "source": row["source"],
                        "class": row["class"],
                        "captions": captions,
                        "trainable": not held_out,
                    }
                )
        for row in oasis:
            pixels[len(rows)] = squash(Image.open(data / "oasis" / "images" / row["file"]))
            rows.append({"name": row["file"], "source": "oasis", "class": "", "captions": [], "trainable": True})
        pixels.flush()
        table.write_text(json.dumps(rows))
    rows = json.loads(table.read_text())
    return Photos(
        pixels=np.load(array, mmap_mode="r"),
        names=[str(row["name"]) for row in rows],
        sources=[str(row["source"]) for row in rows],
        classes=[str(row["class"]) for row in rows],
        captions=[row["captions"] for row in rows],
        trainable=np.array([row["trainable"] for row in rows], dtype=bool),
    )
