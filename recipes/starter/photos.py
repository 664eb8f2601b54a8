"""The training photos, decoded once into one array on disk.

Every photo is squashed to SIDE x SIDE, as the finished encoder sees photos: the training loop then reads pixels from a
memory map, or from a GPU's memory, and never decodes. No photo of OASIS is among them, so that every rated photo is
new to the student.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from tmcr.hardware import processors
from tmcr.streaming import ordered_map

SIDE = 192
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


def _files(shards: Path, listed: list[dict[str, str]]) -> Iterator[bytes]:
    """The photos in the order of the table, which is that of the shards."""
    for shard, rows in groupby(listed, key=itemgetter("shard")):
        with tarfile.open(shards / shard) as archive:
            for row in rows:
                member = archive.extractfile(row["name"])
                if member is None:
                    raise FileNotFoundError(f"{row['name']} is listed but not in {shard}")
                yield member.read()


def _squashed(file: bytes) -> np.ndarray:
    return squash(Image.open(io.BytesIO(file)))


def build_photos(data: Path, out: Path) -> Photos:
    """Decode the tar shards; a second call reads what the first one wrote."""
    table, array = out / "photos.json", out / "photos.npy"
    if not table.exists():
        with (data / "photos" / "photos.csv").open(newline="") as handle:
            listed = list(csv.DictReader(handle))
        partial = array.with_suffix(".part")
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(listed), SIDE, SIDE, 3))
        rows: list[dict[str, object]] = []
        calibrating = 0
        decoded = ordered_map(_squashed, _files(data / "photos", listed), workers=processors(), ahead=256)
        for row, small in zip(listed, decoded, strict=True):
            pixels[len(rows)] = small
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
        partial.rename(array)
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
