"""Exported models: every backend answers as torch does, none is used with a model that it was not exported from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_photos import scene
from rated_photos import write_rated_photos

import tmcr
import tmcr.images
from tmcr.assessor import Assessor
from tmcr.backends import default_export, open_backend
from tmcr.errors import ConfigError, ModelError
from tmcr.export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
OTHERS = ["onnx", pytest.param("openvino", marks=pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("openvino") is None, reason="openvino is not installed"
))]  # fmt: skip


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


@pytest.mark.parametrize("name", OTHERS)
def test_verdicts_are_those_of_torch(name: str, reference: Assessor, exported: Path, photos: list[Path]) -> None:
    other = reference.with_backend(name, exported)
    for size in (1, 4):  # the batch is free
        for mine, theirs in zip(
            reference.assess_many(photos), other.assess_many(photos, batch_size=size), strict=True
        ):
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
    with pytest.raises(ModelError, match="not written by"):
        reference.with_backend("onnx", stranger)
    with pytest.raises(ConfigError, match="torch, onnx, openvino"):
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


def test_eight_bits_are_kept_only_where_they_cost_little(reference: Assessor, tmp_path: Path) -> None:
    from tmcr.quantization import export_int8

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
