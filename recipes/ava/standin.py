"""Encoders as wide as CLIP ViT-L/14 and Swin-B that compute next to nothing: what is around them is measured."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tmcr.encoders import ImageEncoder, image_encoder_from_config
from tmcr.preprocess import PreprocessSpec

SIDE = 16  # 16 × 16 × 3 values are CLIP's 768
PREPROCESS = PreprocessSpec(SIDE, "squash", interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SWIN_WIDTH = 1024


class PixelEncoder:
    """In an `ImageTextEncoder`'s place: a photo is its pixels, a tag a random direction; both (·, 768)."""

    def __init__(self) -> None:
        self.name = self.fingerprint = "pixels"
        self.preprocess = PREPROCESS
        self.dim = 3 * SIDE * SIDE
        self.logit_scale = 1.0

    def to(self, device: torch.device) -> PixelEncoder:
        return self

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        return normalize(pixel_values.flatten(1), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dim) for text in texts]
        return normalize(torch.from_numpy(np.stack(rows)).float(), dim=1)


def image_encoder() -> ImageEncoder:
    """A vision transformer of one layer that sees the photo as a single patch; its feature is as wide as Swin-B's."""
    torch.manual_seed(0)
    model = {
        "model_type": "vit",
        "hidden_size": SWIN_WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "image_size": SIDE,
        "patch_size": SIDE,
    }
    return image_encoder_from_config({"model": model, "preprocess": PREPROCESS.to_dict()})
