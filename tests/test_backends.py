"""Every backend answers as torch does, and none is used with a model that it was not exported from."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from hostile_photos import scene
from rated_photos import write_rated_photos
from test_starter import GOLDEN, pictures

import tmcr
import tmcr.images
from tmcr.assessor import Assessor
from tmcr.backends import TOLERANCES, default_export, open_backend
from tmcr.damage import write_demo_photos
from tmcr.encoders import load_image_encoder, load_image_text_encoder
from tmcr.errors import ConfigError, ModelError
from tmcr.export import LEVEL_PIXELS, TAG_PIXELS, export_onnx, exported_inputs
from tmcr.hardware import Hardware
from tmcr.network import HeadConfig, PredictionHead
from tmcr.quantization import _LAYERS, _kept_exact, export_int8, quantize_onnx
from tmcr.scoring.pipeline import _Encoder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
WITH_OPENVINO = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
OTHERS = ["onnx", pytest.param("openvino", marks=WITH_OPENVINO)]
WAYS = [
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("compile", "fp32"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    pytest.param("openvino", "fp32", marks=WITH_OPENVINO),
    pytest.param("openvino", "bf16", marks=WITH_OPENVINO),
    pytest.param("openvino", "int8", marks=WITH_OPENVINO),
]


@pytest.fixture(scope="module")
def reference() -> Assessor:
    return tmcr.load("starter", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def exported(reference: Assessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "deep" / "starter.onnx"
    export_onnx(reference.model, reference.image_text.image_tower, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # nothing half-written stays
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        scene(300 + 40 * number, 240, seed=number).save(folder / f"{number}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def small(reference: Assessor, exported: Path) -> Path:
    """The exported file in 8 bits, calibrated on real photos, as a user's would be, and on damaged copies of them."""
    prepared = [reference.prepare(path) for path in write_demo_photos(exported.parent / "calibration")]
    tags = torch.from_numpy(np.stack([photo.for_tags for photo in prepared]))
    levels = torch.from_numpy(np.stack([photo.for_levels for photo in prepared]))
    pixels = exported_inputs(reference.model, tags, levels)
    quantize_onnx(exported, exported.with_name("small.onnx"), iter([pixels]))
    return exported.with_name("small.onnx")


@pytest.fixture
def captured_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without the minutes of making code: the graph is captured, and run as it is."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_(module, backend="eager", dynamic=False))


@pytest.mark.parametrize(("name", "arithmetic"), WAYS)
def test_golden_scores(
    name: str, arithmetic: str, reference: Assessor, exported: Path, small: Path, captured_only: None
) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert reference.model.hash == golden["model"], "another starter: record its scores (tests/test_starter.py)"
    hardware = Hardware(torch.device("cpu"), bf16=arithmetic == "bf16", photo_workers=0)
    file = None if name in ("torch", "compile") else small if arithmetic == "int8" else exported
    backend = open_backend(name, reference.model, reference.image_text, hardware, file)
    assert backend.arithmetic.split()[0] == arithmetic
    assessor = Assessor(reference.model, reference.image_text, hardware, backend=backend)
    verdicts = dict(zip(pictures(), assessor.assess_many(pictures().values()), strict=True))
    expected = {name: verdict["score"] for name, verdict in golden["verdicts"].items()}
    found = {name: verdicts[name].score for name in expected}
    assert found == pytest.approx(expected, abs=TOLERANCES[name, arithmetic])
    if arithmetic != "fp32":  # it is what it says: not fp32 in disguise
        assert found != pytest.approx(expected, abs=1e-5)


