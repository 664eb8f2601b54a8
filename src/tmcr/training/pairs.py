"""Pairs whose order needs no rating: a photo above its damaged copy, and level with its mirror image.

Ratings say little about damage, because few rated photos are badly damaged. These pairs teach the head what
ratings cannot, on rated and on unlabelled photos alike.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import huber_loss, softplus

from tmcr.damage import KINDS
from tmcr.disk import write_whole
from tmcr.encoders import ImageEncoder, ImageTextEncoder
from tmcr.errors import ConfigError, ImageError
from tmcr.hardware import Hardware
from tmcr.images import decode
from tmcr.streaming import batched, ordered_map
from tmcr.training.stage import Progress

WEAKEST = 0.25  # strengths are drawn from here to 1
LEVEL_WEIGHT = 5.0  # of pairs that shall score the same; they are fewer, and their penalty is flatter
SOFTNESS = 0.1  # score points over which the penalty of a wrong order fades out
SAME_QUALITY = 95
PHOTO_FILES = (".jpg", ".jpeg", ".png", ".webp")
LONGEST_SIDE = 640  # larger photos are reduced before they are damaged, to save time


@dataclass(frozen=True)
class Pairs:
    """Photos and copies of them as the head sees them.

    Attributes:
        embeddings: (n, E) under the image–text encoder; `features`: (n, W) under the image encoder, or None.
        original, copy: (P,) rows that make a pair.
        strength: (P,) how strongly the copy is damaged, 0..1; 0 means that both should score the same.
    """

    embeddings: Tensor
    features: Tensor | None
    original: Tensor
    copy: Tensor
    strength: Tensor

    def __len__(self) -> int:
        return len(self.original)


def pair_loss(better: Tensor, worse: Tensor, strength: Tensor, margin: float) -> Tensor:
    """Mean penalty of scores (P,): a copy of strength s shall lie s · `margin` below, one of strength 0 level."""
    gap = better - worse
    ordered = SOFTNESS * softplus((margin * strength - gap) / SOFTNESS)
    level = LEVEL_WEIGHT * huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=SOFTNESS)
    return torch.where(strength > 0, ordered, level).mean()


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several sets in one."""
    offsets = np.cumsum([0, *(len(part.embeddings) for part in parts)])
    features = [part.features for part in parts if part.features is not None]
    return Pairs(
        torch.cat([part.embeddings for part in parts]),
        torch.cat(features) if features else None,
        torch.cat([part.original + int(start) for part, start in zip(parts, offsets, strict=False)]),
        torch.cat([part.copy + int(start) for part, start in zip(parts, offsets, strict=False)]),
        torch.cat([part.strength for part in parts]),
    )


def save_pairs(pairs: Pairs, path: Path) -> None:
    tensors = {name: value for name, value in vars(pairs).items() if value is not None}
    write_whole(path, lambda part: save_file(tensors, part))


def load_pairs(path: Path) -> Pairs:
    tensors = load_file(path)
    return Pairs(**{"features": None, **tensors})  # type: ignore[arg-type]


def unlabelled_photos(folder: Path) -> list[Path]:
    """The photo files of a folder, by name.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(path for path in folder.glob("**/*") if path.suffix.lower() in PHOTO_FILES)
    if not found:
        raise ConfigError(f"fit.pair_photos: no photo in {folder}; give a folder with JPEG, PNG or WebP files")
    return found


def damaged_copies(image: Image.Image, copies: int, seed: Sequence[int]) -> Iterator[tuple[Image.Image, float]]:
    """`copies` damaged copies with their strengths, then the mirror image and one saved again (strength 0)."""
    rng = np.random.default_rng(list(seed))
    kinds = list(KINDS)
    drawn = [kinds[i] for _ in range(-(-copies // len(kinds))) for i in rng.permutation(len(kinds))][:copies]
    for kind in drawn:
        strength = float(rng.uniform(WEAKEST, 1))
        yield KINDS[kind](image, strength), strength
    yield image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0.0
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=SAME_QUALITY)
    yield Image.open(buffer).convert("RGB"), 0.0


def build_pairs(
    paths: Sequence[Path],
    image_text: ImageTextEncoder,
    encoder: ImageEncoder | None,
    *,
    copies: int,
    seed: int,
    hardware: Hardware,
    batch_size: int,
    progress: Progress,
) -> Pairs:
    """Damage every photo `copies` times and encode all of it; a photo that cannot be read is left out."""
    progress.start("pairs", len(paths))
    prepare = _preparer(paths, image_text, encoder, copies, seed)
    embeddings: list[Tensor] = []
    features: list[Tensor] = []
    original: list[int] = []
    copy: list[int] = []
    strengths: list[float] = []
    rows = 0
    stream = ordered_map(prepare, range(len(paths)), workers=hardware.photo_workers, ahead=16)
    for batch in batched(stream, max(1, batch_size // (copies + 3))):
        readable = [views for views in batch if views is not None]
        if readable:
            for_tags = torch.from_numpy(np.concatenate([views[0] for views in readable])).to(hardware.device)
            with hardware.autocast(), torch.no_grad():
                embeddings.append(image_text.encode_images(for_tags).float().cpu())
                if encoder is not None:
                    for_levels = torch.from_numpy(np.concatenate([views[1] for views in readable]))
                    features.append(encoder(for_levels.to(hardware.device)).float().cpu())
        for _, _, strength in readable:
            original += [rows] * len(strength)
            copy += range(rows + 1, rows + 1 + len(strength))
            strengths += strength
            rows += 1 + len(strength)
        progress.step(len(batch))
    if not rows:
        raise ConfigError("fit.pair_weight: none of the photos can be read, so there are no pairs")
    return Pairs(
        torch.cat(embeddings),
        torch.cat(features) if features else None,
        torch.tensor(original),
        torch.tensor(copy),
        torch.tensor(strengths),
    )


_Views = tuple[NDArray[np.float32], NDArray[np.float32], list[float]]


def _preparer(
    paths: Sequence[Path], image_text: ImageTextEncoder, encoder: ImageEncoder | None, copies: int, seed: int
) -> Callable[[int], _Views | None]:
    """Photo number → pixels of the photo and its copies for both encoders, and the copies' strengths."""

    def prepare(index: int) -> _Views | None:
        try:
            image = decode(paths[index], target_side=LONGEST_SIDE // 2)
        except ImageError:
            return None
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
        others = list(damaged_copies(image, copies, (seed, index)))
        views = [image, *(other for other, _ in others)]
        for_tags = np.stack([image_text.preprocess(view) for view in views])
        for_levels = np.stack([encoder.preprocess(view) for view in views]) if encoder is not None else for_tags
        return for_tags, for_levels, [strength for _, strength in others]

    return prepare
