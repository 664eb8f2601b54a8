"""What two int8 classifiers (MobileNetV2 and V1, Apache-2.0, ImageNet) say about fixed crops of the photos.

The student sees many distorted versions of each crop; the teachers label each crop once, before training. Of the
first teacher two inner layers are kept as well, place by place: a target for every part of a photo teaches much
faster than one for all of it. Some crops are blended with a crop of another photo before the teachers see them:
photos are few, and what the teachers say of a mixture is one more place where the student can follow them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

PLAIN, MIXED = 6, 3  # crops of every photo: by themselves, and blended with a crop of another photo
CROPS = PLAIN + MIXED
LEAST_SHARE = 0.5  # of the first photo in a blend
CHUNK = 1024
CLASSES = 1001


@dataclass(frozen=True)
class Network:
    """A classifier: its file, the side of its input, its pooled feature with its width, its logits."""

    file: str
    side: int
    pooled: str
    width: int
    logits: str
    layers: tuple[str, ...] = ()  # inner layers (1, height, width, channels), by the beginning of their names


NETWORKS = (
    Network(
        "mobilenet_v2_1.0_224_quant.tflite",
        224,
        "MobilenetV2/Logits/AvgPool",
        1280,
        "MobilenetV2/Logits/Squeeze1",
        ("MobilenetV2/expanded_conv_12/add", "MobilenetV2/expanded_conv_16/project/add_fold"),
    ),
    Network(
        "mobilenet_v1_0.75_192_quant.tflite",
        192,
        "MobilenetV1/Logits/AvgPool_1a/AvgPool",
        768,
        "MobilenetV1/Logits/SpatialSqueeze1",
    ),
)
WIDTH = sum(network.width for network in NETWORKS)
MAPS = ((96, 8), (320, 4))  # channels and side to which the inner layers are reduced: those of the student's stages
MAPS_SIZE = sum(channels * side**2 for channels, side in MAPS)


@dataclass(frozen=True)
class Crops:
    """What the teachers are shown. `boxes`, `partner_boxes`: float32 (N, CROPS, 4) as left, top, right, bottom in 0..1;
    crop 0 is the whole photo. `partners`: (N, CROPS), the photo blended in. `shares`: float32 (N, CROPS), how much of
    the blend is the first photo: 1 where it is alone.
    """

    boxes: np.ndarray
    partners: np.ndarray
    partner_boxes: np.ndarray
    shares: np.ndarray

    @classmethod
    def drawn(cls, photos: int, trainable: np.ndarray, seed: int) -> Crops:
        """Only photos that may be trained on (a mask) are blended into others. Every crop has its own random numbers,
        so that labels stay good when more crops are asked for.
        """
        boxes, partner_boxes = np.empty((2, photos, CROPS, 4), np.float32)
        partners = np.tile(np.arange(photos)[:, None], (1, CROPS))
        shares = np.ones((photos, CROPS), np.float32)
        for crop in range(CROPS):
            rng = np.random.default_rng([seed, 3, crop])
            boxes[:, crop], partner_boxes[:, crop] = _random_boxes(photos, rng), _random_boxes(photos, rng)
            if crop >= PLAIN:
                partners[:, crop] = rng.choice(np.flatnonzero(trainable), photos)
                shares[:, crop] = rng.uniform(LEAST_SHARE, 1, photos)
        boxes[:, 0] = (0.0, 0.0, 1.0, 1.0)
        return cls(boxes, partners, partner_boxes, shares)

    def __getitem__(self, index: object) -> Crops:
        return Crops(*(each[index] for each in (self.boxes, self.partners, self.partner_boxes, self.shares)))


def _random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 4): crops of 25 to 100 % of the area at sides' ratios of 3:4 to 4:3."""
    area = rng.uniform(0.25, 1.0, count)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), count))
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    left = rng.uniform(0, 1, count) * (1 - width)
    top = rng.uniform(0, 1, count) * (1 - height)
    return np.stack([left, top, left + width, top + height], axis=-1)


@dataclass(frozen=True)
class TeacherOutputs:
    """`embeddings`: float16 (N, CROPS, WIDTH), of both networks. `logits`: float16 (N, CROPS, CLASSES), their mean.
    `maps`: uint8 (N, CROPS, MAPS_SIZE), the inner layers of MAPS one after the other, each (channels, side, side).
    """

    crops: Crops
    embeddings: np.ndarray
    logits: np.ndarray
    maps: np.ndarray


_WHOLE = (0.0, 0.0, 1.0, 1.0)


