"""From random initialisation to the starter's image–text encoder, in transformers' own format.

Distils the vision tower, teaches the text tower the joint space, and joins them by a linear projection that is
found in closed form. Killed and started again, every step goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from looks import CROP_AXES, EDITS, apply_edits, crop_strengths, measure
from photos import Photos, build_photos
from phrases import (
    DIM,
    LONGEST,
    VOCABULARY,
    SentenceSpace,
    photo_meanings,
    phrase_targets,
    train_text_tower,
    train_tokenizer,
    unit,
    vocabulary_phrases,
)
from student import INPUT, MEAN, STD, Student, crops_of, distil, normalized, vision_config
from teacher import PLAIN, TeacherOutputs, label_photos
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from tmcr.tags.library import TagLibraries

LOOKS_SCALE = 0.25  # length of one standard deviation on an axis beside the unit length of the meaning
PROJECTION_RIDGE = 10.0
LOOKED_AT = 4_000  # photos, with an edited copy and a crop each, that the looks part of the projection is learnt from
MOVES_COUNT = 3.0  # how much the move from a photo to its copy counts beside where both lie
BLOCK = 256


def build_encoder(data: Path, out: Path, *, steps: int, text_steps: int, seed: int) -> dict[str, object]:
    """Write the encoder to `out`; working files go to `out`.parent / "work". Returns what was measured on the way."""
    work = out.parent / "work"
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    done = work / "encoder.json"
    inputs = [text_steps, seed, TagLibraries.default().hash]
    inputs += [(Path(__file__).parent / name).read_text() for name in ("looks.py", "words.py", "phrases.py")]
    stamp, words_stamp = _stamp([steps, *inputs]), _stamp(inputs)[:12]
    if done.exists() and (kept := json.loads(done.read_text()))["stamp"] == stamp:
        return dict(kept["measured"])
    photos = build_photos(data, work)
    teacher = label_photos(data, work, trainable=photos.trainable, seed=seed)
    student = distil(data, work, steps=steps, seed=seed)

    phrases, about_looks = vocabulary_phrases(data, photos)
    space = SentenceSpace(phrases)
    pieces = work / f"tokenizer-{words_stamp}"
    if (
        not pieces.exists()
    ):  # a second one would cut words otherwise: of pieces that are equally frequent, any comes first
        train_tokenizer(phrases, pieces.with_suffix(".part"))
        pieces.with_suffix(".part").rename(pieces)
    shutil.copytree(pieces, out, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(seed)
    model = _untrained(min(len(tokenizer), VOCABULARY))
    targets = phrase_targets(space, phrases, about_looks)
    cosine = train_text_tower(
        model.text_model,
        model.text_projection,
        tokenizer,
        phrases,
        targets,
        about_looks,
        work / f"text-{words_stamp}.pt",
        steps=text_steps,
        seed=seed,
    )
    model.vision_model.load_state_dict(student.tower.state_dict())
    weight, fit = _projection(student, photos, teacher, photo_meanings(space, data, photos, teacher), seed)
    with torch.no_grad():
        model.visual_projection.weight.copy_(weight)
    model.eval().to(memory_format=torch.contiguous_format).half().save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=2))
    measured: dict[str, object] = {
        "photos": int(photos.trainable.sum()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vision parameters": sum(p.numel() for p in model.vision_model.parameters()),
        "steps": steps,
        "crops seen": steps * 128,
        "seed": seed,
        "cosine of the text tower to its targets": cosine,
    } | fit
    done.write_text(json.dumps({"stamp": stamp, "measured": measured}, indent=2))
    return measured


def _stamp(inputs: list[object]) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _untrained(vocabulary: int) -> VisionTextDualEncoderModel:
    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision_config(), text, projection_dim=DIM)
    )


@torch.inference_mode()
def _projection(
    student: Student, photos: Photos, teacher: TeacherOutputs, meanings: np.ndarray, seed: int
) -> tuple[Tensor, dict[str, object]]:
    """Weights (DIM, W) from the tower's feature to the joint space, by ridge regression without intercept."""
    rows = np.flatnonzero(photos.trainable)
    parts = np.array_split(rows, -(-len(rows) // BLOCK))
    whole = torch.cat([_features(student, whole_photos(photos, part)) for part in parts])
    meaning = _ridge(whole, torch.from_numpy(meanings[rows]).double())
    looks, right = looks_projection(student, photos, teacher, seed)
    held = photos.rows("calibrate")
    guessed = unit((_features(student, whole_photos(photos, held)) @ meaning).numpy())
    return torch.cat([meaning, LOOKS_SCALE * looks], 1).T.float(), {
        "cosine of meanings on photos not trained on": float((guessed * meanings[held]).sum(1).mean()),
        "share of photos whose axis follows an edit": right,
    }


@torch.inference_mode()
def looks_projection(
    student: Student, photos: Photos, teacher: TeacherOutputs, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Weights (W, len(AXES)) to the standardised looks, and the share of photos left out whose axis follows an edit.

    Learnt from whole photos, edited copies and crops at once: from where each lies on the axes, and, counting more,
    from how far a copy lies from its photo, which has nothing to do with what is in the photo.
    """
    rng = np.random.default_rng([seed, 1])
    rows = np.flatnonzero(photos.trainable)
    features: list[list[Tensor]] = [[], [], []]
    looks: list[list[Tensor]] = [[], [], []]
    for part in np.array_split(np.sort(rng.choice(rows, LOOKED_AT, replace=False)), LOOKED_AT // BLOCK):
        plain = whole_photos(photos, part)
        none = torch.zeros(len(part), len(EDITS))
        edited, strengths = apply_edits(plain, rng, share=1.0)
        boxes = teacher.crops.boxes[part, rng.integers(1, PLAIN, len(part))]
        boxes = np.where(rng.random((len(part), 1)) < 0.5, boxes, np.array([0, 0, 1, 1], np.float32))
        degrees = np.where(boxes[:, 2] - boxes[:, 0] == 1, rng.uniform(-14, 14, len(part)), 0).astype(np.float32)
        cut = none.clone()
        cut[:, -CROP_AXES:] = crop_strengths(boxes, degrees)
        cropped = crops_of(photos.pixels[part], boxes, degrees, np.ones(len(part)))
        for kind, (pixels, strength) in enumerate(((plain, none), (edited, strengths), (cropped, cut))):
            features[kind].append(_features(student, pixels))
            looks[kind].append(torch.cat([strength, measure(pixels)], 1).double())
    x = [torch.cat(each) for each in features]
    y = [torch.cat(each) for each in looks]
    mean, std = torch.cat(y).mean(0), torch.cat(y).std(0)
    y = [((each - mean) / std).clamp(-3, 3) for each in y]
    learnt = torch.arange(LOOKED_AT) % 5 != 0

    def solve(kept: Tensor) -> Tensor:
        lie = torch.cat([each[kept] for each in x]), torch.cat([each[kept] for each in y])
        move = (
            torch.cat([(x[kind] - x[0])[kept] for kind in (1, 2)]),
            torch.cat([(y[kind] - y[0])[kept] for kind in (1, 2)]),
        )
        return _ridge(*(torch.cat([a, MOVES_COUNT * b]) for a, b in zip(lie, move, strict=True)))

    weights = solve(learnt)
    right = {}
    for axis, name in enumerate(EDITS):
        kind = 2 if axis >= len(EDITS) - CROP_AXES else 1
        wanted, found = (y[kind] - y[0])[~learnt, axis], ((x[kind] - x[0])[~learnt] @ weights)[:, axis]
        moved = wanted.abs() > 0.5
        right[name] = round(float((found[moved] * wanted[moved] > 0).double().mean()), 3)
    return solve(torch.ones_like(learnt)), right


def whole_photos(photos: Photos, rows: Sequence[int] | np.ndarray) -> Tensor:
    """The photos at `rows` at the encoder's input size, (B, 3, INPUT, INPUT) in 0..1."""
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(rows), 1))
    return crops_of(photos.pixels[rows], boxes, np.zeros(len(rows), np.float32), np.ones(len(rows)))


def _features(student: Student, pixels: Tensor) -> Tensor:
    return student.tower(pixel_values=normalized(pixels)).pooler_output.flatten(1).double()


def _ridge(features: Tensor, wanted: Tensor) -> Tensor:
    """Weights (W, K)."""
    penalty = PROJECTION_RIDGE * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.solve(features.T @ features + penalty, features.T @ wanted)


PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": INPUT, "width": INPUT},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
}
