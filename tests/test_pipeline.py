"""The training run as a whole, with the shipped small encoder on photos made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import wait_for_row
from rated_photos import write_rated_photos

import tmcr
from tmcr.datasets import load_manifest
from tmcr.errors import ConfigError, DataError, ModelError
from tmcr.experiments.ablation import SYSTEMS, ablate
from tmcr.images import content_hash
from tmcr.modelfolder import STARTER, load_model
from tmcr.training.config import TrainConfig, preset
from tmcr.training.heads import similarity_statistics
from tmcr.training.pipeline import Run
from tmcr.training.starting import encoder_digest
from tmcr.training.train import train

SETTINGS = {
    "cluster.k": 2,
    "rank.epochs": 1,
    "rank.frequency": 3,
    "rank.batch_limit": 12,
    "rank.projector": 32,
    "fit.epochs": 3,
    "fit.hidden": 16,
    "fit.batch_size": 8,
    "workers": 1,
    "device": "cpu",
    "checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rated_photos(tmp_path_factory.mktemp("rated photos"))


@pytest.fixture(scope="module")
def config(ratings: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    cache, tags = str(tmp_path_factory.mktemp("cache")), tmp_path_factory.mktemp("tags")
    (tags / "semantic.txt").write_text("beach\nforest\nsunset\ncat\nbread\nstreet\nboat\n")
    (tags / "attribute.txt").write_text("sharp\nblurry\nwarm light\ndull\ncolorful\n")
    return preset("small").with_overrides({"data": f"csv:{ratings}", "cache": cache, "tags": str(tags)} | SETTINGS)


@pytest.fixture(scope="module")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train(Run(config, folder))
    return folder


class Watcher:
    """Counts the steps that each stage takes."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.skipped: list[str] = []
        self._stage = ""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage = stage
        self.steps.setdefault(stage, 0)

    def step(self, amount: int = 1, **values: float) -> None:
        self.steps[self._stage] += amount

    def finish(self, summary: str) -> None:
        if summary.endswith("skipped)"):
            self.skipped.append(summary.split(":")[0])