class Teacher:
    """One photo, crop or blend in; both networks' pooled features, their mean logits (dequantised) and the maps out."""

    def __init__(self, folder: Path) -> None:
        self.interpreters = []
        for network in NETWORKS:
            inner = bool(network.layers)  # else the runtime reuses their memory
            interpreter = Interpreter(
                str(folder / network.file), num_threads=1, experimental_preserve_all_tensors=inner
            )
            interpreter.allocate_tensors()
            details = [d for d in interpreter.get_tensor_details() if d["name"]]
            found = {d["name"]: (d["index"], *d["quantization"]) for d in details}
            layers = [
                next(d["index"] for d in details if d["name"].startswith(layer) and len(d["shape"]) == 4)
                for layer in network.layers
            ]
            entry = interpreter.get_input_details()[0]["index"]
            outputs = (found[network.pooled], found[network.logits])
            self.interpreters.append((network, interpreter, entry, outputs, layers))

    def __call__(
        self,
        pixels: np.ndarray,
        box: Sequence[float] = _WHOLE,
        blended: tuple[np.ndarray, Sequence[float], float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`blended`: another photo, a box in it, and the share of the first."""
        features, logits, maps = [], np.zeros(CLASSES, np.float32), []
        for network, interpreter, entry, outputs, layers in self.interpreters:
            seen = _cut(pixels, box, network.side)
            if blended is not None:
                other, its_box, share = blended
                seen = Image.blend(_cut(other, its_box, network.side), seen, share)
            interpreter.set_tensor(entry, np.asarray(seen)[None])
            interpreter.invoke()
            feature, answer = (
                (interpreter.get_tensor(index).reshape(-1).astype(np.float32) - zero) * scale
                for index, scale, zero in outputs
            )
            features.append(feature)
            logits += answer / len(NETWORKS)
            for index, (_, reduced) in zip(layers, MAPS, strict=bool(layers)):
                layer = torch.from_numpy(interpreter.get_tensor(index)).permute(0, 3, 1, 2).float()
                maps.append(adaptive_avg_pool2d(layer, reduced).round().byte().flatten().numpy())
        return np.concatenate(features), logits, np.concatenate(maps)


def _cut(pixels: np.ndarray, box: Sequence[float], side: int) -> Image.Image:
    height, width = pixels.shape[:2]
    edges = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=edges)


def _label_chunk(out: Path, weights: Path, crops: Crops, crop: int, start: int, path: Path) -> None:
    torch.set_num_threads(1)
    pixels = np.load(out / "photos.npy", mmap_mode="r")
    maps = np.load(out / "teacher" / "maps.npy", mmap_mode="r+")
    teacher = Teacher(weights)
    count = len(crops.shares)
    embeddings = np.empty((count, WIDTH), np.float16)
    logits = np.empty((count, CLASSES), np.float16)
    for row in range(count):
        photo, blended = np.array(pixels[start + row]), None
        if crops.shares[row] < 1:
            partner = np.array(pixels[crops.partners[row]])
            blended = (partner, crops.partner_boxes[row].tolist(), float(crops.shares[row]))
        answer = teacher(photo, crops.boxes[row].tolist(), blended)
        embeddings[row], logits[row], maps[start + row, crop] = answer
    maps.flush()
    partial = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(partial, embeddings=embeddings, logits=logits)
    partial.rename(path)


def label_photos(data: Path, out: Path, *, trainable: np.ndarray, seed: int, processes: int = 2) -> TeacherOutputs:
    """Label every crop of every photo of `out`/photos.npy; finished chunks are kept, so a kill loses little.

    `trainable`: a mask (N,) of the photos that may be trained on.
    """
    photos = len(trainable)
    crops = Crops.drawn(photos, trainable, seed)
    folder = out / "teacher"
    folder.mkdir(exist_ok=True)
    if not (folder / "maps.npy").exists():
        for stale in folder.glob("*.npz"):
            stale.unlink()
        shape = (photos, CROPS, MAPS_SIZE)
        np.lib.format.open_memmap(folder / "maps.npy", mode="w+", dtype=np.uint8, shape=shape)
    path_of = {
        (crop, start): folder / f"{crop}-{start:06d}.npz" for crop in range(CROPS) for start in range(0, photos, CHUNK)
    }
    with ProcessPoolExecutor(processes) as pool:
        waiting = [
            pool.submit(_label_chunk, out, data / "weights", crops[start : start + CHUNK, crop], crop, start, path)
            for (crop, start), path in path_of.items()
            if not path.exists()
        ]
        for job in waiting:
            job.result()
    embeddings = np.empty((photos, CROPS, WIDTH), np.float16)
    logits = np.empty((photos, CROPS, CLASSES), np.float16)
    for (crop, start), path in path_of.items():
        with np.load(path) as chunk:
            embeddings[start : start + CHUNK, crop] = chunk["embeddings"]
            logits[start : start + CHUNK, crop] = chunk["logits"]
    return TeacherOutputs(crops, embeddings, logits, np.load(folder / "maps.npy", mmap_mode="r"))
