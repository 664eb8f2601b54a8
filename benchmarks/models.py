"""The models that are measured: the bundled one, and the paper's architectures at full size with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from tmcr.assessor import Assessor
from tmcr.encoders import ImageTextEncoder, image_encoder_from_config, quiet_loading
from tmcr.hardware import Precision, pick_hardware
from tmcr.modelfolder import ClusterTable, ImageTextSource, TrainedModel
from tmcr.network import HeadConfig, PredictionHead
from tmcr.preparation import Prepared
from tmcr.preprocess import official_image, official_image_text
from tmcr.scoring.run import choose_batch_size
from tmcr.streaming import ordered_map
from tmcr.tags import TagLibraries

LARGE_NAME = "ViT-L/14-336 + Swin-B"
KINDS, BINS = 15, 10
_VIT_L: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_SWIN_B: dict[str, Any] = {
    "model_type": "swin", "image_size": 224, "patch_size": 4, "embed_dim": 128, "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32], "window_size": 7,
}  # fmt: skip


def large_assessor(precision: Precision = "fp32") -> Assessor:
    """CLIP's ViT-L/14 at 336 pixels and Swin-B at 224, with all tags and a head of the paper's width.

    Weights are random; the text tower is small, because tags are embedded once and not for each photo.
    """
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=text | {"vocab_size": 8}, vision_config=_VIT_L, projection_dim=768)
    for_tags = official_image_text(336)
    with quiet_loading():
        image_text = ImageTextEncoder(CLIPModel(config), _one_token, LARGE_NAME, "random", for_tags)
        encoder = image_encoder_from_config({"model": _SWIN_B, "preprocess": official_image(224).to_dict()})
    libraries = TagLibraries.default()
    tags, kinds = len(libraries.names), len(libraries.semantic)
    model = TrainedModel(
        name=LARGE_NAME,
        head=PredictionHead(HeadConfig(kinds, tags - kinds, encoder.width, BINS)).eval(),
        encoder=encoder.eval(),
        image_text=ImageTextSource(LARGE_NAME, None, "random", for_tags),
        libraries=libraries,
        text=normalize(torch.randn(tags, image_text.dim), dim=1),
        clusters=ClusterTable(
            (torch.randn(KINDS, kinds) / 30).numpy(),
            np.tile(np.linspace(1, 10, 101, dtype=np.float32), (KINDS, 1)),
            (("random",),) * KINDS,
        ),
        similarity_mean=torch.zeros(tags),
        similarity_std=torch.full((tags,), image_text.dim**-0.5),
        score_values=torch.linspace(1, 10, BINS),
        hash="random",
    )
    return Assessor(model, image_text, pick_hardware(precision=precision))


class RandomProjection:
    """Stands in for a model's encoders: pixels, averaged to 8 × 8, times a fixed random matrix."""

    name, arithmetic = "random projection", "fp32"
    own_threads, at_once = False, 1

    def __init__(self, embedding_width: int, level_width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._to_embedding = torch.randn(192, embedding_width, generator=generator)
        self._to_levels = torch.randn(192, level_width, generator=generator)

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        embeddings = normalize(_blurred(tag_pixels) @ self._to_embedding, dim=1)
        if level_pixels is None:
            return embeddings, None
        return embeddings, _blurred(level_pixels) @ self._to_levels


def _blurred(pixels: Tensor) -> Tensor:
    """(B, 192) of pixels (B, H, W, 3)."""
    return adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255 - 0.5, 8).flatten(1)


def with_random_projection(assessor: Assessor) -> Assessor:
    """The same model without the work of its encoders; its verdicts mean nothing."""
    model = assessor.model
    stand_in = RandomProjection(model.text.shape[1], model.head.config.level_width)
    return Assessor(model, assessor.image_text, assessor.hardware, backend=stand_in)


def scores(assessor: Assessor, photos: Sequence[Prepared], batch_size: int) -> list[float]:
    """Scores of prepared photos."""
    found: list[float] = []
    for start in range(0, len(photos), batch_size):
        batch = photos[start : start + batch_size]
        found += [verdict.score or 0.0 for verdict in assessor.verdicts(batch, *assessor.features(batch))]
    return found


def encode(assessor: Assessor, photos: Sequence[Prepared], batch_size: int) -> None:
    """Both encoders over prepared photos and nothing else, as many batches at once as the scorer has under way; on a
    GPU, to the end of its work."""
    batches = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
    with ThreadPoolExecutor(assessor.backend.at_once) as pool:
        for _ in pool.map(assessor.features, batches):
            pass
    if on_gpu(assessor):
        torch.cuda.synchronize()


def prepared_photos(assessor: Assessor, files: Sequence[Path]) -> list[Prepared]:
    """Photos decoded and prepared for both encoders, by all processors."""
    workers = assessor.hardware.photo_workers
    return list(ordered_map(assessor.prepare, files, workers=workers, ahead=2 * workers))


def on_gpu(assessor: Assessor) -> bool:
    return assessor.hardware.device.type == "cuda"


def usual_batch(assessor: Assessor, on_cpu: int) -> int:
    """Photos in one pass: on a GPU as many as the scorer would take."""
    return choose_batch_size(assessor) if on_gpu(assessor) else on_cpu


def device_name(assessor: Assessor) -> str:
    device = assessor.hardware.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _one_token(texts: Sequence[str], **_: Any) -> dict[str, Tensor]:
    """Stands in for a tokenizer: no text is embedded here."""
    return {"input_ids": torch.ones(len(texts), 2, dtype=torch.long)}
