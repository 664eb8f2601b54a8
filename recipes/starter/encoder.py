"""From random initialisation to the starter's image–text encoder, in transformers' own format.

    python recipes/starter/encoder.py --data DATA --out runs/starter-encoder

DATA holds `photos` (tar shards), `oasis` and `weights` (the teacher). Killed and started again, it goes on.
The OASIS test photos are never opened.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from photos import build_photos
from phrases import (
    DIM,
    LONGEST,
    VOCABULARY,
    SentenceSpace,
    caption_recall,
    photo_targets,
    train_text_tower,
    train_tokenizer,
    vocabulary_phrases,
)
from student import INPUT, MEAN, STD, Student, distil
from teacher import label_photos
from transformers import (
    AutoTokenizer,
    BertConfig,
    ResNetConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

WIDTHS = [32, 64, 128, 224]


def build_model(vocabulary: int) -> VisionTextDualEncoderModel:
    vision = ResNetConfig(
        embedding_size=WIDTHS[0], hidden_sizes=WIDTHS, depths=[2, 2, 2, 2], layer_type="basic", hidden_size=WIDTHS[-1]
    )
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
        VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=DIM)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--text-steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)

    photos = build_photos(options.data, work)
    teacher = label_photos(options.data, work, photos=len(photos.names), seed=options.seed)
    phrases = vocabulary_phrases(options.data, photos)
    space = SentenceSpace(phrases)
    targets = photo_targets(space, options.data, photos, teacher)

    torch.manual_seed(options.seed)
    train_tokenizer(phrases, options.out)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    model = build_model(min(len(tokenizer), VOCABULARY))
    student = Student(model.vision_model, model.visual_projection, WIDTHS[-1])
    distil(student, photos, teacher, targets, work, steps=options.steps, seed=options.seed)
    fit = train_text_tower(
        model.text_model,
        model.text_projection,
        tokenizer,
        phrases,
        space(phrases),
        steps=options.text_steps,
        seed=options.seed,
    )

    model.eval().to(memory_format=torch.contiguous_format).half().save_pretrained(options.out)
    (options.out / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor",
                "do_resize": True,
                "size": {"height": INPUT, "width": INPUT},
                "resample": 3,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [MEAN] * 3,
                "image_std": [STD] * 3,
            },
            indent=2,
        )
    )

    model.float()

    @torch.inference_mode()
    def embed_photos(rows: list[int]) -> np.ndarray:
        pixels = torch.from_numpy(photos.pixels[rows]).permute(0, 3, 1, 2).float() / 255
        pixels = torch.nn.functional.interpolate(pixels, INPUT, mode="bilinear", antialias=True)
        pooled = model.vision_model(pixel_values=(pixels - MEAN) / STD).pooler_output.flatten(1)
        return torch.nn.functional.normalize(model.visual_projection(pooled), dim=1).numpy()

    @torch.inference_mode()
    def embed_texts(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return torch.nn.functional.normalize(model.text_projection(pooled), dim=1).numpy()

    measured = {
        "text cosine to the sentence space": fit,
        "captions of photos not trained on": caption_recall(options.data, photos, embed_photos, embed_texts),
        "steps": options.steps,
        "seed": options.seed,
        "photos": int(photos.trainable.sum()),
    }
    (work / "measured.json").write_text(json.dumps(measured, indent=2))
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
