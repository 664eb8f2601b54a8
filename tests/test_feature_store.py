"""Features that are kept: what is scored from them is what would be scored from the photos, whatever happens between.

Run as a program, it scores photos into a feature folder again and again and kills itself; see the test of kills.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_photos import scene
from killed_runs import kill_until_done
from PIL import Image
from scoring_stand_in import StandIn

import tmcr
import tmcr.scoring.rescore as rescoring
from tmcr.assessment import Assessment
from tmcr.assessor import Assessor
from tmcr.backends import encoding_of
from tmcr.errors import ConfigError, DataError, ModelError
from tmcr.features import EncoderUse, Encoding
from tmcr.modelfolder import STARTER, ClusterTable, TrainedModel, load_model, save_model
from tmcr.network import HeadConfig, PredictionHead
from tmcr.preprocess import PreprocessSpec
from tmcr.results import parts_of, read_results
from tmcr.scoring.feature_files import MANIFEST, FeatureManifest, read_features
from tmcr.scoring.feature_folder import FeatureFolder
from tmcr.scoring.rescore import rescore
from tmcr.scoring.run import Plan, open_run
from tmcr.tags import TagLibraries, TagLibrary
from tmcr.training.clusters import assign, percentile
from tmcr.training.config import preset
from tmcr.training.pipeline import Run

HALF, FULL = 1e-3, 5e-6  # score points that float16 costs, and that another order of sums in float32 costs


@pytest.fixture(scope="module")
def starter() -> Assessor:
    return tmcr.load("starter", device="cpu", precision="fp32", workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        scene(160 + 9 * number, 140, seed=number).save(folder / f"{number:02d}.jpg")
    (folder / "07-again.jpg").write_bytes((folder / "07.jpg").read_bytes())
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def kept(starter: Assessor, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Feature folders of the photos in both precisions."""
    here = tmp_path_factory.mktemp("kept")
    for storage in ("float16", "float32"):
        score(starter, photos, here / f"{storage}.parquet", features=here / storage, features_storage=storage)
    return {storage: here / storage for storage in ("float16", "float32")}


def score(assessor: Assessor | StandIn, photos: Path, out: Path, **options: object) -> list[Assessment]:
    with open_run(assessor, Plan([str(photos)], out, **options)) as run:
        run.complete()
    return list(read_results(out))


def scored_again(folder: Path, model: TrainedModel, out: Path, **options: bool) -> dict[str, Assessment]:
    rescore(folder, model, out, **options)
    return {Path(row.photo).name: row for row in read_results(out)}


