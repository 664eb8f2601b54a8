"""Encoders, all through transformers: frozen image–text encoders and trainable image encoders.

A source is a local folder in transformers' format, a Hub id, or one of the short names below. Nothing is
fetched but by `resolve_source`, and only safetensors weights are read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize

from tmcr.errors import ModelError, TagError, first_line
from tmcr.preprocess import PreprocessSpec

SHORT_NAMES = {
    "clip-l14-336": "openai/clip-vit-large-patch14-336",
    "clip-l14": "openai/clip-vit-large-patch14",
    "clip-b16": "openai/clip-vit-base-patch16",
    "clip-b32": "openai/clip-vit-base-patch32",
    "siglip-b16": "google/siglip-base-patch16-224",
    "swin-b": "microsoft/swin-base-patch4-window7-224",
    "vit-b": "google/vit-base-patch16-224",
    "resnet-50": "microsoft/resnet-50",
}
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_TEXT_BATCH = 256
# Vision transformers without a pooler of their own that was trained: the class token is their feature.
_CLASS_TOKEN = {"vit", "deit", "dinov2", "beit"}


def resolve_source(source: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of an encoder or model, fetched from the Hub where needed and allowed.

    Raises:
        ModelError: it is nowhere to be had.
    """
    source = SHORT_NAMES.get(source, source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"{source}: is a file; give a folder with config.json, or a Hub id like owner/name")
    if source.startswith((".", "/", "~")) or source.count("/") != 1 or folder.parent.is_dir():
        raise ModelError(f"{source}: no such folder; give a folder with config.json, or a Hub id like owner/name")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = offline or constants.HF_HUB_OFFLINE
    try:
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=_FILES, local_files_only=offline, etag_timeout=10
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        looked = f"the cache {constants.HF_HUB_CACHE}" + ("" if offline else f" and {constants.ENDPOINT}")
        raise ModelError(
            f"{source} cannot be had (looked in {looked}; {type(error).__name__}); "
            "give a local folder instead of the id, or set HF_ENDPOINT to a mirror"
        ) from None


def pixel_values(pixels: Tensor, preprocess: PreprocessSpec) -> Tensor:
    """An encoder's input (B, 3, H, W) of what it shall see, (B, H, W, 3) in 0..255, on the same device; for one photo,
    that of `preprocess` to the last bit. Channels are last in memory.
    """
    mean, factor = _scaling_of_a_row(preprocess, pixels.shape[2], pixels.device)
    values = pixels.flatten(2).float()
    return values.sub_(mean).mul_(factor).view(pixels.shape).permute(0, 3, 1, 2)


