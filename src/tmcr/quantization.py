"""An exported model in 8-bit integers: smaller, faster and a little wrong; how wrong is measured before it is kept."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.assessor import Assessor
from tmcr.datasets import load_manifest
from tmcr.datasets.manifest import Manifest
from tmcr.errors import DataError, ImageError, ModelError, first_line
from tmcr.evaluation import evaluate_assessor
from tmcr.export import EMBEDDING, LEVEL_PIXELS, LEVELS, METADATA, TAG_PIXELS, export_onnx
from tmcr.images import decode
from tmcr.metrics import Interval, paired_difference, srcc
from tmcr.wording import counted

Pixels = Mapping[str, NDArray[np.float32]]
_LAYERS = ["Conv", "MatMul", "Gemm"]
_BATCH = 16


@dataclass(frozen=True)
class Int8Outcome:
    """What 8 bits cost on the test part of the data.

    Attributes:
        srcc, srcc_int8: rank correlation with the ratings in floating point and in 8 bits.
        change: their difference with its interval, paired by photo.
        agreement: rank correlation of the two models' scores. worst: largest difference of a score, in points.
        photos: number of test photos. kept: whether the loss is within what was allowed.
    """

    srcc: float
    srcc_int8: float
    change: Interval
    agreement: float
    worst: float
    photos: int
    kept: bool

    def describe(self) -> str:
        fate = "written" if self.kept else "not written: it loses more than allowed (--max-loss)"
        return (
            f"int8 on {counted(self.photos, 'test photo')}: "
            f"SRCC {self.srcc_int8:.4f} against {self.srcc:.4f} in floating point, "
            f"{self.change.value:+.4f} (95 % interval {self.change.low:+.4f} to {self.change.high:+.4f}); "
            f"scores agree to SRCC {self.agreement:.4f}, at worst {self.worst:.2f} points apart; {fate}"
        )


def export_int8(assessor: Assessor, data: str, out: Path, *, photos: int, max_loss: float) -> Int8Outcome:
    """Quantise `assessor`'s model to `out` where that costs at most `max_loss` of SRCC on the data's test part.

    Args:
        data: SPEC; `photos` of its training part calibrate the ranges.

    Raises:
        DataError: the data lacks a training or a test part.
        ModelError: the model cannot be exported or quantised.
    """
    manifest = load_manifest(data)
    missing = [part for part in ("train", "test") if part not in manifest.splits]
    if missing:
        raise DataError(f"{manifest.description}: no photo is marked {missing[0]!r}; int8 needs train and test parts")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        exact, small = Path(folder) / "exact.onnx", Path(folder) / out.name
        export_onnx(assessor.model, assessor.image_text.image_tower, exact)
        quantize_onnx(exact, small, _calibration(assessor, manifest, photos))
        reference = evaluate_assessor(assessor, manifest, "test", resamples=0, allow_leakage=True)
        quantised = evaluate_assessor(
            assessor.with_backend("onnx", small), manifest, "test", resamples=0, allow_leakage=True
        )
        change = paired_difference(srcc, quantised.predicted, reference.predicted, reference.true)
        kept = change.value >= -max_loss
        if kept:
            small.replace(out)
    return Int8Outcome(
        srcc=srcc(reference.predicted, reference.true),
        srcc_int8=srcc(quantised.predicted, quantised.true),
        change=change,
        agreement=srcc(quantised.predicted, reference.predicted),
        worst=float(np.abs(quantised.predicted - reference.predicted).max()),
        photos=len(reference.true),
        kept=kept,
    )


def _calibration(assessor: Assessor, manifest: Manifest, photos: int) -> Iterator[Pixels]:
    """Batches of pixels of the first readable training photos in a fixed random order."""
    train = manifest.part("train")
    order = np.random.default_rng(0).permutation(len(train))
    for_tags = assessor.model.image_text.preprocess
    for_levels = assessor.model.encoder.preprocess if assessor.model.encoder is not None else None
    side = max(for_tags.target_side, for_levels.target_side if for_levels else 0)
    images = []
    for row in order:
        with contextlib.suppress(ImageError):
            images.append(decode(train.paths[row], target_side=side))
        if len(images) == photos:
            break
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        pixels = {TAG_PIXELS: np.stack([for_tags(image) for image in batch])}
        if for_levels is not None:
            pixels[LEVEL_PIXELS] = np.stack([for_levels(image) for image in batch])
        yield pixels


def quantize_onnx(source: Path, out: Path, photos: Iterator[Pixels]) -> None:
    """Write `source` with 8-bit weights and activations to `out`.

    Ranges of activations are calibrated on `photos`, batches of the exported file's inputs. Weights are quantised
    channel by channel. What `_kept_exact` names stays in floating point.

    Raises:
        ModelError: the quantiser is not installed, or fails.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ModelError(f"int8 needs an extra ({error.name} is missing): pip install 'tmcr[onnx]'") from None

    class Reader(CalibrationDataReader):
        def get_next(self) -> Pixels | None:
            return next(photos, None)

    graph = onnx.load(str(source), load_external_data=False)
    kept = [entry for entry in graph.metadata_props if entry.key == METADATA]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder, _quiet():
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / out.name
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(written),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                op_types_to_quantize=_LAYERS,
                nodes_to_exclude=_kept_exact(str(prepared)),
            )
        except Exception as error:  # the quantiser raises whatever its parts raise
            raise ModelError(f"{source}: cannot be quantised ({first_line(error)}); use it as it is") from None
        done = onnx.load(str(written))
        if not any(entry.key == METADATA for entry in done.metadata_props):
            done.metadata_props.extend(kept)
            onnx.save(done, str(written))
        written.replace(out)


def _kept_exact(file: str) -> list[str]:
    """Names of the layers that stay in floating point: each encoder's first two, and all behind the encoders.

    They are few and cheap. The first rounds the pixels, whose range is wide: with it in 8 bits, scores of the starter
    were off by several times as much. The second rounds what is still as large as a picture, and rounding that takes
    as long as its product. What comes behind, tag matching and head, decides the score.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    constants = {value.name for value in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def layers_from(values: Iterable[str], *, further: bool) -> list[Any]:
        """The layers that values come to before any other layer or sum, and with `further` all of those after."""
        found: dict[str, Any] = {}
        waiting, seen = list(values), set(values)
        while waiting:
            for node in readers.get(waiting.pop(), []):
                if node.op_type == "Shape":  # how many photos there are reaches everywhere
                    continue
                layer = node.op_type in _LAYERS
                if layer:
                    found[node.name] = node
                around = node.op_type == "Add" and not constants & set(node.input)  # the way around a block
                if further or not (layer or around):
                    waiting += [name for name in node.output if name not in seen]
                    seen.update(node.output)
        return list(found.values())

    first = layers_from([TAG_PIXELS, LEVEL_PIXELS], further=False)
    second = layers_from([name for node in first for name in node.output], further=False)
    behind = layers_from([EMBEDDING, LEVELS], further=True)
    return sorted({node.name for node in (*first, *second, *behind)})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
