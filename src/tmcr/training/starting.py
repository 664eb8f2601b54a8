"""The two encoders that a run begins with, prepared as its configuration says."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import torch

from tmcr.encoders import ImageEncoder, ImageTextEncoder, load_image_encoder, load_image_text_encoder
from tmcr.modelfolder import STARTER
from tmcr.preprocess import official_image, official_image_text
from tmcr.training.config import EncodersConfig, TrainConfig
from tmcr.training.stage import digest


def place_of(source: str) -> str:
    """The bundled model's own encoder goes by the name "starter"."""
    return str(STARTER / "image_text") if source == "starter" else source


def frozen_encoder(config: EncodersConfig) -> ImageTextEncoder:
    """The image–text encoder."""
    encoder = load_image_text_encoder(place_of(config.image_text), revision=config.image_text_revision)
    if config.preprocessing == "official":
        encoder.preprocess = official_image_text(encoder.preprocess.size)
    encoder.preprocess = replace(encoder.preprocess, mirrored=config.mirrored)
    return encoder


def starting_encoder(config: TrainConfig, given: ImageEncoder | None = None) -> ImageEncoder:
    """The image encoder as it is before contrastive ranking: a copy of the one that is given, else the configured."""
    encoders = config.encoders
    if given is not None:
        encoder = copy.deepcopy(given)  # training changes it in place
    else:
        torch.manual_seed(config.seed)
        encoder = load_image_encoder(
            place_of(encoders.image),
            revision=encoders.image_revision,
            pretrained=encoders.image_weights == "pretrained",
        )
    own = encoder.preprocess
    if encoders.preprocessing == "official":
        encoder.preprocess = official_image(own.size)
    else:
        encoder.preprocess = own.with_margin(encoders.image_crop_from, squash=encoders.squash)
    encoder.preprocess = replace(encoder.preprocess, mirrored=encoders.mirrored)
    if config.compile:
        encoder.tower.compile()
    return encoder


def encoder_digest(encoder: ImageEncoder) -> str:
    """Of weights and preprocessing: the folder that they came from may hold others tomorrow."""
    weights = hashlib.blake2b(digest_size=16)
    for key, value in encoder.state_dict().items():
        weights.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest({"weights": weights.hexdigest(), "preprocess": encoder.preprocess.to_dict()})
