"""torchvision's Swin Transformer under `AL.`, as transformers names and lays out its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tmcr.encoders import ImageEncoder, quiet_loading
from tmcr.errors import ModelError
from tmcr.preprocess import official_image

IMAGE_SIDE = 224
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.0": "intermediate.dense",
    "mlp.3": "output.dense",
}


def convert_encoder(tensors: Mapping[str, Tensor]) -> ImageEncoder:
    """transformers' Swin with the weights under `AL.`, prepared as the authors do it.

    Raises:
        ModelError: the tensors are no Swin Transformer of torchvision.
    """
    from transformers import SwinConfig, SwinModel

    try:
        values = swin_config({name: tuple(value.shape) for name, value in tensors.items()})
        state = dict(_swin_state(tensors, values["window_size"]))
        config = SwinConfig(**values)
        loader: Any = SwinModel.from_pretrained
        with quiet_loading():
            tower, report = loader(None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32)
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ModelError(f"the checkpoint's AL.* is no Swin Transformer of torchvision ({error})") from None
    lost = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if lost:
        raise ModelError(f"the checkpoint's AL.* does not fit a Swin Transformer: {lost[0]}")
    return ImageEncoder(tower.eval(), {"model_type": "swin", **values}, official_image(IMAGE_SIDE))


def swin_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The architecture that the names and shapes under `AL.` belong to, as values of transformers' SwinConfig."""
    width, _, patch, _ = shapes["AL.features.0.0.weight"]
    blocks = [re.match(r"AL\.features\.(\d+)\.(\d+)\.attn\.qkv\.weight", name) for name in shapes]
    stages: dict[int, int] = {}
    for found in blocks:
        if found:
            stage = int(found.group(1)) // 2
            stages[stage] = max(stages.get(stage, 0), int(found.group(2)) + 1)
    tables = [shapes[f"AL.features.{2 * stage + 1}.0.attn.relative_position_bias_table"] for stage in sorted(stages)]
    return {
        "image_size": IMAGE_SIDE,
        "patch_size": patch,
        "embed_dim": width,
        "depths": [stages[stage] for stage in sorted(stages)],
        "num_heads": [heads for _, heads in tables],
        "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
        "mlp_ratio": shapes["AL.features.1.0.mlp.0.weight"][0] / width,
    }


def _swin_state(tensors: Mapping[str, Tensor], window: int) -> list[tuple[str, Tensor]]:
    """Names and tensors as in published Swin checkpoints of transformers."""
    state: list[tuple[str, Tensor]] = []
    for name, value in tensors.items():
        if not name.startswith("AL."):
            continue
        name = name.removeprefix("AL.")
        if name.startswith("norm."):
            state.append((f"layernorm.{name.removeprefix('norm.')}", value))
            continue
        _, place, rest = name.split(".", 2)
        stage = (int(place) - 1) // 2
        if place == "0":
            layer, kind = rest.split(".")
            state.append((f"embeddings.{'patch_embeddings.projection' if layer == '0' else 'norm'}.{kind}", value))
        elif int(place) % 2 == 0:  # patch merging, which transformers counts to the stage before it
            state.append((f"encoder.layers.{stage}.downsample.{rest}", value))
        else:
            number, layer = rest.split(".", 1)
            state += _swin_block(f"encoder.layers.{stage}.blocks.{number}", layer, value, window)
    return state


def _swin_block(block: str, layer: str, value: Tensor, window: int) -> list[tuple[str, Tensor]]:
    if layer == "attn.relative_position_index":
        if not torch.equal(value.flatten(), _relative_position_index(window)):
            raise ValueError(f"{block} counts relative positions in another order")
        return []
    if layer == "attn.relative_position_bias_table":
        return [(f"{block}.attention.self.relative_position_bias_table", value)]
    layer, kind = layer.rsplit(".", 1)
    if layer == "attn.qkv":  # one matrix for all three
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return [(f"{block}.attention.self.{part}.{kind}", each) for part, each in parts]
    return [(f"{block}.{_BLOCK[layer]}.{kind}", value)]


def _relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every two positions of a window (window⁴,), as both libraries count them."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = row.flatten(), column.flatten()
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return (down * (2 * window - 1) + right).flatten()
