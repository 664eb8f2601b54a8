"""What computes embeddings and level features from pixels: torch, compiled or not, ONNX Runtime or OpenVINO.

Tag matching, the prediction head and the reasons cost little and are computed in torch whatever the backend, so
that all of them explain alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tmcr.encoders import ImageEncoder, ImageTextEncoder, pixel_values
from tmcr.errors import ConfigError, ModelError, first_line
from tmcr.export import EMBEDDING, LEVELS, METADATA, export_info, export_onnx, exported_inputs
from tmcr.features import EncoderUse, Encoding
from tmcr.hardware import Hardware, keep_freed_memory, processors, torch_threads
from tmcr.modelfolder import TrainedModel
from tmcr.preprocess import PreprocessSpec

QUANTIZER = "onnx.quantize"  # what ONNX Runtime's quantiser signs its files with
BackendName = Literal["torch", "compile", "onnx", "openvino"]
# By how many score points each backend and arithmetic may differ from torch in fp32: tests hold the starter to it on
# its golden pictures.
TOLERANCES = {
    ("torch", "fp32"): 1e-3,
    ("torch", "bf16"): 0.05,
    ("compile", "fp32"): 1e-3,
    ("onnx", "fp32"): 1e-3,
    ("onnx", "int8"): 0.2,
    ("openvino", "fp32"): 1e-3,
    ("openvino", "bf16"): 0.05,
    ("openvino", "int8"): 0.2,
}


class Backend(Protocol):
    """Encoders at work: what each of them sees, uint8 (B, H, W, 3) on the CPU → embeddings (B, E), level features
    (B, W).

    Attributes:
        name: one of `BackendName`.
        arithmetic: "fp32", "bf16", or "int8" and the hash of the file; features of one kind may stand in for
            each other.
        own_threads: it keeps the processors busy with threads of its own, not with those that torch has for the
            thread that calls it.
        at_once: calls that are worth making at the same time.
    """

    name: str
    arithmetic: str
    own_threads: bool
    at_once: int

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]: ...


class TorchBackend:
    """The reference.

    On a CPU the photos of a batch are shared out among threads: threads that share each layer instead wait for each
    other at its end, and all for the one that lost its processor to a decoder.
    """

    name = "torch"

    def __init__(self, model: TrainedModel, image_text: ImageTextEncoder, hardware: Hardware) -> None:
        self._hardware = hardware
        self.own_threads = hardware.device.type == "cpu"
        self.at_once = 2 if self.own_threads else 1  # the end of one batch leaves threads for the next
        self._threads = min(torch.get_num_threads(), processors()) if self.own_threads else 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tmcr-encode")
        if self.own_threads:
            keep_freed_memory()
        self.arithmetic = hardware.arithmetic
        self._image_text = image_text.to(hardware.device)
        self._encoder = model.encoder.to(hardware.device).eval() if model.encoder is not None else None

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not self.own_threads:
            return self._encode(tag_pixels, level_pixels)
        count = min(self._threads, len(tag_pixels))
        tags = tag_pixels.tensor_split(count)
        levels = level_pixels.tensor_split(count) if level_pixels is not None else [None] * count
        with torch_threads(self._threads // count):
            pieces = list(self._pool.map(partial(self._encode, threads=self._threads // count), tags, levels))
        features = [piece for _, piece in pieces if piece is not None]
        return torch.cat([piece for piece, _ in pieces]), torch.cat(features) if features else None

    @torch.inference_mode()
    def _encode(
        self, tag_pixels: Tensor, level_pixels: Tensor | None, threads: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if threads is not None:
            torch.set_num_threads(threads)  # counts for the thread that says it
        features = None
        with self._hardware.autocast():
            embedded = self._image_text.encode_images(self._values(tag_pixels, self._image_text.preprocess))
            if self._encoder is not None and level_pixels is not None:
                features = self._encoder(self._values(level_pixels, self._encoder.preprocess)).float()
        return embedded.float(), features

    def _values(self, pixels: Tensor, preprocess: PreprocessSpec) -> Tensor:
        """An encoder's input on the device; a GPU fetches pinned memory while this thread goes on."""
        device = self._hardware.device
        return pixel_values(pixels.to(device, non_blocking=device.type == "cuda"), preprocess)


