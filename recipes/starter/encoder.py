"""From random initialisation to the starter's image–text encoder, in transformers' own format.

Distils the vision tower, teaches the text tower the joint space, and joins them by a linear projection that is
found in closed form. Killed and started again, every step goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from photos import build_photos
from phrases import (
    DIM,
    LONGEST,
    VOCABULARY,
    SentenceSpace,
    photo_meanings,
    phrase_targets,
    train_text_tower,
    train_tokenizer,
    vocabulary_phrases,
)
from projection import joint_projection
from student import INPUT, MEAN, STD, distil, vision_config
from teacher import label_photos
from transformers import AutoTokenizer, BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from tmcr.tags.library import TagLibraries

TEXT_WIDTH = 136  # a multiple of the four heads' and not less than DIM, or the tower could not tell all axes apart


def build_encoder(data: Path, out: Path, *, steps: int, text_steps: int, seed: int) -> dict[str, object]:
    """Write the encoder to `out`; working files go to `out`.parent / "work". Returns what was measured on the way."""
    work = out.parent / "work"
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    done = work / "encoder.json"
    inputs = [text_steps, seed, TagLibraries.default().hash]
    inputs += _sources("encoder.py", "looks.py", "words.py", "phrases.py")
    words_stamp = _stamp(inputs)[:12]
    stamp = _stamp([steps, *inputs, *_sources("projection.py", "reframing.py")])
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
    meanings = photo_meanings(space, data, photos, teacher)
    weight, fit = joint_projection(student, data, photos, teacher.crops, meanings, seed)
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


def _sources(*names: str) -> list[str]:
    return [(Path(__file__).parent / name).read_text() for name in names]


def _stamp(inputs: list[object]) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _untrained(vocabulary: int) -> VisionTextDualEncoderModel:
    text = BertConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision_config(), text, projection_dim=DIM)
    )


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

assert TEXT_WIDTH >= DIM
