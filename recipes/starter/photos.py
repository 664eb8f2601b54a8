"""The training photos, decoded once into one array on disk.

Every photo is squashed to SIDE x SIDE, as the finished encoder will see photos (at 128): the training loop
then reads pixels from a memory map and never decodes. No photo of OASIS is among them, so that every rated
photo is new to the encoder.
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
TEST_SOURCE = "coco_mini"  # its captioned photos test the tags
CALIBRATION_SOURCE, CALIBRATION_PHOTOS = "flickr8k", 200  # these decide from which confidence on a tag is shown


@dataclass(frozen=True)
class Photos:
    """`pixels`: uint8 (N, SIDE, SIDE, 3). `roles`: "train", "calibrate" or "test" of each photo."""

    pixels: np.ndarray
    names: list[str]
    shards: list[str]
    sources: list[str]
    classes: list[str]
    captions: list[list[str]]
    roles: np.ndarray

    @property
    def trainable(self) -> np.ndarray:
        return self.roles == "train"

    def rows(self, role: str) -> list[int]:
        return np.flatnonzero(self.roles == role).tolist()


def squash(image: Image.Image, side: int = SIDE) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def read_photo(shards: Path, shard: str, name: str) -> Image.Image:
    """One photo out of its tar shard, as it is there."""
    with tarfile.open(shards / shard) as archive:
        member = archive.extractfile(name)
        if member is None:
            raise FileNotFoundError(f"{name} is listed but not in {shard}")
        return Image.open(io.BytesIO(member.read())).convert("RGB")


def trainable_files(shards: Path, photos: Photos) -> list[bytes]:
    """The photos that may be trained on as they are in the shards; all of them are some 100 MB."""
    files = {}
    for shard in sorted(set(photos.shards)):
        with tarfile.open(shards / shard) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    files[shard, member.name] = file.read()
    return [files[photos.shards[row], photos.names[row]] for row in photos.rows("train")]


def build_photos(data: Path, out: Path) -> Photos:
    """Decode the tar shards; a second call reads what the first one wrote."""
    table, array = out / "photos.json", out / "photos.npy"
    if not table.exists():
        with (data / "photos" / "photos.csv").open(newline="") as handle:
            listed = list(csv.DictReader(handle))
        pixels = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(len(listed), SIDE, SIDE, 3))
        rows: list[dict[str, object]] = []
        shards: dict[str, tarfile.TarFile] = {}
        calibrating = 0
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
                role = "train"
                if captions and row["source"] == TEST_SOURCE:
                    role = "test"
                elif captions and row["source"] == CALIBRATION_SOURCE and calibrating < CALIBRATION_PHOTOS:
                    role = "calibrate"
                    calibrating += 1
                rows.append({key: row[key] for key in ("name", "shard", "source", "class")})
                rows[-1] |= {"captions": captions, "role": role}
        pixels.flush()
        table.write_text(json.dumps(rows))
    rows = json.loads(table.read_text())
    return Photos(
        pixels=np.load(array, mmap_mode="r"),
        names=[str(row["name"]) for row in rows],
        shards=[str(row["shard"]) for row in rows],
        sources=[str(row["source"]) for row in rows],
        classes=[str(row["class"]) for row in rows],
        captions=[row["captions"] for row in rows],
        roles=np.array([row["role"] for row in rows]),
    )
