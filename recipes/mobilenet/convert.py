"""An int8 MobileNetV2 in TensorFlow Lite as a transformers model: dequantised, batch normalisation folded.

    python recipes/mobilenet/convert.py WEIGHTS.tflite OUT_FOLDER

Every convolution keeps its folded bias in a batch normalisation that is otherwise the identity, so that the
network is the one that transformers knows as `mobilenet_v2`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
CENTRE = 128 / 255  # the quantised input's zero point, and its half range


def convert(weights: Path) -> MobileNetV2ForImageClassification:
    """The network of a `mobilenet_v2_1.0_224` file: 1,001 classes of which the first is the background."""
    interpreter = Interpreter(str(weights))
    interpreter.allocate_tensors()
    scales = {detail["index"]: detail["quantization"] for detail in interpreter.get_tensor_details()}

    def dequantised(index: int) -> np.ndarray:
        scale, zero = scales[index]
        return (interpreter.get_tensor(index).astype(np.float32) - zero) * scale

    # `_get_ops_details` is how the interpreter tells which tensors an operation reads.
    convolutions = [op for op in interpreter._get_ops_details() if op["op_name"] in CONVOLUTIONS]
    model = MobileNetV2ForImageClassification(
        MobileNetV2Config(num_labels=1001, image_size=224, tf_padding=True, layer_norm_eps=0.001)
    ).eval()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if len(convolutions) != len(layers):
        raise SystemExit(f"{weights} has {len(convolutions)} convolutions, MobileNetV2 has {len(layers)}")
    with torch.no_grad():
        for position, (op, layer) in enumerate(zip(convolutions, layers, strict=True)):
            _, kernel_index, bias_index = op["inputs"]
            kernel, bias = dequantised(kernel_index), torch.from_numpy(dequantised(bias_index))
            if op["op_name"] == "DEPTHWISE_CONV_2D":
                kernel = kernel.transpose(3, 0, 1, 2)  # (1, h, w, C) → (C, 1, h, w)
            else:
                kernel = kernel.transpose(0, 3, 1, 2)  # (out, h, w, in) → (out, in, h, w)
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)).reshape(layer.weight.shape))
            if isinstance(layer, nn.Linear):
                layer.bias.copy_(bias)
            else:
                norm = norms[position]
                norm.weight.fill_(1)
                norm.bias.copy_(bias)
                norm.running_mean.fill_(0)
                norm.running_var.fill_(1 - norm.eps)
    return model


def save(model: MobileNetV2ForImageClassification, folder: Path) -> None:
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "resample": 2,
        "image_mean": [CENTRE] * 3,
        "image_std": [CENTRE] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = convert(options.weights)
    save(model, options.out)
    print(f"{options.out}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
