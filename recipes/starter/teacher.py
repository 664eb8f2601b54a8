"""What two ImageNet classifiers (MobileNetV2 and V1, Apache-2.0) say about any crop of any photo.

Their files hold 8-bit integers for TensorFlow Lite. Here they are dequantised into transformers' networks, so that
they answer on a GPU as fast as a student asks, and no crop has to be seen twice. Of the first teacher two inner layers
are asked for as well, place by place: a target for every part of a photo teaches much faster than one for all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MobileNetV1Config, MobileNetV1Model, MobileNetV2Config, MobileNetV2Model

CLASSES = 1001
WIDTH = 1280 + 768  # of both pooled features
MAPS = (96, 320)  # channels of the inner layers
SIDES = 224, 192  # of the two networks' inputs
FILES = "mobilenet_v2_1.0_224_quant.tflite", "mobilenet_v1_0.75_192_quant.tflite"
BLOCKS = 11, 15  # of the first network, whose outputs the inner layers are
CENTRE = 128 / 255  # the quantised input's zero point, and its half range
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


class Answer(NamedTuple):
    """`embedding`: (B, WIDTH), of both networks. `logits`: (B, CLASSES), their mean. `maps`: (B, channels, h, w)."""

    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...]


class Teachers(nn.Module):
    """Both networks with their last layers."""

    def __init__(self) -> None:
        super().__init__()
        common = {"tf_padding": True, "layer_norm_eps": 0.001}
        self.second = MobileNetV2Model(MobileNetV2Config(image_size=SIDES[0], **common))
        self.first = MobileNetV1Model(MobileNetV1Config(image_size=SIDES[1], depth_multiplier=0.75, **common))
        self.heads = nn.ModuleList([nn.Linear(1280, CLASSES), nn.Linear(768, CLASSES)])
        for layer in self.modules():
            if getattr(layer, "normalization", None) is not None:  # the files have it folded into the convolution
                layer.convolution.bias = nn.Parameter(torch.zeros(layer.convolution.out_channels))
                layer.normalization = None

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Answer:
        """Of crops (B, 3, h, w) in 0..1, stretched to what each network looks at."""
        inputs = [
            ((functional.interpolate(pixels, side, mode="bilinear", antialias=True) - CENTRE) / CENTRE).contiguous(
                memory_format=torch.channels_last
            )
            for side in SIDES
        ]
        second = self.second(inputs[0], output_hidden_states=True)
        pooled = [second.pooler_output, self.first(inputs[1]).pooler_output]
        pooled = [each.flatten(1) for each in pooled]
        logits = [head(feature) for head, feature in zip(self.heads, pooled, strict=True)]
        maps = tuple(second.hidden_states[block] for block in BLOCKS)
        return Answer(torch.cat(pooled, 1), (logits[0] + logits[1]) / 2, maps)


def load_teachers(data: Path, work: Path) -> Teachers:
    """From the files of DATA/weights, which only TensorFlow Lite's interpreter reads; kept for machines without it."""
    kept = work / "teachers.pt"
    teachers = Teachers()
    if not kept.exists():
        for network, head, file in (
            (teachers.second, teachers.heads[0], FILES[0]),
            (teachers.first, teachers.heads[1], FILES[1]),
        ):
            _fill(network, head, data / "weights" / file)
        torch.save({key: value.half() for key, value in teachers.state_dict().items()}, kept)
    teachers.load_state_dict(torch.load(kept, weights_only=True))
    return teachers.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def _fill(network: nn.Module, head: nn.Linear, file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    scales = {detail["index"]: detail["quantization"] for detail in interpreter.get_tensor_details()}

    def dequantised(index: int) -> np.ndarray:
        scale, zero = scales[index]
        return (interpreter.get_tensor(index).astype(np.float32) - zero) * scale

    # `_get_ops_details` is how the interpreter tells which tensors an operation reads.
    operations = [op for op in interpreter._get_ops_details() if op["op_name"] in CONVOLUTIONS]
    layers = [*(module for module in network.modules() if isinstance(module, nn.Conv2d)), head]
    for op, layer in zip(operations, layers, strict=True):
        _, kernel_index, bias_index = op["inputs"]
        kernel = dequantised(kernel_index)
        depthwise = op["op_name"] == "DEPTHWISE_CONV_2D"  # (1, h, w, C) → (C, 1, h, w), else (out, h, w, in)
        kernel = kernel.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)).reshape(layer.weight.shape))
        layer.bias.copy_(torch.from_numpy(dequantised(bias_index)))
