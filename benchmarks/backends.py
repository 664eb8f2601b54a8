"""Encoding in bf16, in int8, by ONNX Runtime, by OpenVINO and by torch.compile, against fp32 in eager torch.

Photos per second of both encoders over pixels that are ready, and the largest change of a score.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import device_name, encode, large_assessor, on_gpu, prepared_photos, scores, usual_batch
from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, Skipped, result
from benchmarks.timing import alternated
from tmcr.assessor import Assessor, load
from tmcr.backends import OnnxBackend, OpenVinoBackend
from tmcr.errors import TmcrError
from tmcr.export import export_onnx, exported_inputs
from tmcr.hardware import Hardware
from tmcr.preparation import Prepared
from tmcr.quantization import quantize_onnx

BATCH = 16
EXACT = "fp32 eager"  # what the others are held against
CALIBRATION = 64  # photos, none of them measured


def measure(quick: bool) -> Iterator[Result]:
    gpu = torch.cuda.is_available()
    count = (512 if quick else 2048) if gpu else 32 if quick else 128
    yield from bundled(count=count, rounds=2 if quick else 7, calibration=16 if quick else CALIBRATION)
    yield from large(count=(64 if quick else 256) if gpu else 1 if quick else 2, rounds=1 if quick else 3)


def bundled(*, count: int, rounds: int, calibration: int) -> Iterator[Result]:
    """The bundled model by every way that this machine has."""
    assessor = load("starter", precision="fp32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_photos(folder / "photos", count + calibration, SMALL)
        prepared = prepared_photos(assessor, files)
        prepared, held_back = prepared[:count], prepared[count:]
        batch = usual_batch(assessor, BATCH)
        ways: dict[str, Assessor] = {}
        for way, build in _builders(assessor, folder, held_back).items():
            try:
                ways[way] = build()
                encode(ways[way], prepared[:batch], batch)
            except (Skipped, TmcrError, RuntimeError) as why:
                ways.pop(way, None)
                yield Result(f"{way}", note=f"skipped: {str(why).splitlines()[0][:160]}")
        steps = {way: partial(encode, each, prepared, batch) for way, each in ways.items()}
        seconds = alternated(steps, rounds=rounds)
        exact = np.array(scores(assessor, prepared, batch))
        for way, each in ways.items():
            rate = seconds[way].rate(count)
            change = np.abs(np.array(scores(each, prepared, batch)) - exact)
            ratio = rate.over(seconds[EXACT].rate(count)) if way != EXACT else None
            yield result(
                way, rate, "photos/s", ratio=ratio, to=EXACT if ratio else "", photos=count,
                threads=torch.get_num_threads(), device=device_name(each),
                note=f"bundled model, {origin()}, batches of {batch}; max |Δscore| {change.max():.2g}",
            )  # fmt: skip


def _builders(assessor: Assessor, folder: Path, held_back: Sequence[Prepared]) -> dict[str, Callable[[], Assessor]]:
    exact, small = folder / "exact.onnx", folder / "int8.onnx"

    def exported() -> Path:
        if not exact.exists():
            export_onnx(assessor.model, assessor.image_text.image_tower, exact)
        return exact

    def quantised() -> Path:
        if not small.exists():
            quantize_onnx(exported(), small, _batches(assessor, held_back))
        return small

    def by(backend: type[OnnxBackend] | type[OpenVinoBackend], file: Callable[[], Path]) -> Callable[[], Assessor]:
        def build() -> Assessor:
            if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
                raise Skipped(f"{missing[0]} is not installed")
            on_cpu = Hardware(torch.device("cpu"), bf16=False, photo_workers=assessor.hardware.photo_workers)
            return Assessor(
                assessor.model, assessor.image_text, on_cpu, backend=backend(assessor.model, file(), on_cpu)
            )

        return build

    ways: dict[str, Callable[[], Assessor]] = {
        EXACT: lambda: assessor,
        "bf16": lambda: load("starter", precision="bf16"),
        "torch.compile": lambda: assessor.with_backend("compile"),
    }
    if on_gpu(assessor):  # the others are of this machine's processors
        return ways | {"torch.compile, bf16": lambda: load("starter", precision="bf16", backend="compile")}
    return ways | {
        "ONNX Runtime": by(OnnxBackend, exported),
        "ONNX Runtime int8": by(OnnxBackend, quantised),
        "OpenVINO": by(OpenVinoBackend, exported),
        "OpenVINO int8": by(OpenVinoBackend, quantised),
    }


def large(*, count: int, rounds: int) -> Iterator[Result]:
    """bf16 where it should pay: large transformers. Weights are random, so its effect on scores says nothing."""
    with tempfile.TemporaryDirectory() as name:
        files = write_photos(Path(name), count, SMALL)
        exact = large_assessor()
        prepared = prepared_photos(exact, files)
    hardware = Hardware(exact.hardware.device, bf16=True, photo_workers=exact.hardware.photo_workers)
    half = Assessor(exact.model, exact.image_text, hardware)
    batch = min(64 if on_gpu(exact) else 4, count)
    ways = {EXACT: exact, "bf16": half}
    if on_gpu(exact):
        ways["torch.compile, bf16"] = half.with_backend("compile")
    steps = {way: partial(encode, each, prepared, batch) for way, each in ways.items()}
    seconds = alternated(steps, rounds=rounds)
    for way in list(ways)[1:]:
        rate = seconds[way].rate(count)
        yield result(
            f"{way}, {exact.name}", rate, "photos/s", ratio=rate.over(seconds[EXACT].rate(count)),
            to=EXACT, photos=count, threads=torch.get_num_threads(), device=device_name(exact),
            note=f"random weights, batches of {batch}",
        )  # fmt: skip


def _batches(assessor: Assessor, photos: Sequence[Prepared]) -> Iterator[dict[str, NDArray[np.float32]]]:
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        tags, levels = (
            torch.from_numpy(np.stack([pixels for pixels in seen if pixels is not None]))
            for seen in ([each.for_tags for each in batch], [each.for_levels for each in batch])
        )
        yield exported_inputs(assessor.model, tags, levels)