# ---------------------------------------------------------------- scores from what is kept


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", HALF), ("float32", FULL)])
def test_a_rescoring_says_what_a_scoring_says(
    storage: str, tolerance: float, starter: Assessor, photos: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    anew = score(starter, photos, tmp_path / "anew.parquet")
    again = scored_again(kept[storage], starter.model, tmp_path / "again.parquet", tags=True)
    assert set(again) == {f"{number:02d}.jpg" for number in range(12) if number != 7} | {"07-again.jpg"}
    for row in anew:
        name = Path(row.photo).name
        if row.error is not None or name == "07.jpg":  # equal photos stand there once, under the first name
            continue
        assert again[name].score == pytest.approx(row.score, abs=tolerance)
        assert again[name].std == pytest.approx(row.std, abs=tolerance)
        assert again[name].distribution == pytest.approx(row.distribution, abs=tolerance)
        assert again[name].percentile == pytest.approx(row.percentile, abs=100 * tolerance)
        for column in ("photo", "cluster", "score_values", "model", "model_hash", "width", "height", "content_hash"):
            assert getattr(again[name], column) == getattr(row, column)
        if storage == "float32":
            for mine, theirs in (
                (again[name].semantic_tags, row.semantic_tags),
                (again[name].attribute_tags, row.attribute_tags),
            ):
                assert [(tag.name, tag.facet) for tag in mine] == [(tag.name, tag.facet) for tag in theirs]
                assert [tag.z for tag in mine] == pytest.approx([tag.z for tag in theirs], abs=1e-4)
                assert [tag.similarity for tag in mine] == pytest.approx([tag.similarity for tag in theirs], abs=1e-5)


def test_a_scoring_that_keeps_features_says_the_same_when_it_reads_them_again(
    starter: Assessor, photos: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    first = list(read_results(kept["float16"].with_suffix(".parquet")))
    assert score(starter, photos, tmp_path / "second.parquet", features=kept["float16"]) == first
    plain = score(starter, photos, tmp_path / "plain.parquet")
    assert any(mine != theirs for mine, theirs in zip(first, plain, strict=True))  # both are from half precision
    rows = scored_again(kept["float16"], starter.model, tmp_path / "third.parquet")
    assert max(abs(rows[name].score - row.score) for row in first if (name := Path(row.photo).name) in rows) < FULL


def other_models(model: TrainedModel) -> dict[str, TrainedModel]:
    """Models with the starter's encoders and everything else of their own."""
    semantic = TagLibrary("semantic", model.libraries.semantic.tags[:40])
    attribute = TagLibrary("attribute", model.libraries.attribute.tags[5:30])
    n = model.libraries.n_semantic
    rows = torch.cat([torch.arange(40), n + torch.arange(5, 30)])
    tags = {
        "libraries": TagLibraries(semantic, attribute),
        "text": model.text[rows],
        "similarity_mean": model.similarity_mean[rows],
        "similarity_std": model.similarity_std[rows],
        "tag_minimum": None,
    }
    heads = {
        "the paper's": {},
        "tags alone": {"branches": "tm"},
        "levels alone": {"branches": "cr"},
        "semantic tags alone": {"semantic_only": True, "score_head": "linear"},
    }
    models = {}
    for seed, (name, changed) in enumerate(heads.items()):
        torch.manual_seed(seed)
        head = PredictionHead(HeadConfig(40, 25, model.encoder.width, 5, hidden=12, **changed))
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        if head.config.uses_tags:
            head.tag_scale.set(*(tags[key][: head.config.n_tags] for key in ("similarity_mean", "similarity_std")))
        centroids = (model.embedding_mean + 0.3 * torch.randn(4, model.text.shape[1])) @ tags["text"][:40].T
        clusters = ClusterTable(
            centroids.numpy(),
            np.sort(np.random.default_rng(seed).uniform(4, 7, (4, 101)).astype(np.float32)),
            tuple((f"kind {kind}", "of photo") for kind in range(4)),
        )
        if name == "tags alone":
            clusters = ClusterTable(np.empty((0, 40), np.float32), np.empty((0, 101), np.float32), ())
        models[name] = replace(
            model, name=name, head=head.eval(), clusters=clusters, score_values=torch.linspace(1, 10, 5), **tags
        )
    return models


@pytest.mark.parametrize("name", ["the paper's", "tags alone", "levels alone", "semantic tags alone"])
def test_another_head_other_tags_and_other_kinds_over_the_same_features(
    name: str, starter: Assessor, photos: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    other = Assessor(other_models(starter.model)[name], starter.image_text, starter.hardware)
    anew = score(other, photos, tmp_path / "anew.parquet")
    again = scored_again(kept["float32"], other.model, tmp_path / "again.parquet", tags=True)
    assert len({row.score for row in again.values()}) == len(again)
    for row in anew:
        if (mine := again.get(Path(row.photo).name)) is None:
            continue
        assert mine.score == pytest.approx(row.score, abs=2 * FULL)
        assert mine.cluster == row.cluster
        assert mine.percentile == (None if row.percentile is None else pytest.approx(row.percentile, abs=0.01))
        assert [tag.name for tag in mine.semantic_tags] == [tag.name for tag in row.semantic_tags]
        assert len(mine.attribute_tags) == len(row.attribute_tags) == 8


def test_kinds_of_many_are_the_nearest(starter: Assessor) -> None:
    model = other_models(starter.model)["the paper's"]
    text = model.text[: model.libraries.n_semantic]
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(500, text.shape[1], generator=generator), dim=1)
    similarities = (embeddings @ text.T).numpy()
    centroids = similarities[:4] * np.array([[0.3], [0.8], [1.0], [1.6]], np.float32)
    model = replace(model, clusters=replace(model.clusters, centroids=centroids))
    kinds = rescoring.FoldedModel(model)(embeddings, torch.rand(500, model.encoder.width)).kinds
    assert len(set(kinds.tolist())) == 4
    assert kinds.tolist() == assign(similarities, centroids).tolist()


def test_percentiles_of_many_are_those_of_each() -> None:
    quantiles = np.sort(np.random.default_rng(0).uniform(2, 8, (3, 101)).astype(np.float32))
    quantiles[1, 20:60] = quantiles[1, 20]  # equal scores
    scores = np.concatenate([quantiles[1, ::7], np.linspace(1, 9, 200, dtype=np.float32), quantiles[2, [0, -1]]])
    kinds = np.arange(len(scores), dtype=np.int32) % 3
    expected = [percentile(score, quantiles[kind]) for score, kind in zip(scores, kinds, strict=True)]
    assert rescoring._percentiles(scores, kinds, quantiles) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_results_in_text(suffix: str, starter: Assessor, kept: dict[str, Path], tmp_path: Path) -> None:
    rescore(kept["float16"], starter.model, tmp_path / f"again{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"again{suffix}"]
    if suffix == ".jsonl":
        rescore(kept["float16"], starter.model, tmp_path / "again.parquet")
        assert list(read_results(tmp_path / "again.jsonl")) == list(read_results(tmp_path / "again.parquet"))
    else:
        assert len((tmp_path / "again.csv").read_text(encoding="utf-8-sig").splitlines()) == 1 + 12


# ---------------------------------------------------------------- training from what is kept


@pytest.fixture
def ratings(photos: Path, tmp_path: Path) -> Path:
    table = tmp_path / "ratings.csv"
    rows = [f"{photos / f'{number:02d}.jpg'},{1 + number % 7}" for number in range(12)]
    table.write_text("\n".join(["image,score", *rows]) + "\n")
    return table


def training(ratings: Path, folder: Path, **changes: object) -> Run:
    own = {"data": f"csv:{ratings}", "device": "cpu", "encoders.mirrored": True, "rank.loss": "none"}
    return Run(preset("small").with_overrides(own | changes), folder)


def test_training_takes_the_embeddings_that_scoring_has_kept(
    ratings: Path, kept: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = training(ratings, tmp_path / "anew").matched
    monkeypatch.setattr("tmcr.training.match.decode", lambda *_, **__: pytest.fail("a photo was decoded again"))
    again = training(ratings, tmp_path / "again", features=str(kept["float32"])).matched
    assert again.hashes == anew.hashes
    np.testing.assert_allclose(again.embeddings, anew.embeddings, atol=FULL)


def test_training_encodes_what_scoring_has_not_kept(
    ratings: Path, starter: Assessor, photos: Path, tmp_path: Path
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for number in (3, 5):
        (some / f"{number}.jpg").write_bytes((photos / f"{number:02d}.jpg").read_bytes())
    score(starter, some, tmp_path / "some.parquet", features=tmp_path / "features", features_storage="float32")
    mixed = training(ratings, tmp_path / "mixed", features=str(tmp_path / "features")).matched
    anew = training(ratings, tmp_path / "anew").matched
    np.testing.assert_allclose(mixed.embeddings, anew.embeddings, atol=FULL)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoders.mirrored": False}, "the preprocessing for the image–text encoder"),
        ({"precision": "bf16"}, r"the arithmetic \(fp32, not bf16\)"),
    ],
)
def test_training_refuses_features_made_otherwise(
    changes: dict[str, object], why: str, ratings: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=why):
        _ = training(ratings, tmp_path / "run", features=str(kept["float32"]), **changes).matched


def test_training_is_told_where_no_features_are(ratings: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no features there"):
        _ = training(ratings, tmp_path / "run", features=str(tmp_path / "nowhere")).matched


# ---------------------------------------------------------------- what is not done again


class Keeping(StandIn):
    """The stand-in, with features that may be kept."""

    def encoding(self) -> Encoding:
        return ENCODING

    def features(self, batch: list) -> tuple[torch.Tensor, None]:
        found, _ = super().features(batch)
        return found.half().float(), None  # a brightness that half precision holds


ENCODING = Encoding(EncoderUse("bright", PreprocessSpec(size=8, mean=(0, 0, 0), std=(1, 1, 1)), 1), None, "fp32")


def grey(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (12, 10), (number % 251, number // 251, 90)).save(folder / f"{number:04d}.png")
    return folder


def test_a_photo_that_is_kept_is_neither_decoded_nor_encoded(tmp_path: Path) -> None:
    photos = grey(tmp_path / "photos", 30)
    first = Keeping()
    rows = score(first, photos, tmp_path / "first", features=tmp_path / "features", batch_size=4)
    assert len(first.prepared) == 30
    for number in range(30, 33):
        Image.new("RGB", (12, 10), (number, 0, 90)).save(photos / f"{number:04d}.png")
    (photos / "0000.png").rename(photos / "renamed.png")
    second = Keeping()
    again = score(second, photos, tmp_path / "second", features=tmp_path / "features", batch_size=4)
    assert [Path(name).name for name in second.prepared] == ["0030.png", "0031.png", "0032.png"]
    assert [row.photo for row in again] == sorted(str(path) for path in photos.iterdir())
    before = {row.content_hash: row.score for row in rows}
    assert all(row.score == before.get(row.content_hash, row.score) for row in again)


def test_raw_photos_are_kept_apart_from_equal_bytes_that_another_decoder_reads(tmp_path: Path) -> None:
    with FeatureFolder(tmp_path / "features", ENCODING) as features:
        features.put("a.jpg", "0" * 32, (1, 1), np.zeros(1), None)
        assert features.get("b.jpg", "0" * 32) is not None
        assert features.get("b.nef", "0" * 32) is None
        features.put("b.nef", "0" * 32, (2, 2), np.ones(1), None)
        features.flush()
        assert features.get("c.nef", "0" * 32).size == (2, 2)
        assert features.get("c.png", "0" * 32).size == (1, 1)


def test_many_parts_are_searched_and_nothing_is_kept_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(16).hex() for _ in range(300)]
    hashes += [hashes[0][:16] + "f" * 16]  # the same first half
    for start in range(0, len(hashes), 100):  # opened anew, and with parts in the middle
        with FeatureFolder(tmp_path / "features", ENCODING, "float32") as features:
            for row in range(start, min(start + 100, len(hashes))):
                features.put(f"{row}.jpg", hashes[row], (row + 1, 1), np.array([row / 7]), None)
                features.put("again.jpg", hashes[row], (9999, 1), np.array([0.0]), None)
                if row % 30 == 0:
                    features.flush()
            features.flush()
            features.put("again.jpg", hashes[0], (9999, 1), np.array([0.0]), None)
            assert len(features) == min(start + 100, len(hashes))
    with FeatureFolder(tmp_path / "features", ENCODING) as features:
        for row in rng.permutation(len(hashes)):
            found = features.get("x.jpg", hashes[row])
            assert found.size == (row + 1, 1)
            assert found.embedding == pytest.approx([row / 7])
        assert features.get("x.jpg", "0" * 32) is None


# ---------------------------------------------------------------- kills, damage, strangers


def killed_again_and_again(photos: str, here: Path, kills: int) -> None:
    """Score with kept features, kill that with SIGKILL, take it up, …, and let the last one come to its end."""

    def work(after_batch: Callable[[], None]) -> None:
        plan = Plan([photos], here / "results", batch_size=4, part_rows=12, features=here / "features")
        with open_run(Keeping(seconds=0.004, after_batch=after_batch), plan) as run:
            run.complete()

    left = kill_until_done(work, kills=kills, moments=random.Random(0))
    print(f"ended with {left} kills left")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_leave_every_scored_photo_in_the_folder_once(tmp_path: Path) -> None:
    photos = grey(tmp_path / "photos", 200)
    program = [sys.executable, __file__, photos, tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(program, check=True, capture_output=True, text=True, timeout=120, env=environment).stdout
    assert "ended with 0 kills left" in said
    undisturbed = score(StandIn(), photos, tmp_path / "undisturbed", batch_size=4)
    rows = list(read_results(tmp_path / "results"))
    assert [row.photo for row in rows] == [row.photo for row in undisturbed]
    assert [row.score for row in rows] == pytest.approx([row.score for row in undisturbed], abs=0.01)
    folder = tmp_path / "features"
    manifest = FeatureManifest.load(folder)
    names = [name for part in read_features(folder, manifest, 7) for name in part.names.to_pylist()]
    assert sorted(names) == [row.photo for row in rows]
    files = {f"{part.name}{suffix}" for part in manifest.parts for suffix in (".parquet", ".safetensors")}
    with FeatureFolder(folder, ENCODING):  # clears away what the last kill left
        assert {path.name for path in folder.iterdir()} == files | {MANIFEST, ".lock"}


def test_a_part_of_the_results_is_finished_after_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FeatureFolder) -> None:
        raise OSError(28, "No space left on device")

    photos = grey(tmp_path / "photos", 20)
    with monkeypatch.context() as changed:
        changed.setattr(FeatureFolder, "_finish_part", full)
        with pytest.raises(DataError, match="make room"):
            score(Keeping(), photos, tmp_path / "results", features=tmp_path / "features", batch_size=4, part_rows=8)
    assert parts_of(tmp_path / "results") == []
    rows = score(Keeping(), photos, tmp_path / "results", features=tmp_path / "features", batch_size=4, part_rows=8)
    assert len(rows) == FeatureManifest.load(tmp_path / "features").rows == 20


def test_features_of_other_encoders_are_refused_in_one_line(
    starter: Assessor, photos: Path, kept: dict[str, Path], tmp_path: Path
) -> None:
    folder, true = kept["float16"], starter.encoding()
    fine = replace(true.level.preprocess, resize_to=true.level.preprocess.resize_to + 1)
    cases = {
        "the image–text encoder": replace(true, image_text=replace(true.image_text, fingerprint="0" * 64)),
        "the image encoder": replace(true, level=replace(true.level, fingerprint="0" * 64)),
        "the preprocessing for the image encoder": replace(true, level=replace(true.level, preprocess=fine)),
        "the arithmetic": replace(true, arithmetic="bf16"),
    }
    for says, encoding in cases.items():
        with pytest.raises(ModelError, match=says) as refused:
            FeatureFolder(folder, encoding)
        assert "\n" not in str(refused.value)
        assert str(folder) in str(refused.value)
    any_will_do = replace(true, arithmetic=None)  # no encoder runs
    FeatureManifest.load(folder).require(any_will_do, folder)
    FeatureFolder(tmp_path / "large", replace(true, level=replace(true.level, preprocess=fine))).close()
    with pytest.raises(ModelError, match="the side photos are decoded for"):
        FeatureFolder(tmp_path / "large", replace(true, level=None))
    narrow = replace(true.level, preprocess=true.image_text.preprocess)
    FeatureFolder(tmp_path / "both", replace(true, level=narrow)).close()
    with pytest.raises(ModelError, match="an image encoder's features too"):
        FeatureFolder(tmp_path / "both", replace(true, level=None))

    other = load_model(STARTER)
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1e-3)
    with pytest.raises(ModelError, match="the image encoder"):
        rescore(folder, other, tmp_path / "never.parquet")
    assert not (tmp_path / "never.parquet").exists()


def test_a_run_taken_up_with_features_kept_otherwise_is_refused(tmp_path: Path) -> None:
    photos = grey(tmp_path / "photos", 4)
    score(Keeping(), photos, tmp_path / "results", batch_size=4)
    with pytest.raises(DataError, match=r"settings \(features\) changed"):
        score(Keeping(), photos, tmp_path / "results", features=tmp_path / "features", batch_size=4)


def test_damage_and_strangers_are_one_line(starter: Assessor, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    with pytest.raises(ConfigError, match="float16 or float32, not 'float8'"):
        FeatureFolder(folder, ENCODING, "float8")
    with pytest.raises(DataError, match="no features there"):
        FeatureManifest.load(folder)
    with FeatureFolder(folder, ENCODING) as features:
        with pytest.raises(DataError, match="beyond what float16 holds"):
            features.put("a.jpg", "0" * 32, (1, 1), np.array([7e4]), None)
        for number in range(20):
            features.put("a.jpg", f"{number:032x}", (1, 1), np.array([0.5]), None)
        features.flush()
        with pytest.raises(ConfigError, match="another tmcr writes there"):
            FeatureFolder(folder, ENCODING)
    part = folder / "part-00000.safetensors"
    whole = part.read_bytes()
    for damage in (whole[:100], whole[:-8], b""):
        part.write_bytes(damage)
        with pytest.raises(DataError, match="missing or damaged"):
            FeatureFolder(folder, ENCODING)
        with pytest.raises(DataError, match="missing or damaged"):
            list(read_features(folder, FeatureManifest.load(folder), 5))
    part.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        FeatureFolder(folder, ENCODING)
    part.write_bytes(whole)
    manifest = (folder / MANIFEST).read_text()
    for wrong in (manifest[:50], json.dumps(json.loads(manifest) | {"format": 99}), "[]"):
        (folder / MANIFEST).write_text(wrong)
        with pytest.raises(DataError, match="is damaged"):
            FeatureFolder(folder, ENCODING)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="is no feature folder"):
        FeatureFolder(tmp_path / "mine", ENCODING)


# ---------------------------------------------------------------- many


def test_twenty_thousand_rows_go_through_a_bounded_memory(
    starter: Assessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    encoding = encoding_of(starter.model, "fp32")
    embeddings = rng.standard_normal((20_000, encoding.image_text.width)).astype(np.float16)
    levels = rng.uniform(0, 1, (20_000, encoding.level.width)).astype(np.float16)
    with FeatureFolder(tmp_path / "features", encoding) as features:
        for row in range(20_000):
            features.put(f"{row}.jpg", f"{row:032x}", (row + 1, 1), embeddings[row], levels[row])
        features.flush()
    chunks = []
    folded = rescoring.FoldedModel.__call__
    monkeypatch.setattr(rescoring, "ROWS_AT_ONCE", 512)
    monkeypatch.setattr(
        rescoring.FoldedModel, "__call__", lambda self, *inputs: chunks.append(len(inputs[0])) or folded(self, *inputs)
    )
    del features
    tracemalloc.start()
    try:
        assert rescore(tmp_path / "features", starter.model, tmp_path / "out.parquet") == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(chunks) == 512
    assert peak < 8 * 2**20  # all features in float16 alone are 14 MiB
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "out.parquet", columns=["width", "score"])
    assert table.column("width").to_pylist() == list(range(1, 20_001))
    some = rng.permutation(20_000)[:50]
    similarities = torch.from_numpy(embeddings[some]).float() @ starter.model.text.T
    with torch.no_grad():
        logits = starter.model.head(similarities, torch.from_numpy(levels[some]).float())
    expected = (logits.softmax(1) @ starter.model.score_values).tolist()
    assert table.column("score").take(some).to_pylist() == pytest.approx(expected, abs=1e-4)


def test_the_commands(
    starter: Assessor,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tmcr.cli.main import run

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", *map(str, arguments)])
        try:
            run()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    folder, out = tmp_path / "features", tmp_path / "again.parquet"
    assert command("score", photos, "--features", folder, "--features-storage", "float32", "--device", "cpu")[0] == 0
    assert FeatureManifest.load(folder).storage == "float32"
    save_model(other_models(starter.model)["the paper's"], tmp_path / "model", card="# other")
    assert command("rescore", folder, "--model", tmp_path / "model", "--out", out, "--tags")[0] == 0
    rows = list(read_results(out))
    assert len(rows) == 12
    assert all(1 <= row.score <= 10 and row.semantic_tags and row.model == "the paper's" for row in rows)
    for arguments, says in (
        (("rescore", tmp_path / "nowhere", "--out", out), "no features there"),
        (("rescore", folder, "--out", tmp_path / "a.txt"), "choose one of these suffixes"),
        (("rescore", folder, "--out", out, "--model", tmp_path / "nowhere"), "no such folder"),
        (("score", photos, "--features", folder, "--precision", "bf16"), "the arithmetic (fp32, not bf16)"),
        (("score", photos, "--features", photos), "is no feature folder"),
    ):
        code, error = command(*arguments)
        assert code == 2
        assert says in error
        assert len(error.splitlines()) == 1


if __name__ == "__main__":
    # One process that has loaded everything, and a fork of it for each run: a kill costs milliseconds.
    import tmcr.scoring.pipeline
    import tmcr.scoring.repeats

    killed_again_and_again(sys.argv[1], Path(sys.argv[2]), kills=10)
