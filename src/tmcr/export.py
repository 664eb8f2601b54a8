"""A whole model as one ONNX file: pixels in; distribution, tag similarities, embedding and level features out."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tmcr.encoders import ImageEncoder, ImageTower, pixel_values
from tmcr.errors import ModelError, first_line
from tmcr.hardware import processors, torch_threads
from tmcr.matching import match
from tmcr.modelfolder import TrainedModel
from tmcr.network import PredictionHead

OPSET = 18
FORMAT = 2  # raised when inputs or outputs change
METADATA = "tmcr"  # key of the file's metadata that says which model it is
LARGEST_FILE = 1_900_000_000  # bytes; a protocol buffer ends at 2 GiB, so that larger weights go beside it
TAG_PIXELS, LEVEL_PIXELS = "tag_pixels", "level_pixels"
# Names that the exporter gives to no value of its own: of two values of one name, none can be loaded.
DISTRIBUTION, SIMILARITIES, EMBEDDING, LEVELS = "distribution", "similarities", "photo_embedding", "level_features"


class WholeModel(nn.Module):
    """Pixels for the image–text encoder and, where there is one, for the image encoder → the outputs."""

    text: Tensor

    def __init__(self, tower: ImageTower, text: Tensor, encoder: ImageEncoder | None, head: PredictionHead) -> None:
        super().__init__()
        self.tower, self.encoder, self.head = tower, encoder, head
        self.register_buffer("text", text)

    def forward(self, tag_pixels: Tensor, level_pixels: Tensor | None = None) -> tuple[Tensor, ...]:
        embedding = self.tower(tag_pixels)
        similarities = match(embedding, self.text)
        if self.encoder is None or level_pixels is None:
            return self.head(similarities, None).softmax(1), similarities, embedding
        features = self.encoder(level_pixels)
        return self.head(similarities, features).softmax(1), similarities, embedding, features


def exported_inputs(
    model: TrainedModel, tag_pixels: Tensor, level_pixels: Tensor | None
) -> dict[str, NDArray[np.float32]]:
    """What the file takes, by name, of what the encoders see: uint8 (B, H, W, 3)."""
    with torch_threads(processors()):  # those of a runtime have nothing to do before
        inputs = {TAG_PIXELS: pixel_values(tag_pixels, model.image_text.preprocess).contiguous().numpy()}
        if level_pixels is not None and model.encoder is not None:
            inputs[LEVEL_PIXELS] = pixel_values(level_pixels, model.encoder.preprocess).contiguous().numpy()
    return inputs


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file says of itself in its metadata, so that it is never used with another model."""

    format: int
    model: str
    model_hash: str
    score_values: list[float]
    tag_preprocess: dict[str, Any]
    level_preprocess: dict[str, Any] | None


def export_onnx(model: TrainedModel, tower: ImageTower, out: Path) -> None:
    """Write `out` (and, beyond 2 GiB, its weights beside it); a file that is there is replaced once all is written.

    Raises:
        ModelError: the exporter is not installed, or cannot express this model.
    """
    try:
        import onnx  # torch's exporter needs both, and says so in many lines
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"exporting needs an extra ({error.name} is missing): pip install 'tmcr[onnx]'") from None
    whole = WholeModel(tower, model.text, model.encoder, model.head).float().cpu().eval()
    side = model.image_text.preprocess.size
    example: tuple[Tensor, ...] = (torch.zeros(2, 3, side, side),)
    names, outputs = [TAG_PIXELS], [DISTRIBUTION, SIMILARITIES, EMBEDDING]
    if model.encoder is not None:
        side = model.encoder.preprocess.size
        example = (*example, torch.zeros(2, 3, side, side))
        names.append(LEVEL_PIXELS)
        outputs.append(LEVELS)
    batch = torch.export.Dim("batch", min=1, max=4096)
    out.parent.mkdir(parents=True, exist_ok=True)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                whole,
                example,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=tuple({0: batch} for _ in example),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors are of many kinds; each means that it cannot express the model
        raise ModelError(f"{model.name} cannot be exported ({first_line(error)}); use the torch backend") from None
    finally:
        quiet.setLevel(level)
    if program is None:
        raise ModelError(f"{model.name} cannot be exported: the exporter gave nothing; use the torch backend")
    info = ExportInfo(
        FORMAT,
        model.name,
        model.hash,
        [round(float(value), 6) for value in model.score_values],
        model.image_text.preprocess.to_dict(),
        model.encoder.preprocess.to_dict() if model.encoder is not None else None,
    )
    program.model.metadata_props[METADATA] = json.dumps(asdict(info))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        written = Path(folder) / out.name
        program.save(str(written), external_data=_size(whole) > LARGEST_FILE)
        try:
            onnx.checker.check_model(str(written))
        except onnx.checker.ValidationError as error:
            raise ModelError(f"{model.name}: its export is no valid ONNX ({first_line(error)}); use torch") from None
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights beside the graph come first
            file.replace(out.parent / file.name)


def _size(module: nn.Module) -> int:
    """Bytes of a module's weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def export_info(metadata: str | None, path: Path) -> ExportInfo:
    """The info in a file's metadata.

    Raises:
        ModelError: there is none.
    """
    try:
        info = ExportInfo(**json.loads(metadata or ""))
        if info.format != FORMAT:
            raise ValueError
        return info
    except (ValueError, TypeError):
        raise ModelError(f"{path}: was not written by this version's 'tmcr export'; export the model again") from None
