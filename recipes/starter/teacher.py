"""What an int8 MobileNetV2 (Apache-2.0, ImageNet) says about fixed crops of the training photos.

The student sees many distorted versions of each crop; the teacher labels each crop once, before training.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

CROPS = 4
CHUNK = 512
WEIGHTS = "mobilenet_v2_1.0_224_quant.tflite"
POOLED, LOGITS = "MobilenetV2/Logits/AvgPool", "MobilenetV2/Logits/Squeeze1"


@dataclass(frozen=True)
class TeacherOutputs:
    """`boxes`: float32 (N, CROPS, 4) as left, top, right, bottom in 0..1; crop 0 is the whole photo.
    `embeddings`: float16 (N, CROPS, 1280). `logits`: float16 (N, CROPS, 1001)."""

    boxes: np.ndarray
    embeddings: np.ndarray
    logits: np.ndarray


def crop_boxes(photos: int, seed: int) -> np.ndarray:
    """The whole photo, then random crops of 35 to 100 % of its area at sides' ratios of 3:4 to 4:3."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(0.35, 1.0, (photos, CROPS))
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), (photos, CROPS)))
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    left = rng.uniform(0, 1, (photos, CROPS)) * (1 - width)
    top = rng.uniform(0, 1, (photos, CROPS)) * (1 - height)
    boxes = np.stack([left, top, left + width, top + height], axis=-1).astype(np.float32)
    boxes[:, 0] = (0.0, 0.0, 1.0, 1.0)
    return boxes


class Teacher:
    """One photo or crop in, the pooled embedding and the logits out (both dequantised)."""

    def __init__(self, weights: Path) -> None:
        self.interpreter = Interpreter(str(weights), num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.outputs = {
            detail["name"]: (detail["index"], *detail["quantization"])
            for detail in self.interpreter.get_tensor_details()
            if detail["name"] in (POOLED, LOGITS)
        }

    def __call__(
        self, pixels: np.ndarray, box: tuple[float, float, float, float] = (0, 0, 1, 1)
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width = pixels.shape[:2]
        cut = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        image = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR, box=cut)
        self.interpreter.set_tensor(self.input, np.asarray(image)[None])
        self.interpreter.invoke()
        values = []
        for name in (POOLED, LOGITS):
            index, scale, zero = self.outputs[name]
            values.append((self.interpreter.get_tensor(index).reshape(-1).astype(np.float32) - zero) * scale)
        return values[0], values[1]


def _label_chunk(photos: Path, weights: Path, boxes: np.ndarray, start: int, path: Path) -> None:
    pixels = np.load(photos, mmap_mode="r")
    teacher = Teacher(weights)
    embeddings = np.empty((len(boxes), CROPS, 1280), np.float16)
    logits = np.empty((len(boxes), CROPS, 1001), np.float16)
    for row, crops in enumerate(boxes):
        photo = np.array(pixels[start + row])
        for crop, box in enumerate(crops):
            embeddings[row, crop], logits[row, crop] = teacher(photo, tuple(map(float, box)))
    partial = path.with_suffix(".part.npz")
    np.savez(partial, embeddings=embeddings, logits=logits)
    partial.rename(path)


def label_photos(data: Path, out: Path, *, photos: int, seed: int, processes: int = 2) -> TeacherOutputs:
    """Label every crop of every photo of `out`/photos.npy; finished chunks are kept, so a kill loses little."""
    boxes = crop_boxes(photos, seed)
    folder = out / "teacher"
    folder.mkdir(exist_ok=True)
    starts = range(0, photos, CHUNK)
    paths = [folder / f"{start:06d}.npz" for start in starts]
    with ProcessPoolExecutor(processes) as pool:
        waiting = [
            pool.submit(
                _label_chunk,
                out / "photos.npy",
                data / "weights" / WEIGHTS,
                boxes[start : start + CHUNK],
                start,
                path,
            )
            for start, path in zip(starts, paths, strict=True)
            if not path.exists()
        ]
        for job in waiting:
            job.result()
    chunks = [np.load(path) for path in paths]
    return TeacherOutputs(
        boxes=boxes,
        embeddings=np.concatenate([chunk["embeddings"] for chunk in chunks]),
        logits=np.concatenate([chunk["logits"] for chunk in chunks]),
    )
