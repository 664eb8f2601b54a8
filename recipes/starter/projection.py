"""From the tower's feature to the joint space: linear maps found in closed form, so that there is nothing to tune.

Where a photo belongs by its meaning is learnt from whole photos. How it looks is learnt from photos and copies of
them, counting more how far a copy lies from its photo, which has nothing to do with what is in the photo.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from looks import CROP_AXES, EDITS, apply_edits, crop_strengths, measure
from photos import Photos, trainable_files
from phrases import unit
from PIL import Image
from reframing import cropped_frames, enlarged, seen_alike, softened, tilted_frames
from student import INPUT, Student, crops_of, normalized
from teacher import PLAIN, Crops
from torch import Tensor

from tmcr.damage import KINDS
from tmcr.streaming import batched, ordered_map

LOOKS_SCALE = 0.25  # length of one standard deviation on an axis beside the unit length of the meaning
RIDGE = 10.0
LOOKED_AT = 4_000  # photos, with an edited copy and a crop each, that the looks part is learnt from
REFRAMED = 8_000  # pairs of views alike in everything but frame or compression
MOVES_COUNT = 3.0  # how much the move from a photo to its copy counts beside where both lie
TILTS, PARTS = (3, 14), (0.45, 0.85)  # degrees; share of the sides
BLOCK = 256


@torch.inference_mode()
def joint_projection(
    student: Student, data: Path, photos: Photos, crops: Crops, meanings: np.ndarray, seed: int
) -> tuple[Tensor, dict[str, object]]:
    """Weights (DIM, W) from the tower's feature to the joint space, by ridge regression without intercept.

    Args:
        meanings: (N, MEANING), where each photo belongs by what is in it.
    """
    rows = np.flatnonzero(photos.trainable)
    parts = np.array_split(rows, -(-len(rows) // BLOCK))
    whole = torch.cat([_features(student, whole_photos(photos, part)) for part in parts])
    meaning = _ridge(whole, torch.from_numpy(meanings[rows]).double())
    looks, right = looks_projection(student, data, photos, crops, seed)
    held = photos.rows("calibrate")
    guessed = unit((_features(student, whole_photos(photos, held)) @ meaning).numpy())
    return torch.cat([meaning, LOOKS_SCALE * looks], 1).T.float(), {
        "cosine of meanings on photos not trained on": float((guessed * meanings[held]).sum(1).mean()),
        "share of photos whose axis follows an edit": right,
    }


@torch.inference_mode()
def looks_projection(
    student: Student, data: Path, photos: Photos, crops: Crops, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Weights (W, len(AXES)) to the standardised looks, and the share of pairs left out whose axis follows the edit.

    Crops of small photos give themselves away by their blur, which parts of a user's photo do not have; pairs that
    differ in nothing but the frame (`reframed_pair`) are learnt from beside them.
    """
    rng = np.random.default_rng([seed, 1])
    chosen = np.sort(rng.choice(np.flatnonzero(photos.trainable), LOOKED_AT, replace=False))
    found = [_Looked(student), _Looked(student), _Looked(student)]
    for part in np.array_split(chosen, LOOKED_AT // BLOCK):
        plain = whole_photos(photos, part)
        none = torch.zeros(len(part), len(EDITS))
        edited, strengths = apply_edits(plain, rng, share=1.0)
        boxes = crops.boxes[part, rng.integers(1, PLAIN, len(part))]
        boxes = np.where(rng.random((len(part), 1)) < 0.5, boxes, np.array([0, 0, 1, 1], np.float32))
        degrees = np.where(boxes[:, 2] - boxes[:, 0] == 1, rng.uniform(-14, 14, len(part)), 0).astype(np.float32)
        cut = none.clone()
        cut[:, -CROP_AXES:] = crop_strengths(boxes, degrees)
        cropped = crops_of(photos.pixels[part], boxes, degrees, np.ones(len(part)))
        for looked, pixels, strength in zip(found, (plain, edited, cropped), (none, strengths, cut), strict=True):
            looked.at(pixels, strength)
    found += _reframed(student, data, photos, chosen, seed)

    x, y = zip(*(looked.all() for looked in found), strict=True)
    mean, std = torch.cat(y[:3]).mean(0), torch.cat(y[:3]).std(0)
    y = [((each - mean) / std).clamp(-3, 3) for each in y]
    places = list(zip(x[:3], y[:3], strict=True))
    edits, cuts, frames = ((x[copy] - x[photo], y[copy] - y[photo]) for photo, copy in ((0, 1), (0, 2), (3, 4)))

    def solve(every: bool) -> Tensor:
        counted = [*places, *((MOVES_COUNT * a, MOVES_COUNT * b) for a, b in (edits, cuts, frames))]
        features, wanted = zip(*((a, b) if every else (a[_learnt(a)], b[_learnt(b)]) for a, b in counted), strict=True)
        return _ridge(torch.cat(features), torch.cat(wanted))

    weights, right = solve(every=False), {}
    for axis, name in enumerate(EDITS):
        moves, wanted = frames if axis >= len(EDITS) - CROP_AXES else edits
        left_out = ~_learnt(moves) & (wanted[:, axis].abs() > 0.5)
        followed = (moves[left_out] @ weights)[:, axis] * wanted[left_out, axis] > 0
        right[name] = round(float(followed.double().mean()), 3)
    return solve(every=True), right


class _Looked:
    """Features and looks of views, block after block."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.features: list[Tensor] = []
        self.looks: list[Tensor] = []

    def at(self, pixels: Tensor, strengths: Tensor) -> None:
        self.features.append(_features(self.student, pixels))
        self.looks.append(torch.cat([strengths, measure(pixels)], 1).double())

    def all(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.features), torch.cat(self.looks)


def _learnt(rows: Tensor) -> Tensor:
    """All but every fifth photo."""
    return torch.arange(len(rows)) % 5 != 0


def _reframed(student: Student, data: Path, photos: Photos, chosen: np.ndarray, seed: int) -> list[_Looked]:
    """Both views of REFRAMED pairs, of the `chosen` photos in turn."""
    files = trainable_files(data / "photos", photos)
    places = np.searchsorted(photos.rows("train"), chosen)

    def pair(number: int) -> tuple[np.ndarray, Tensor]:
        return reframed_pair(files[places[number % len(places)]], np.random.default_rng([seed, 5, number]))

    found = [_Looked(student), _Looked(student)]
    for block in batched(ordered_map(pair, range(REFRAMED), workers=1, ahead=BLOCK), BLOCK):
        strengths = torch.stack([strength for _, strength in block])
        for view, strength in enumerate((torch.zeros_like(strengths), strengths)):
            pixels = torch.from_numpy(np.stack([views[view] for views, _ in block])).permute(0, 3, 1, 2).float() / 255
            found[view].at(pixels, strength)
    return found


def reframed_pair(file: bytes, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
    """A photo and a copy that is tilted, a part of it, or compressed at the size of a larger photo: uint8
    (2, INPUT, INPUT, 3), and how strongly (len(EDITS),).
    """
    photo = Image.open(io.BytesIO(file)).convert("RGB")
    strengths = torch.zeros(len(EDITS))
    kind = rng.choice(["compressed", "tilted", "middle", "corner", "anywhere"])
    if kind == "compressed":
        strength = rng.uniform(0.2, 1)
        strengths[EDITS.index("blocks")] = strength
        whole = enlarged(photo, rng)
        views = [whole, KINDS[kind](whole, strength)]
    else:
        photo = softened(photo, rng)
        box, degrees = np.array([0, 0, 1, 1], np.float32), 0.0
        if kind == "tilted":
            degrees = rng.uniform(*TILTS)
            frames = tilted_frames(photo, degrees, rng)
        else:
            share = rng.uniform(*PARTS)
            spot = {"middle": [0.5, 0.5], "corner": rng.integers(0, 2, 2), "anywhere": rng.random(2)}[str(kind)]
            corner = np.asarray(spot) * (1 - share)
            box = np.concatenate([corner, corner + share]).astype(np.float32)
            frames = cropped_frames(photo, share, tuple(corner + share / 2))
        strengths[-CROP_AXES:] = crop_strengths(box[None], np.array([degrees], np.float32))[0]
        views = seen_alike(frames, rng)
    mirrored = slice(None, None, -1 if rng.random() < 0.5 else 1)
    seen = [np.asarray(view.resize((INPUT, INPUT), Image.Resampling.BICUBIC))[:, mirrored] for view in views]
    return np.stack(seen), strengths


def whole_photos(photos: Photos, rows: Sequence[int] | np.ndarray) -> Tensor:
    """The photos at `rows` at the encoder's input size, (B, 3, INPUT, INPUT) in 0..1."""
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(rows), 1))
    return crops_of(photos.pixels[rows], boxes, np.zeros(len(rows), np.float32), np.ones(len(rows)))


def _features(student: Student, pixels: Tensor) -> Tensor:
    return student.tower(pixel_values=normalized(pixels)).pooler_output.flatten(1).double()


def _ridge(features: Tensor, wanted: Tensor) -> Tensor:
    """Weights (W, K)."""
    penalty = RIDGE * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.solve(features.T @ features + penalty, features.T @ wanted)
