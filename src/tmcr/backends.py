"""What computes embeddings and level features from pixels: torch, ONNX Runtime or OpenVINO.

Tag matching, the prediction head and the reasons cost little and are computed in torch whatever the backend, so
that all of them explain alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from tmcr.encoders import ImageTextEncoder
from tmcr.errors import ConfigError, ModelError
from tmcr.export import EMBEDDING, LEVEL_PIXELS, LEVELS, METADATA, TAG_PIXELS, export_info, export_onnx
from tmcr.hardware import Hardware
from tmcr.modelfolder import TrainedModel

BackendName = Literal["torch", "onnx", "openvino"]


class Backend(Protocol):
    """Encoders at work: pixels for both, (B, 3, H, W) on the CPU → embeddings (B, E), level features (B, W)."""

    name: str

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]: ...


class TorchBackend:
    """The reference."""

    name = "torch"

    def __init__(self, model: TrainedModel, image_text: ImageTextEncoder, hardware: Hardware) -> None:
        self._hardware = hardware
        self._image_text = image_text.to(hardware.device)
        self._encoder = model.encoder.to(hardware.device).eval() if model.encoder is not None else None

    @torch.inference_mode()
    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        device = self._hardware.device
        features = None
        with self._hardware.autocast():
            embedded = self._image_text.encode_images(tag_pixels.to(device))
            if self._encoder is not None and level_pixels is not None:
                features = self._encoder(level_pixels.to(device)).float()
        return embedded.float(), features


class OnnxBackend:
    """ONNX Runtime on an exported file."""

    name = "onnx"

    def __init__(self, model: TrainedModel, file: Path, hardware: Hardware) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ModelError("the onnx backend needs an extra: pip install 'tmcr[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        cuda = hardware.device.type == "cuda"
        providers = (["CUDAExecutionProvider"] if cuda else []) + ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # the runtime's own error classes are not public
            raise ModelError(f"{file}: cannot be loaded ({_first_line(error)}); export the model again") from None
        _check(self._session.get_modelmeta().custom_metadata_map.get(METADATA), model, file)

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inputs = {TAG_PIXELS: tag_pixels.numpy()}
        if level_pixels is None:
            return torch.from_numpy(self._session.run([EMBEDDING], inputs)[0]), None
        embeddings, features = self._session.run([EMBEDDING, LEVELS], inputs | {LEVEL_PIXELS: level_pixels.numpy()})
        return torch.from_numpy(embeddings), torch.from_numpy(features)


class OpenVinoBackend:
    """OpenVINO on an exported file; on Intel and AMD processors often the fastest."""

    name = "openvino"

    def __init__(self, model: TrainedModel, file: Path, hardware: Hardware) -> None:
        try:
            import openvino
        except ImportError:
            raise ModelError("the openvino backend needs an extra: pip install 'tmcr[openvino]'") from None
        core = openvino.Core()
        try:
            network = core.read_model(str(file))
            place = ["framework", METADATA]  # where OpenVINO puts an ONNX file's metadata
            info = network.get_rt_info(place).astype(str) if network.has_rt_info(place) else None
            _check(info, model, file)
            settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
            if not hardware.bf16:
                settings["INFERENCE_PRECISION_HINT"] = "f32"
            self._network = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"{file}: cannot be loaded ({_first_line(error)}); export the model again") from None

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inputs = {TAG_PIXELS: tag_pixels.numpy()}
        if level_pixels is not None:
            inputs[LEVEL_PIXELS] = level_pixels.numpy()
        found = self._network(inputs)
        embeddings = torch.from_numpy(np.array(found[EMBEDDING]))
        return embeddings, torch.from_numpy(np.array(found[LEVELS])) if level_pixels is not None else None


def open_backend(
    name: str, model: TrainedModel, image_text: ImageTextEncoder, hardware: Hardware, exported: Path | None = None
) -> Backend:
    """The backend called `name`.

    Args:
        exported: file that `tmcr export` wrote; by default the model is exported once into the cache folder.

    Raises:
        ConfigError: no such backend.
        ModelError: the backend is not installed, or the file is another model's.
    """
    if name == "torch":
        return TorchBackend(model, image_text, hardware)
    kinds: dict[str, Callable[[TrainedModel, Path, Hardware], Backend]] = {
        "onnx": OnnxBackend,
        "openvino": OpenVinoBackend,
    }
    if name not in kinds:
        raise ConfigError(f"no backend {name!r}; there are torch, {', '.join(kinds)}")
    file = exported or default_export(model)
    if not file.is_file():
        if exported is not None:
            raise ModelError(f"{file}: no such file; 'tmcr export' makes one")
        export_onnx(model, image_text.image_tower, file)
    return kinds[name](model, file, hardware)


def default_export(model: TrainedModel) -> Path:
    """Where a model's exported file is kept: the user's cache folder, by the model's hash."""
    base = os.environ.get("TMCR_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tmcr")
    return Path(base).expanduser() / "exports" / f"{model.hash[:24]}.onnx"


def _check(metadata: str | None, model: TrainedModel, file: Path) -> None:
    info = export_info(metadata, file)
    if info.model_hash != model.hash:
        raise ModelError(
            f"{file}: was exported from {info.model} {info.model_hash[:12]}, not from {model.name} {model.hash[:12]}; "
            "export the model again"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
