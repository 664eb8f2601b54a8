"""`tmcr score` against scripts as people write them, on the same photos, encoders and head, in one run.

The scripts give a score and nothing else. tmcr gives tags, reasons and standing with it, hashes every file and writes
its results to disk.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.end_to_end import score_folder
from benchmarks.models import device_name
from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, Skipped, result
from benchmarks.timing import alternated
from tmcr.assessor import Assessor, load
from tmcr.modelfolder import STARTER
from tmcr.preprocess import PreprocessSpec

BATCH = 16
WORKERS = 2


def measure(quick: bool) -> Iterator[Result]:
    count = 32 if quick else 256
    assessor = load("starter", precision="fp32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(folder / "photos", count, SMALL)
        ways: dict[str, Callable[[], object]] = {"tmcr": lambda: score_folder(assessor, folder / "photos")}
        for peer, build in PEERS.items():
            try:
                ways[peer] = build(assessor, photos)
            except Skipped as why:
                yield Result(f"{peer}", note=f"skipped: {why}")
        seconds = alternated(ways, rounds=1 if quick else 5)
    ours = seconds.pop("tmcr").rate(count)
    common: dict[str, Any] = {"photos": count, "threads": torch.get_num_threads(), "device": device_name(assessor)}
    for peer, taken in seconds.items():
        rate = taken.rate(count)
        yield result(
            f"{peer}", ours, "photos/s", ratio=ours.over(rate), to=f"{peer}, {rate.median:.3g} photos/s",
            note=f"tmcr end to end, {SMALL[0]}×{SMALL[1]} JPEGs, {origin()}, bundled encoders", **common,
        )  # fmt: skip


def straight_script(assessor: Assessor, photos: Sequence[Path]) -> Callable[[], list[float]]:
    """Photo after photo: open, resize, both encoders, tags, head."""

    def run() -> list[float]:
        found = []
        for path in photos:
            for_tags, for_levels = _pixels(assessor, path)
            found += _scores(assessor, for_tags[None], for_levels[None])
        return found

    return run


def laion_style(assessor: Assessor, photos: Sequence[Path]) -> Callable[[], list[float]]:
    """Photo after photo through transformers' own processor and image tower, then a linear layer on the embedding."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(STARTER / "image_text")
    layer = torch.nn.Linear(assessor.image_text.dim, 1)

    @torch.inference_mode()
    def run() -> list[float]:
        found = []
        for path in photos:
            with Image.open(path) as file:
                pixels = processor(images=file.convert("RGB"), return_tensors="pt")["pixel_values"]
            found.append(float(layer(assessor.image_text.encode_images(pixels.to(assessor.hardware.device)).cpu())))
        return found

    return run


def data_loader(assessor: Assessor, photos: Sequence[Path]) -> Callable[[], list[float]]:
    """Batches from torch's DataLoader with two worker processes: what a careful script looks like."""
    from torch.utils.data import DataLoader, Dataset

    class Photos(Dataset[tuple[NDArray[np.float32], NDArray[np.float32]]]):
        def __len__(self) -> int:
            return len(photos)

        def __getitem__(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            for_tags, for_levels = _pixels(assessor, photos[row])
            return for_tags.numpy(), for_levels.numpy()

    def run() -> list[float]:
        loader: Any = DataLoader(Photos(), batch_size=BATCH, num_workers=WORKERS)
        return [score for batch in loader for score in _scores(assessor, *batch)]

    return run


def pyiqa_style(assessor: Assessor, photos: Sequence[Path]) -> Callable[[], list[float]]:
    """Photo after photo through pyiqa's reader, as its metrics do it, then the same encoders and head."""
    if importlib.util.find_spec("pyiqa") is None:
        raise Skipped("pyiqa is not installed: pip install 'tmcr[peers]'")
    try:
        from pyiqa.utils.img_util import imread2tensor
    except (ImportError, RuntimeError) as why:
        raise Skipped(f"pyiqa cannot be imported ({str(why).splitlines()[0][:100]})") from None
    specs = _specs(assessor)

    def run() -> list[float]:
        found = []
        for path in photos:
            pixels = imread2tensor(str(path), rgb=True)[None]
            found += _scores(assessor, *(_resized(pixels, spec) for spec in specs))
        return found

    return run


PEERS: dict[str, Callable[[Assessor, Sequence[Path]], Callable[[], list[float]]]] = {
    "straight script, one photo at a time": straight_script,
    "script in LAION's manner, one encoder of two": laion_style,
    f"DataLoader script, batches of {BATCH}": data_loader,
    "script in pyiqa's manner": pyiqa_style,
}


def _pixels(assessor: Assessor, path: Path) -> tuple[Tensor, Tensor]:
    with Image.open(path) as file:
        image = file.convert("RGB")
    for_tags, for_levels = (torch.from_numpy(spec(image)) for spec in _specs(assessor))
    return for_tags, for_levels


def _specs(assessor: Assessor) -> tuple[PreprocessSpec, PreprocessSpec]:
    if assessor.model.encoder is None:
        raise AssertionError("the bundled model has both encoders")
    return assessor.model.image_text.preprocess, assessor.model.encoder.preprocess


def _resized(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    side, edge = spec.resize_to, (spec.resize_to - spec.size) // 2
    resized = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return ((resized - mean) / std)[..., edge : edge + spec.size, edge : edge + spec.size]


@torch.inference_mode()
def _scores(assessor: Assessor, for_tags: Tensor, for_levels: Tensor) -> list[float]:
    model, device = assessor.model, assessor.hardware.device
    embedding = assessor.image_text.encode_images(for_tags.to(device)).cpu()
    features = model.encoder(for_levels.to(device)).cpu() if model.encoder is not None else None
    head = model.head.to("cpu")
    found: list[float] = (head(embedding @ model.text.T, features).softmax(1) @ model.score_values).tolist()
    return found