@functools.cache
def _scaling_of_a_row(preprocess: PreprocessSpec, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`preprocess.scaling` for a row of pixels: (3 · width,) each. Three numbers alone would make short loops of long
    ones; and a CUDA graph cannot fetch them anew.
    """
    mean, factor = (torch.from_numpy(np.tile(each, width)).to(device) for each in preprocess.scaling())
    return mean, factor


class ImageTower(nn.Module):
    """E_I of an image–text encoder: vision tower and projection, (B, 3, H, W) → (B, E), L2-normalised.

    Attributes:
        mirrored: take the mean over the photo and its mirror image.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection
        self.mirrored = False
        self.layout = _best_layout(vision_model)
        _read_pixels_exactly(vision_model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        pooled = self._pooled(pixel_values)
        if self.mirrored:
            pooled = (pooled + self._pooled(pixel_values.flip(3))) / 2
        return normalize(self.projection(pooled) if self.projection is not None else pooled, dim=1)

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        pixel_values = pixel_values.contiguous(memory_format=self.layout)
        return self.vision_model(pixel_values=pixel_values).pooler_output.flatten(1)


class ImageTextEncoder:
    """A frozen image–text encoder of the CLIP or SigLIP family, or two towers joined as transformers'
    vision-text-dual-encoder. Embeddings equal those of transformers' own model, normalised.

    Attributes:
        name: the source it was loaded from.
        fingerprint: hash of its weights, configuration and tokenizer.
        dim: width E of the embeddings.
        preprocess: what photos go through first.
        image_tower: E_I as a module.
        logit_scale: factor that the encoder itself was trained to put before cosines.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, fingerprint: str, preprocess: PreprocessSpec) -> None:
        self._model: Any = model.eval().requires_grad_(False)
        self.image_tower = ImageTower(model.vision_model, getattr(model, "visual_projection", None))
        self._tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.preprocess = preprocess
        self.dim = int(self.encode_texts(["photo"]).shape[1])
        self.logit_scale = float(model.logit_scale.exp())

    @property
    def preprocess(self) -> PreprocessSpec:
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: PreprocessSpec) -> None:
        self._preprocess = preprocess
        if hasattr(self, "image_tower"):  # an encoder of another kind mirrors by itself
            self.image_tower.mirrored = preprocess.mirrored

    def to(self, device: torch.device) -> ImageTextEncoder:
        self._model.to(device)
        return self

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """E_I: pixel values (B, 3, H, W) → (B, E), L2-normalised."""
        return self.image_tower(pixel_values)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """E_T: texts → (T, E), L2-normalised.

        Raises:
            TagError: a text is too long for the encoder.
        """
        out = []
        for start in range(0, len(texts), _TEXT_BATCH):
            out.append(self._encode_text_batch(list(texts[start : start + _TEXT_BATCH])))
        return torch.cat(out)

    def _encode_text_batch(self, texts: list[str]) -> Tensor:
        text_config = self._model.config.text_config
        longest = text_config.max_position_embeddings
        fixed = text_config.model_type.startswith("siglip")  # trained with every text padded to full length
        tokens = self._tokenizer(
            texts,
            padding="max_length" if fixed else True,
            max_length=longest if fixed else None,
            return_tensors="pt",
        )
        if tokens["input_ids"].shape[1] > longest:
            worst = max(texts, key=len)
            raise TagError(f"{worst!r} is too long for {self.name}, which reads {longest} tokens; shorten it")
        device = next(self._model.parameters()).device
        arguments = {key: tokens[key].to(device) for key in ("input_ids", "attention_mask") if key in tokens}
        if fixed:
            arguments.pop("attention_mask", None)
        pooled = self._model.text_model(**arguments).pooler_output
        project = getattr(self._model, "text_projection", None)
        return normalize(project(pooled) if project is not None else pooled, dim=1)


def load_image_text_encoder(
    source: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    preprocess: PreprocessSpec | None = None,
) -> ImageTextEncoder:
    """Load a frozen image–text encoder; `preprocess` replaces the one its folder describes.

    Raises:
        ModelError: it cannot be had, is no image–text encoder, or its weights do not fit its configuration.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = resolve_source(source, revision=revision, offline=offline)
    config = _read_json(folder / "config.json")
    if not ("text_config" in config or "text" in config):
        raise ModelError(f"{source} is a {config.get('model_type')} without a text tower; give a CLIP or SigLIP model")
    model = _load_weights(AutoModel, folder, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{source}: its tokenizer cannot be read ({first_line(error)}); copy the folder again"
        ) from None
    preprocess = preprocess or _preprocess(folder)
    return ImageTextEncoder(model, tokenizer, source, _fingerprint(folder), preprocess)


class ImageEncoder(nn.Module):
    """A trainable image encoder: any vision model of transformers, or the vision tower of an image–text one.

    The feature is the class token of plain vision transformers, else the model's own pooled output, else the
    mean over positions.

    Attributes:
        width: W, width of the feature.
        preprocess: what photos go through first.
    """

    def __init__(self, tower: nn.Module, model_config: dict[str, Any], preprocess: PreprocessSpec) -> None:
        super().__init__()
        self.tower = tower
        self.preprocess = preprocess
        self._model_config = model_config
        self._layout = _best_layout(tower)
        _read_pixels_exactly(tower)
        was_training = tower.training
        with torch.no_grad():
            self.width = int(self.eval()(torch.zeros(1, 3, preprocess.size, preprocess.size)).shape[1])
        self.train(was_training)

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `image_encoder_from_config` builds the same network."""
        return {"model": self._model_config, "preprocess": self.preprocess.to_dict()}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """F_level: pixel values (B, 3, H, W) → (B, W). In training, mirroring is left to the random views."""
        feature = self._feature(pixel_values)
        if self.preprocess.mirrored and not self.training:
            feature = (feature + self._feature(pixel_values.flip(3))) / 2
        return feature

    def _feature(self, pixel_values: Tensor) -> Tensor:
        outputs = self.tower(pixel_values=pixel_values.contiguous(memory_format=self._layout))
        if self._model_config["model_type"] in _CLASS_TOKEN:
            return outputs.last_hidden_state[:, 0]
        if getattr(outputs, "pooler_output", None) is not None:
            return outputs.pooler_output.flatten(1)
        hidden = outputs.last_hidden_state
        return hidden.mean(1) if hidden.dim() == 3 else hidden.mean((2, 3))


def load_image_encoder(
    source: str, *, revision: str | None = None, offline: bool = False, pretrained: bool = True
) -> ImageEncoder:
    """Load an image encoder to start training from.

    Args:
        pretrained: False takes the architecture only, with random weights under torch's present seed.

    Raises:
        ModelError: it cannot be had, or its weights do not fit its configuration.
    """
    from transformers import AutoModel

    folder = resolve_source(source, revision=revision, offline=offline)
    config = _vision_config(_read_json(folder / "config.json"))
    preprocess = _preprocess(folder)
    if not pretrained:
        return image_encoder_from_config({"model": config, "preprocess": preprocess.to_dict()})
    model = _load_weights(AutoModel, folder, source)
    return ImageEncoder(getattr(model, "vision_model", model), config, preprocess)


def image_encoder_from_config(config: dict[str, Any]) -> ImageEncoder:
    """Build the network that `ImageEncoder.config` describes, with random weights.

    Raises:
        ModelError: transformers does not know the model type.
    """
    from transformers import AutoConfig, AutoModel

    values = dict(config["model"])
    try:
        model_config = AutoConfig.for_model(values.pop("model_type"), **values)
        tower = AutoModel.from_config(model_config)
    except (ValueError, KeyError) as error:
        raise ModelError(f"unknown image encoder ({first_line(error)}); a newer transformers may know it") from None
    # A CLIP or SigLIP vision model wraps the tower that the joint model holds bare.
    return ImageEncoder(
        getattr(tower, "vision_model", tower),
        config["model"],
        PreprocessSpec.from_dict(config["preprocess"]),
    )


def _best_layout(tower: nn.Module) -> torch.memory_format:
    """Bring a convolutional network into channels-last order, in which it is up to twice as fast; name the order."""
    convolutional = sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 4  # transformers have one or two
    layout = torch.channels_last if convolutional else torch.contiguous_format
    tower.to(memory_format=layout)  # type: ignore[call-overload]
    return layout


class PixelConvolution(nn.Conv2d):
    """The convolution that pixels go through first, in fp32 under bf16 autocast too.

    bf16 has fewer steps than a photo has shades, and what is lost here no later layer brings back.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):
            return super().forward(pixels.float())


def _read_pixels_exactly(tower: nn.Module) -> None:
    """Make a `PixelConvolution` of the layer that reads colour pixels, weights and names as they are."""
    for module in tower.modules():
        if type(module) is nn.Conv2d and module.in_channels == 3:
            module.__class__ = PixelConvolution
            return


def _vision_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's config.json that describes its vision tower."""
    values = config.get("vision_config") or config.get("vision") or config
    left_out = (
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "id2label",
        "label2id",
    )
    return {key: value for key, value in values.items() if key not in left_out}


def _load_weights(loader: Any, folder: Path, source: str) -> Any:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{source}: no safetensors weights in {folder}; pickled weights are not read, convert them first"
        )
    try:
        with quiet_loading():
            model, report = loader.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"{source}: cannot be loaded ({first_line(error)}); copy the folder again") from None
    # Buffers that the network computes itself may be absent; weights may not.
    if missing := sorted(key for key in report["missing_keys"] if "position_ids" not in key):
        raise ModelError(f"{source}: its weights lack {missing[0]} and {len(missing) - 1} more; copy the folder again")
    return model


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' own bar and its list of unused weights: a joint model's other tower is no news."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _preprocess(folder: Path) -> PreprocessSpec:
    return PreprocessSpec.from_transformers(_read_json(folder / "preprocessor_config.json"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: no {path.name} there; give a folder in transformers' format") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({first_line(error)}); copy it again") from None


def _fingerprint(folder: Path) -> str:
    """Hash of the files that embeddings depend on."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".txt", ".model") and path.name != "preprocessor_config.json":
            total.update(path.name.encode())
            with open(os.path.realpath(path), "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