def test_a_run_leaves_a_model_its_evaluation_and_what_it_was_told(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert report["n"] == 8
    assert set(report["intervals"]) >= {"acc", "mse", "emd1", "emd2"}
    assert report["long_tail"] is not None
    assert TrainConfig.from_json((trained / "config.json").read_text(), "config.json").rank.epochs == 1
    card = (trained / "model" / "README.md").read_text()
    assert "24 for training, 8 for early stopping, 8 for testing" in card
    assert f"{report['mse']:.3f}" in card


def test_the_model_folder_scores_as_the_run_did(trained: Path, config: TrainConfig, ratings: Path) -> None:
    run = Run(config, trained)
    fitted = run.fit()
    test = run.part("test")
    in_training = run.predict(fitted, test) @ run.manifest.score_values
    model = tmcr.load(trained / "model", device="cpu", workers=1)
    alone = [model.assess(run.manifest.paths[row]).score for row in test]
    together = [verdict.score for verdict in model.assess_many([run.manifest.paths[row] for row in test], batch_size=3)]
    np.testing.assert_allclose(in_training, alone, atol=1e-4)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_on_the_shipped_encoder_and_tags_a_model_shows_the_tags_that_the_starter_shows(
    config: TrainConfig, tmp_path: Path
) -> None:
    quick = config.with_overrides({"tags": None, "rank.epochs": 0, "fit.mode": "lp", "fit.epochs": 1})
    model, starter = load_model(train(Run(quick, tmp_path / "run"))[0]), load_model(STARTER)
    shown = torch.isfinite(model.tag_minimum)
    assert torch.equal(shown, torch.isfinite(starter.tag_minimum))
    nameable = {tag for tag, may_be in zip(model.libraries.names, shown.tolist(), strict=True) if may_be}
    names = {tag for tags in model.clusters.tags for tag in tags}
    assert names
    assert names <= nameable


def test_tags_of_ones_own_are_shown_and_change_no_score(trained: Path, config: TrainConfig) -> None:
    plain = tmcr.load(trained / "model", device="cpu")
    tagged = tmcr.load(trained / "model", device="cpu", own_tags=["purple dragon", "beach", "warm light"])
    for mine, theirs in zip(plain.assess_many(rated(config)), tagged.assess_many(rated(config)), strict=True):
        assert mine.own_tags == ()
        assert theirs.score == mine.score
        known = {tag.name: tag for tag in (*mine.semantic_tags, *mine.attribute_tags)}
        own = {tag.name: tag for tag in theirs.own_tags}
        assert set(own) == {"purple dragon", "beach", "warm light"}
        for name in ("beach", "warm light"):  # the model knows these: as similar, and as unusual, as it says itself
            assert own[name].similarity == pytest.approx(known[name].similarity, abs=1e-5)
            assert own[name].z == pytest.approx(known[name].z, abs=1e-2)
    model = load_model(trained / "model")
    model.embedding_mean = None
    with pytest.raises(ModelError, match="tags of your own"):
        tmcr.Assessor(model, plain.image_text, own_tags=["purple dragon"])


def test_a_model_remembers_the_photos_it_has_learnt_from(trained: Path, config: TrainConfig) -> None:
    manifest = load_manifest(config.data)
    learnt = load_model(trained / "model").learnt
    assert learnt is not None
    seen = learnt.seen(manifest, [content_hash(path) for path in manifest.paths])
    assert seen.tolist() == [split != "test" for split in manifest.splits]


def test_an_unchanged_run_does_nothing_again(trained: Path, config: TrainConfig) -> None:
    before = (trained / "model" / "model.safetensors").read_bytes()
    watcher = Watcher()
    train(Run(config, trained, progress=watcher))
    assert watcher.skipped == ["match", "cluster", "rank", "fit"]
    assert not set(watcher.steps) & {"match", "cluster", "rank", "fit"}
    assert (trained / "model" / "model.safetensors").read_bytes() == before


def test_a_changed_setting_repeats_only_the_stages_that_depend_on_it(
    trained: Path, config: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    watcher = Watcher()
    train(Run(config.with_overrides({"fit.epochs": 1}), tmp_path / "run", progress=watcher))
    assert watcher.skipped == ["match", "cluster", "rank"]
    assert watcher.steps["fit"] == 3  # 24 photos in batches of 8


def test_another_seed_gives_another_model_and_the_same_seed_the_same(
    trained: Path, config: TrainConfig, tmp_path: Path
) -> None:
    reference = load_model(trained / "model").head.state_dict()
    for seed, equal in ((0, True), (1, False)):
        folder, _ = train(Run(config.with_overrides({"seed": seed}), tmp_path / f"seed-{seed}"), "trained")
        head = load_model(folder).head.state_dict()
        assert all(torch.equal(head[key], reference[key]) for key in reference) == equal


@pytest.mark.parametrize("stage", ["rank", "fit-head", "fit"])
def test_a_killed_run_resumes_to_the_same_numbers(
    stage: str, trained: Path, config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), config.to_json()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_for_row(folder / "metrics.jsonl", stage, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "stages" / stage.removesuffix("-head") / "done.json").exists(), "killed too late to tell"
    watcher = Watcher()
    train(Run(config, folder, progress=watcher))
    assert "match" in watcher.skipped
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        trained / "model" / "model.safetensors"
    ).read_bytes()
    assert json.loads((folder / "report.json").read_text()) == json.loads((trained / "report.json").read_text())
    assert (folder / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


# The training of the test above, slowed after every logged row so that the kill finds it at work.
KILLED = """
import sys, time
from pathlib import Path
from tmcr.training.config import TrainConfig, preset
from tmcr.training.heads import similarity_statistics
from tmcr.training.pipeline import Run
from tmcr.training.train import train
from tmcr.training.stage import MetricsLog
add = MetricsLog.add
def slow(self, stage, **values):
    add(self, stage, **values)
    time.sleep(0.4)
MetricsLog.add = slow
train(Run(TrainConfig.from_json(sys.argv[2], "argument"), Path(sys.argv[1])))
"""


def test_unreadable_photos_cost_their_row_and_too_many_stop_the_run(
    ratings: Path, config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(ratings.parent, folder)
    config = config.with_overrides({"data": f"csv:{folder / 'ratings.csv'}"})
    photos = sorted(folder.glob("*.png"))
    photos[0].write_bytes(b"not a photo")
    photos[1].unlink()
    run = Run(config, tmp_path / "run")
    assert len(run.manifest) == 38
    assert len(run.matched.errors) == 2
    for photo in photos[2:24]:
        photo.write_bytes(b"")
    with pytest.raises(DataError, match="only 16 of 40 photos can be read"):
        _ = Run(config, tmp_path / "run-2").matched


def test_data_without_a_training_part_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    ratings = write_rated_photos(tmp_path / "photos", 4)
    ratings.write_text(ratings.read_text().replace("train", "test"))
    with pytest.raises(DataError, match="no photo is left to train on"):
        Run(config.with_overrides({"data": f"csv:{ratings}"}), tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [
        {"fit.branches": "tm", "fit.mode": "lp"},
        {"fit.branches": "cr"},
        {"fit.semantic_only": True, "fit.mode": "lp", "fit.score_head": "mlp"},
        {"rank.loss": "supcon"},
        {"rank.loss": "rank-n-contrast", "rank.chunk": 5},
        {"rank.form": "official", "rank.n_bal": 2, "fit.mode": "lp"},
        {"cluster.k": "auto", "rank.loss": "none", "fit.warm_start": False},
        {"precision": "bf16", "rank.batches_per_update": 3},
        {"fit.refit": True},
        {"fit.heads": 2, "fit.mode": "lp", "fit.refit": True},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_variant_trains_and_its_model_can_be_loaded(
    settings: dict[str, object], config: TrainConfig, tmp_path: Path
) -> None:
    folder, report = train(Run(config.with_overrides({"fit.epochs": 1} | settings), tmp_path / "run"))
    assert report is not None
    assert np.isfinite(report.mse)
    scores = [verdict.score for verdict in tmcr.load(folder, device="cpu").assess_many(rated(config))]
    assert len(set(scores)) > 1
    assert all(score is not None and 1 <= score <= 10 for score in scores)


def rated(config: TrainConfig) -> Iterator[Path]:
    yield from sorted(Path(config.data.removeprefix("csv:")).parent.glob("*.png"))[:4]


def test_the_encoder_is_compiled_where_that_is_asked_for(config: TrainConfig, tmp_path: Path) -> None:
    for wanted in (True, False):
        run = Run(config.with_overrides({"compile": wanted}), tmp_path / "run")
        assert (run.starting_encoder().tower._compiled_call_impl is not None) == wanted


def test_a_refit_takes_the_best_number_of_epochs_and_learns_from_validation_photos_too(
    config: TrainConfig, tmp_path: Path
) -> None:
    refit = config.with_overrides({"fit.refit": True, "fit.epochs": 3, "fit.warm_start": False})
    run = Run(refit, tmp_path / "run")
    fitted = run.fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = int(fitted.validation["epochs"])
    assert [row["epoch"] for row in rows if row["stage"] == "fit-refit"] == list(range(best))
    known = np.concatenate([run.part("train"), run.part("val")])
    mean, _ = similarity_statistics(run.matched, known)
    assert torch.allclose(fitted.head.tag_scale.mean, mean, atol=1e-6)


def test_several_heads_are_fitted_from_different_starts_and_averaged(config: TrainConfig, tmp_path: Path) -> None:
    settings = {"fit.mode": "lp", "fit.refit": False, "fit.hidden": 4, "fit.dropout": 0.0, "rank.loss": "none"}
    lone = Run(config.with_overrides(settings), tmp_path / "lone").fit().head
    run = Run(config.with_overrides(settings | {"fit.heads": 3}), tmp_path / "three")
    head = run.fit().head
    assert head.config.hidden == 12
    weights = head.tag_transform.linear.weight.split(4)
    assert torch.equal(weights[0], lone.tag_transform.linear.weight)
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)
    assert not torch.allclose(weights[1], weights[2], atol=1e-3)
    assert torch.equal(run.fit().head.output.weight, head.output.weight)  # found again, not fitted again


@pytest.mark.parametrize(
    "settings",
    [
        {"fit.heads": 2, "fit.mode": "ft"},
        {"fit.heads": 2, "fit.mode": "lp", "fit.score_head": "mlp"},
        {"fit.pair_weight": 0.1, "fit.mode": "ft"},
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_any_work(
    settings: dict[str, object], config: TrainConfig, tmp_path: Path
) -> None:
    run = Run(config.with_overrides(settings), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"set fit\.mode=lp"):
        run.fit()
    assert not list((tmp_path / "run").glob("*/done.json"))


def test_training_learns_what_the_raters_like(config: TrainConfig, tmp_path: Path) -> None:
    longer = config.with_overrides(
        {"fit.epochs": 40, "fit.mode": "lp", "fit.learning_rate": 5e-3, "rank.loss": "none", "fit.patience": 40}
    )
    _, report = train(Run(longer, tmp_path / "run"))
    assert report is not None
    assert report.srcc is not None
    assert report.srcc > 0.7  # eight photos; chance passes this once in fifty times


def test_the_ablation_measures_every_system_on_the_same_held_out_photos(config: TrainConfig, tmp_path: Path) -> None:
    config = config.with_overrides({"fit.epochs": 1, "rank.loss": "none"})
    result = ablate(config, tmp_path / "ablation", folds=2)
    assert list(result.reports) == list(SYSTEMS)
    assert {report.n for report in result.reports.values()} == {40}  # every photo is held out once
    assert result.reports["constant"].srcc is None or abs(result.reports["constant"].srcc) < 1
    assert set(result.against_ridge) >= set(SYSTEMS) - {"constant", "ridge on frozen features"}
    table = result.to_markdown()
    assert all(f"| {name} |" in table for name in SYSTEMS)

    watcher = Watcher()
    again = ablate(config, tmp_path / "ablation", folds=2, progress=watcher)
    assert again.to_dict() == result.to_dict()
    assert not set(watcher.steps) & {"hand-crafted features", "fit-tm", "rank"}  # answers are kept
    with pytest.raises(ConfigError, match="no system"):
        ablate(config, tmp_path / "ablation", systems=["TM+XX"])
    with pytest.raises(ConfigError, match="at least 2 folds"):
        ablate(config, tmp_path / "ablation", folds=1)


def test_the_encoder_is_known_by_its_weights_and_not_by_how_many_threads_add_them_up(
    config: TrainConfig, tmp_path: Path
) -> None:
    encoder = Run(config, tmp_path).starting_encoder()
    threads = torch.get_num_threads()
    try:
        known = set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            known.add(encoder_digest(encoder))
    finally:
        torch.set_num_threads(threads)
    assert len(known) == 1
    weight = next(value for value in encoder.state_dict().values() if value.dim() == 4)
    weight.copy_(weight.flip(0))  # the same numbers in other places have the same sum and norm
    assert encoder_digest(encoder) not in known
