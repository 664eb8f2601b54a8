"""What two int8 classifiers (MobileNetV2 and V1, Apache-2.0, ImageNet) say about fixed crops of the photos.

The student sees many distorted versions of each crop; the teachers label each crop once, before training. Of the
first teacher two inner layers are kept as well, place by place: a target for every part of a photo teaches much
faster than one for all of it.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

CROPS = 4
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
class TeacherOutputs:
    """`boxes`: float32 (N, CROPS, 4) as left, top, right, bottom in 0..1; crop 0 is the whole photo.
    `embeddings`: float16 (N, CROPS, WIDTH), both networks' features. `logits`: float16 (N, CROPS, CLASSES), their mean.
    `maps`: uint8 (N, CROPS, MAPS_SIZE), the inner layers of MAPS one after the other, each (channels, side, side).
    """

    boxes: np.ndarray
    embeddings: np.ndarray
    logits: np.ndarray
    maps: np.ndarray


def crop_boxes(photos: int, seed: int) -> np.ndarray:
    """The whole photo, then random crops of 25 to 100 % of its area at sides' ratios of 3:4 to 4:3."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(0.25, 1.0, (photos, CROPS))
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), (photos, CROPS)))
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    left = rng.uniform(0, 1, (photos, CROPS)) * (1 - width)
    top = rng.uniform(0, 1, (photos, CROPS)) * (1 - height)
    boxes = np.stack([left, top, left + width, top + height], axis=-1).astype(np.float32)
    boxes[:, 0] = (0.0, 0.0, 1.0, 1.0)
    return boxes


class Teacher:
    """One photo or crop in; both networks' pooled features, their mean logits (dequantised) and the maps out."""

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
        self, pixels: np.ndarray, box: tuple[float, float, float, float] = (0, 0, 1, 1)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        height, width = pixels.shape[:2]
        cut = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        image = Image.fromarray(pixels)
        features, logits, maps = [], np.zeros(CLASSES, np.float32), []
        for network, interpreter, entry, outputs, layers in self.interpreters:
            side = (network.side, network.side)
            interpreter.set_tensor(entry, np.asarray(image.resize(side, Image.Resampling.BILINEAR, box=cut))[None])
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


def _label_chunk(out: Path, weights: Path, boxes: np.ndarray, crop: int, start: int, path: Path) -> None:
    torch.set_num_threads(1)
    pixels = np.load(out / "photos.npy", mmap_mode="r")
    maps = np.load(out / "teacher" / "maps.npy", mmap_mode="r+")
    teacher = Teacher(weights)
    embeddings = np.empty((len(boxes), WIDTH), np.float16)
    logits = np.empty((len(boxes), CLASSES), np.float16)
    for row, box in enumerate(boxes[:, crop]):
        photo = np.array(pixels[start + row])
        embeddings[row], logits[row], maps[start + row, crop] = teacher(photo, tuple(map(float, box)))
    maps.flush()
    partial = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(partial, embeddings=embeddings, logits=logits)
    partial.rename(path)


def label_photos(data: Path, out: Path, *, photos: int, seed: int, processes: int = 2) -> TeacherOutputs:
    """Label every crop of every photo of `out`/photos.npy; finished chunks are kept, so a kill loses little."""
    boxes = crop_boxes(photos, seed)
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
            pool.submit(_label_chunk, out, data / "weights", boxes[start : start + CHUNK], crop, start, path)
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
    return TeacherOutputs(boxes, embeddings, logits, np.load(folder / "maps.npy", mmap_mode="r"))
