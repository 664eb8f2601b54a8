"""What two int8 classifiers (MobileNetV2 and V1, Apache-2.0, ImageNet) say about fixed crops of the photos.

The student sees many distorted versions of each crop; the teachers label each crop once, before training.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

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


NETWORKS = (
    Network(
        "mobilenet_v2_1.0_224_quant.tflite",
        224,
        "MobilenetV2/Logits/AvgPool",
        1280,
        "MobilenetV2/Logits/Squeeze1",
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


@dataclass(frozen=True)
class TeacherOutputs:
    """`boxes`: float32 (N, CROPS, 4) as left, top, right, bottom in 0..1; crop 0 is the whole photo.
    `embeddings`: float16 (N, CROPS, WIDTH), both networks' features. `logits`: float16 (N, CROPS, CLASSES), their mean.
    """

    boxes: np.ndarray
    embeddings: np.ndarray
    logits: np.ndarray


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
    """One photo or crop in, both networks' pooled features and their mean logits out (dequantised)."""

    def __init__(self, folder: Path) -> None:
        self.interpreters = []
        for network in NETWORKS:
            interpreter = Interpreter(str(folder / network.file), num_threads=1)
            interpreter.allocate_tensors()
            found = {
                detail["name"]: (detail["index"], *detail["quantization"])
                for detail in interpreter.get_tensor_details()
            }
            entry = interpreter.get_input_details()[0]["index"]
            self.interpreters.append((network, interpreter, entry, found[network.pooled], found[network.logits]))

    def __call__(
        self, pixels: np.ndarray, box: tuple[float, float, float, float] = (0, 0, 1, 1)
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width = pixels.shape[:2]
        cut = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        image = Image.fromarray(pixels)
        features, logits = [], np.zeros(CLASSES, np.float32)
        for network, interpreter, entry, *outputs in self.interpreters:
            side = (network.side, network.side)
            interpreter.set_tensor(entry, np.asarray(image.resize(side, Image.Resampling.BILINEAR, box=cut))[None])
            interpreter.invoke()
            feature, answer = (
                (interpreter.get_tensor(index).reshape(-1).astype(np.float32) - zero) * scale
                for index, scale, zero in outputs
            )
            features.append(feature)
            logits += answer / len(NETWORKS)
        return np.concatenate(features), logits


def _label_chunk(photos: Path, weights: Path, boxes: np.ndarray, crop: int, start: int, path: Path) -> None:
    pixels = np.load(photos, mmap_mode="r")
    teacher = Teacher(weights)
    embeddings = np.empty((len(boxes), WIDTH), np.float16)
    logits = np.empty((len(boxes), CLASSES), np.float16)
    for row, box in enumerate(boxes[:, crop]):
        embeddings[row], logits[row] = teacher(np.array(pixels[start + row]), tuple(map(float, box)))
    partial = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(partial, embeddings=embeddings, logits=logits)
    partial.rename(path)


def label_photos(data: Path, out: Path, *, photos: int, seed: int, processes: int = 2) -> TeacherOutputs:
    """Label every crop of every photo of `out`/photos.npy; finished chunks are kept, so a kill loses little."""
    boxes = crop_boxes(photos, seed)
    folder = out / "teacher"
    folder.mkdir(exist_ok=True)
    path_of = {
        (crop, start): folder / f"{crop}-{start:06d}.npz" for crop in range(CROPS) for start in range(0, photos, CHUNK)
    }
    with ProcessPoolExecutor(processes) as pool:
        waiting = [
            pool.submit(
                _label_chunk, out / "photos.npy", data / "weights", boxes[start : start + CHUNK], crop, start, path
            )
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
    return TeacherOutputs(boxes, embeddings, logits)
