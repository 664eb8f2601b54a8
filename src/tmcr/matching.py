"""Tag matching (eq. 3–7): photos and tags compared by cosine in the space of a frozen image–text encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from tmcr.errors import TagError


class TextEncoder(Protocol):
    fingerprint: str

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


def text_matrix(
    encoder: TextEncoder,
    names: Sequence[str],
    *,
    template: str | None = None,
    cache_dir: Path | None = None,
) -> Tensor:
    """Tag features (T, E), L2-normalised (eq. 3, 4).

    Args:
        template: prompt with {} for the tag, e.g. "a photo of {}"; None is the bare tag, as in the paper.
        cache_dir: where the matrix is kept, by tags, template and encoder.

    Raises:
        TagError: the template has no {}.
    """
    if template is not None and "{}" not in template:
        raise TagError(f"a prompt template needs {{}} where the tag goes; {template!r} has none")
    key = hashlib.sha256(json.dumps([encoder.fingerprint, template, list(names)]).encode()).hexdigest()[:24]
    cached = cache_dir / f"{key}.safetensors" if cache_dir else None
    if cached is not None and cached.exists():
        try:
            return load_file(cached)["text"]
        except (SafetensorError, KeyError, OSError):
            pass  # cut short by a full disk, say: computed again below
    prompts = [template.replace("{}", name) if template else name for name in names]
    matrix = normalize(encoder.encode_texts(prompts).float(), dim=1).cpu()
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_name(f"{cached.name}.{os.getpid()}.part")
        save_file({"text": matrix.contiguous()}, part)
        part.replace(cached)
    return matrix


def similarity_moments(text: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (T,) of tags' similarities over photos of which only two moments are known.

    A similarity is linear in the photo's embedding, so mean (E,) and covariance (E, E) of the embeddings tell them for
    any tags (T, E), also for tags that nobody had thought of when the photos were at hand.
    """
    text = text.double()
    variance = (text @ covariance.double() * text).sum(1)
    return (text @ mean.double()).float(), variance.clamp_min(0).sqrt().float()


def similarity_correlation(text: Tensor, covariance: Tensor) -> Tensor:
    """How tags' similarities go up and down together (T, T), in -1..1, over photos with that covariance (E, E).

    0 for a tag (T, E) whose similarity is the same for all photos.
    """
    text = text.double()
    covered = text @ covariance.double()
    std = (covered * text).sum(1, keepdim=True).clamp_min(0).sqrt()
    scale = torch.where(std > 0, 1 / std, 0)
    return (covered * scale).float() @ (text * scale).float().T


def match(images: Tensor, text: Tensor) -> Tensor:
    """Cosine similarities (B, T) of L2-normalised images (B, E) and tags (T, E) (eq. 5, 6).

    With tags in library order, semantic first, the result is F_TM (eq. 7).
    """
    return images @ text.T