class _Graph:
    """A tower over what one number of photos shows as a CUDA graph: one launch for all of its kernels."""

    def __init__(self, tower: Callable[[Tensor], Tensor], pixels: Tensor, device: torch.device) -> None:
        self._pixels = pixels.to(device, copy=True)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, and lets libraries take the memory that they keep
                tower(self._pixels)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may wait for the device meanwhile; they are no part of the graph.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._answer = tower(self._pixels).float()

    def __call__(self, pixels: Tensor) -> Tensor:
        self._pixels[: len(pixels)].copy_(pixels, non_blocking=True)
        self._graph.replay()
        return self._answer[: len(pixels)].clone()  # the next replay overwrites the answer


def _compiled(tower: nn.Module, preprocess: PreprocessSpec) -> Callable[[Tensor], Tensor]:
    """A compiled tower that takes what it sees, (B, H, W, 3)."""
    run = torch.compile(tower, dynamic=False)
    return lambda pixels: run(pixel_values(pixels, preprocess))


class CompiledBackend(TorchBackend):
    """Torch with both encoders compiled for this machine; on a GPU, replayed as CUDA graphs.

    Compiling takes minutes on a CPU and is done for one number of photos: fewer are filled up, with zeros or what a
    graph saw before, which changes nothing for the photos in them. It pays for many photos.
    """

    name = "compile"

    def __init__(self, model: TrainedModel, image_text: ImageTextEncoder, hardware: Hardware) -> None:
        super().__init__(model, image_text, hardware)
        self._photos = 0  # of one pass
        self._compiling = threading.Lock()
        self._graphs: dict[Callable[[Tensor], Tensor], _Graph] = {}  # on a GPU, for as many photos
        self._tower = _compiled(image_text.image_tower, image_text.preprocess)
        self._level_tower = _compiled(self._encoder, self._encoder.preprocess) if self._encoder is not None else None

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        photos = -(-len(tag_pixels) // self._threads)
        try:
            with self._compiling:
                if photos > self._photos:
                    self._photos = photos
                    self._graphs.clear()
                    levels = level_pixels[:1] if level_pixels is not None else None
                    with torch_threads(1):
                        self._encode(tag_pixels[:1], levels)  # compiles, once and not in several threads at a time
            return super().__call__(tag_pixels, level_pixels)
        except torch.OutOfMemoryError:
            self._photos = 0  # the fewer photos that come next must not be filled up to as many again
            self._graphs.clear()
            raise

    @torch.inference_mode()
    def _encode(
        self, tag_pixels: Tensor, level_pixels: Tensor | None, threads: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if self.own_threads:
            torch.set_num_threads(1)  # always as compiled: another number would have all of it compiled again
        features = None
        try:
            with self._hardware.autocast():
                embedded = self._compute(self._tower, tag_pixels)
                if self._level_tower is not None and level_pixels is not None:
                    features = self._compute(self._level_tower, level_pixels)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ModelError(
                f"the encoders cannot be compiled here ({first_line(error)}); use the torch backend"
            ) from None
        return embedded, features

    def _compute(self, tower: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        if tower in self._graphs:
            return self._graphs[tower](pixels)
        # Also where nothing is missing: what is made here is of one kind, and only one is compiled.
        filled = torch.cat([pixels, pixels.new_zeros(self._photos - len(pixels), *pixels.shape[1:])])
        if self._hardware.device.type == "cuda":
            self._graphs[tower] = _Graph(tower, filled, self._hardware.device)
            return self._graphs[tower](pixels)
        return tower(filled).float()[: len(pixels)]


class OnnxBackend:
    """ONNX Runtime on an exported file."""

    name = "onnx"
    own_threads = True
    at_once = 1

    def __init__(self, model: TrainedModel, file: Path, hardware: Hardware) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ModelError("the onnx backend needs an extra: pip install 'tmcr[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(torch.get_num_threads(), processors())
        cuda = hardware.device.type == "cuda"
        # By default CUDA rounds the inputs of fp32 products to 10 bits (TF32).
        providers = ([("CUDAExecutionProvider", {"use_tf32": 0})] if cuda else []) + ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # the runtime's own error classes are not public
            raise ModelError(f"{file}: cannot be loaded ({first_line(error)}); export the model again") from None
        self._model = model
        meta = self._session.get_modelmeta()
        _check(meta.custom_metadata_map.get(METADATA), model, file)
        self.arithmetic = _int8(file) if meta.producer_name == QUANTIZER else "fp32"

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        inputs = exported_inputs(self._model, tag_pixels, level_pixels)
        if level_pixels is None:
            return torch.from_numpy(self._session.run([EMBEDDING], inputs)[0]), None
        embeddings, features = self._session.run([EMBEDDING, LEVELS], inputs)
        return torch.from_numpy(embeddings), torch.from_numpy(features)


class OpenVinoBackend:
    """OpenVINO on an exported file; on Intel and AMD processors often the fastest."""

    name = "openvino"
    own_threads = True
    at_once = 1

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
            settings: dict[str, Any] = {
                "INFERENCE_NUM_THREADS": min(torch.get_num_threads(), processors()),
                "PERFORMANCE_HINT": "LATENCY",
            }
            if not hardware.bf16:
                settings["INFERENCE_PRECISION_HINT"] = "f32"
            quantised = any(node.get_type_name() == "FakeQuantize" for node in network.get_ops())
            self.arithmetic = _int8(file) if quantised else hardware.arithmetic
            self._network = core.compile_model(network, "CPU", settings)
            self._model = model
        except RuntimeError as error:
            raise ModelError(f"{file}: cannot be loaded ({first_line(error)}); export the model again") from None

    def __call__(self, tag_pixels: Tensor, level_pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        found = self._network(exported_inputs(self._model, tag_pixels, level_pixels))
        embeddings = torch.from_numpy(np.array(found[EMBEDDING]))
        return embeddings, torch.from_numpy(np.array(found[LEVELS])) if level_pixels is not None else None


def open_backend(
    name: str, model: TrainedModel, image_text: ImageTextEncoder, hardware: Hardware, exported: Path | None = None
) -> Backend:
    """The backend called `name`.

    Args:
        exported: file that `tmcr export` wrote; by default the model is exported once into the cache folder.

    Raises:
        ConfigError: no such backend, or one that reads no files.
        ModelError: the backend is not installed, or the file is another model's.
    """
    if name in ("torch", "compile"):
        if exported is not None:
            raise ConfigError(
                f"{exported}: exported files are for the onnx and openvino backends; name one (--backend)"
            )
        return (TorchBackend if name == "torch" else CompiledBackend)(model, image_text, hardware)
    kinds: dict[str, Callable[[TrainedModel, Path, Hardware], Backend]] = {
        "onnx": OnnxBackend,
        "openvino": OpenVinoBackend,
    }
    if name not in kinds:
        raise ConfigError(f"no backend {name!r}; there are torch, compile, {', '.join(kinds)}")
    file = exported or default_export(model)
    if not file.is_file():
        if exported is not None:
            raise ModelError(f"{file}: no such file; 'tmcr export' makes one")
        export_onnx(model, image_text.image_tower, file)
    return kinds[name](model, file, hardware)


def encoding_of(model: TrainedModel, arithmetic: str | None = None) -> Encoding:
    """What the features of `model`'s photos depend on; see `tmcr.features.Encoding`."""
    source, level = model.image_text, model.encoder
    return Encoding(
        EncoderUse(source.fingerprint, source.preprocess, model.text.shape[1]),
        EncoderUse(_weights_hash(level), level.preprocess, level.width) if level is not None else None,
        arithmetic,
    )


def default_export(model: TrainedModel) -> Path:
    """Where a model's exported file is kept: the user's cache folder, by the model's hash."""
    base = os.environ.get("TMCR_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tmcr")
    return Path(base).expanduser() / "exports-2" / f"{model.hash[:24]}.onnx"


def _weights_hash(encoder: ImageEncoder) -> str:
    """Hash of an encoder's architecture and weights."""
    digest = hashlib.sha256(json.dumps(encoder.config["model"], sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _int8(file: Path) -> str:
    """What tells 8-bit files of one model apart: their ranges come from the photos they were calibrated on."""
    with file.open("rb") as opened:
        return f"int8 {hashlib.file_digest(opened, 'sha256').hexdigest()[:12]}"


def _check(metadata: str | None, model: TrainedModel, file: Path) -> None:
    info = export_info(metadata, file)
    if info.model_hash != model.hash:
        raise ModelError(
            f"{file}: was exported from {info.model} {info.model_hash[:12]}, not from {model.name} {model.hash[:12]}; "
            "export the model again"
        )