def test_a_compiled_backend_fills_smaller_batches_up(reference: Assessor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def fake(module: torch.nn.Module, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
        assert options == {"dynamic": False}
        return lambda pixels: sizes.append(len(pixels)) or module(pixels)

    monkeypatch.setattr(torch, "compile", fake)
    compiled = reference.with_backend("compile")
    photos = [scene(200, 160, seed=number) for number in range(7)]
    found = list(compiled.assess_many(photos, batch_size=3))
    share = -(-3 // torch.get_num_threads())  # of a batch, for each thread
    assert set(sizes) == {share}
    passes = sum(min(torch.get_num_threads(), batch) for batch in (3, 3, 1))
    assert len(sizes) == 2 * (1 + passes)  # both encoders; once to compile
    assert [verdict.score for verdict in found] == pytest.approx(
        [verdict.score for verdict in reference.assess_many(photos)], abs=1e-5
    )
    embeddings, _ = compiled.features([reference.prepare(photos[0])])
    assert len(embeddings) == 1

    def fails(module: torch.nn.Module, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(pixels: torch.Tensor) -> torch.Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no compiler\nand many lines")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ModelError, match=r"cannot be compiled here \(no compiler\); use the torch backend"):
        reference.with_backend("compile").assess(photos[0])


def test_a_compiled_backend_that_runs_out_of_memory_goes_on_with_fewer_photos(
    reference: Assessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(module: torch.nn.Module, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > 1:
                raise torch.OutOfMemoryError
            return module(pixels)

        return call

    monkeypatch.setattr(torch, "compile", fake)
    compiled = reference.with_backend("compile")
    photos = [reference.prepare(scene(200, 160, seed=number)) for number in range(6)]
    notes: list[str] = []
    found, _ = _Encoder(compiled, notes.append)(photos)
    torch.testing.assert_close(found, reference.features(photos)[0], atol=1e-5, rtol=0)
    assert notes[-1].endswith("going on with 1 photo at a time")


def test_transformers_attend_by_the_fused_kernel(tmp_path: Path) -> None:
    encoder = load_image_text_encoder(str(tiny_models.clip(tmp_path / "clip")))
    assert encoder.image_tower.vision_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", OTHERS)
def test_verdicts_are_those_of_torch(name: str, reference: Assessor, exported: Path, photos: list[Path]) -> None:
    other = reference.with_backend(name, exported)
    for size in (1, 4):  # the batch is free
        for mine, theirs in zip(reference.assess_many(photos), other.assess_many(photos, batch_size=size), strict=True):
            assert theirs.score == pytest.approx(mine.score, abs=1e-4)
            assert theirs.distribution == pytest.approx(mine.distribution, abs=1e-5)
            assert theirs.encoder_contribution == pytest.approx(mine.encoder_contribution, abs=1e-3)
            assert [tag.name for tag in theirs.semantic_tags] == [tag.name for tag in mine.semantic_tags]


def test_the_file_alone_gives_distribution_and_similarities(
    reference: Assessor, exported: Path, photos: list[Path]
) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    info = json.loads(session.get_modelmeta().custom_metadata_map["tmcr"])
    assert info["model_hash"] == reference.model.hash
    verdict = reference.assess(photos[0])
    image = tmcr.images.decode(photos[0], target_side=reference.model.image_text.preprocess.target_side)
    inputs = {"tag_pixels": reference.model.image_text.preprocess(image)[None]}
    if reference.model.encoder is not None:
        inputs["level_pixels"] = reference.model.encoder.preprocess(image)[None]
    distribution, similarities = session.run(["distribution", "similarities"], inputs)
    assert distribution[0] == pytest.approx(verdict.distribution, abs=1e-4)
    assert distribution[0] @ np.array(info["score_values"]) == pytest.approx(verdict.score, abs=1e-3)
    assert similarities.shape == (1, len(reference.model.libraries.names))


def test_a_file_of_another_model_or_of_nobody_is_refused(
    reference: Assessor, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(reference.model, "hash", "f" * 64)
        with pytest.raises(ModelError, match="was exported from"):
            reference.with_backend("onnx", exported)
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:1000])
    for file, says in ((tmp_path / "broken.onnx", "cannot be loaded"), (tmp_path / "gone.onnx", "tmcr export")):
        with pytest.raises(ModelError, match=says):
            reference.with_backend("onnx", file)
    stranger = tmp_path / "stranger.onnx"
    torch.onnx.export(torch.nn.ReLU(), (torch.zeros(1),), str(stranger), dynamo=True, verbose=False)
    with pytest.raises(ModelError, match="not written by this version"):
        reference.with_backend("onnx", stranger)
    with pytest.raises(ConfigError, match="torch, compile, onnx, openvino"):
        reference.with_backend("abacus")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ModelError, match=r"tmcr\[onnx\]"):
        reference.with_backend("onnx", exported)


def test_without_a_file_the_model_is_exported_once(
    reference: Assessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMCR_CACHE", str(tmp_path))
    open_backend("onnx", reference.model, reference.image_text, reference.hardware)
    written = default_export(reference.model)
    assert written.is_relative_to(tmp_path)
    before = written.stat().st_mtime_ns
    open_backend("onnx", reference.model, reference.image_text, reference.hardware)
    assert written.stat().st_mtime_ns == before


def test_of_transformers_too_eight_bits_are_for_all_but_the_kept_exact_layers(tmp_path: Path) -> None:
    image_text = load_image_text_encoder(str(tiny_models.clip(tmp_path / "clip")))
    encoder = load_image_encoder(str(tiny_models.vision("swin", tmp_path / "swin")))
    shape = HeadConfig(n_semantic=3, n_attribute=2, level_width=encoder.width, n_bins=5, hidden=4)
    model = SimpleNamespace(
        name="tiny", hash="0" * 64, text=torch.randn(5, image_text.dim), encoder=encoder, head=PredictionHead(shape),
        score_values=torch.arange(1.0, 6.0), image_text=SimpleNamespace(preprocess=image_text.preprocess),
    )  # fmt: skip
    export_onnx(model, image_text.image_tower, tmp_path / "tiny.onnx")
    layers = {node.name: node for node in onnx.load(tmp_path / "tiny.onnx").graph.node if node.op_type in _LAYERS}
    exact = set(_kept_exact(str(tmp_path / "tiny.onnx")))
    assert sum(layers[name].op_type == "Conv" for name in exact) == 2  # both patch embeddings
    assert len(exact) == 2 + 6 + 1 + 4  # and what makes queries, keys and values first, and matching, and the head
    assert len(layers) == len(exact) + 28  # in 8 bits: all else of the blocks, between them and to the embedding
    sides = (image_text.preprocess.size, encoder.preprocess.size)
    pixels = {
        name: np.random.default_rng(0).normal(size=(4, 3, side, side)).astype(np.float32)
        for name, side in zip((TAG_PIXELS, LEVEL_PIXELS), sides, strict=True)
    }
    quantize_onnx(tmp_path / "tiny.onnx", tmp_path / "small.onnx", iter([pixels]))
    kinds = [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node]
    assert kinds.count("QuantizeLinear") >= len(layers) - len(exact)
    found, wanted = (
        onnxruntime.InferenceSession(str(tmp_path / file), providers=["CPUExecutionProvider"]).run(None, pixels)
        for file in ("small.onnx", "tiny.onnx")
    )
    for small, large in zip(found, wanted, strict=True):
        assert 0 < np.abs(small - large).max() < 0.5


def test_eight_bits_are_kept_only_where_they_cost_little(reference: Assessor, tmp_path: Path) -> None:
    ratings = write_rated_photos(tmp_path / "rated", photos=30)
    out = tmp_path / "small.onnx"
    kept = export_int8(reference, f"csv:{ratings}", out, photos=8, max_loss=2.0)
    assert kept.kept
    assert 0 < kept.worst < 3
    assert kept.change.value == pytest.approx(kept.srcc_int8 - kept.srcc)
    small = reference.with_backend("onnx", out)
    assert small.assess(sorted((tmp_path / "rated").glob("*.png"))[0]).score is not None
    refused = export_int8(reference, f"csv:{ratings}", tmp_path / "none.onnx", photos=8, max_loss=-2.0)
    assert not refused.kept
    assert "not written" in refused.describe()
    assert not (tmp_path / "none.onnx").exists()
