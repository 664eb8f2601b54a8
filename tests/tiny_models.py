"""Tiny models with random weights, saved in the official transformers format as a Hub download would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["photo", "a", "of", "cat", "dog", "lake", "soft", "light", "blurred", "golden", "hour"]
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": 16, "width": 16},
    "resample": 3,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def save(model: Any, folder: Path, preprocessor: dict[str, Any] | None = None) -> Path:
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor or PREPROCESSOR))
    return folder


def save_tokenizer(folder: Path, *, max_length: int = 12) -> None:
    """Word-level, with begin and end tokens like CLIP's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
    ).save_pretrained(folder)


def clip(folder: Path, *, activation: str = "quick_gelu", seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=TEXT | {"hidden_act": activation},
        vision_config=VISION | {"hidden_act": activation},
        projection_dim=12,
        logit_scale_init_value=3.3,
    )
    save(CLIPModel(config), folder)
    save_tokenizer(folder)
    return folder


def siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(1)
    config = SiglipConfig(text_config=TEXT | {"projection_size": 20}, vision_config=VISION | {"vision_use_head": True})
    save(SiglipModel(config), folder)
    save_tokenizer(folder)
    return folder


def dual(folder: Path) -> Path:
    """Two towers of different families, as `vision-text-dual-encoder`."""
    from transformers import (
        BertConfig,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )

    torch.manual_seed(2)
    text = BertConfig(**{key: TEXT[key] for key in TEXT if not key.endswith("_id")}, pad_token_id=0)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**VISION), text, projection_dim=10)
    save(VisionTextDualEncoderModel(config), folder)
    save_tokenizer(folder)
    return folder


def vision(kind: str, folder: Path) -> Path:
    """A tiny image encoder of one of the families in VISION_KINDS."""
    import transformers as t

    torch.manual_seed(3)
    match kind:
        case "swin":
            config: Any = t.SwinConfig(
                image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
            )
            model: Any = t.SwinModel(config)
        case "vit":
            model = t.ViTModel(t.ViTConfig(**VISION))
        case "resnet":
            config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
            model = t.ResNetModel(config)
        case "mobilenet_v2":
            model = t.MobileNetV2Model(t.MobileNetV2Config(depth_multiplier=0.25, image_size=32))
        case "convnext":
            config = t.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, image_size=32)
            model = t.ConvNextModel(config)
        case "clip":
            return clip(folder)
        case _:
            raise ValueError(kind)
    side = 32 if kind in ("swin", "resnet", "mobilenet_v2", "convnext") else 16
    return save(model, folder, PREPROCESSOR | {"size": {"height": side, "width": side}})


VISION_KINDS = ("swin", "vit", "resnet", "mobilenet_v2", "convnext", "clip")
