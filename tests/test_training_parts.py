"""Clusters, levels, balanced batches, the feature store, training views and the configuration."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_photos import scene
from scipy.stats import percentileofscore

from tmcr.errors import ConfigError, DataError, ImageError
from tmcr.features import FeatureStore, store_key
from tmcr.images import decode
from tmcr.preprocess import PreprocessSpec
from tmcr.training.clusters import assign, characteristic_tags, fit_clusters, percentile, score_quantiles
from tmcr.training.config import PRESETS, TrainConfig, parse_setting, preset
from tmcr.training.levels import MOST_REPEATS, BalancedBatches, balanced_count, score_levels
from tmcr.training.photos import PhotoViews


def blobs(kinds: int, each: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 4, (kinds, 12))
    truth = np.repeat(np.arange(kinds), each)
    return (centres[truth] + rng.normal(0, 0.3, (len(truth), 12))).astype(np.float32), truth


# ---- clusters -----------------------------------------------------------------------------------------------


def test_clusters_are_the_planted_ones_and_the_same_under_the_same_seed() -> None:
    points, truth = blobs(5)
    found = fit_clusters(points, 5, seed=0)
    assert {tuple(sorted(set(found.labels[truth == kind]))) for kind in range(5)} == {(label,) for label in range(5)}
    np.testing.assert_array_equal(fit_clusters(points, 5, seed=0).labels, found.labels)
    np.testing.assert_allclose(found.centroids[found.labels[0]], points[truth == 0].mean(0), atol=0.15)


def test_auto_takes_the_planted_number() -> None:
    assert len(fit_clusters(blobs(8)[0], "auto").centroids) == 8
    assert len(fit_clusters(blobs(3)[0], "auto").centroids) == 3


def test_small_sets_get_fewer_clusters_and_none_is_empty() -> None:
    points, _ = blobs(2, each=12)
    found = fit_clusters(points, 15)
    assert len(found.centroids) == 2
    same = np.ones((40, 3), dtype=np.float32)
    alike = fit_clusters(same, 4)
    assert np.bincount(alike.labels).min() > 0
    assert len(alike.centroids) == len(set(alike.labels.tolist()))
    assert len(fit_clusters(points[:5], "auto").centroids) == 1


def test_photos_go_to_the_nearest_centroid() -> None:
    rng = np.random.default_rng(0)
    points, centroids = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(7, 6)).astype(np.float32)
    expected = [int(np.argmin([np.linalg.norm(p - c) for c in centroids])) for p in points]
    assert assign(points, centroids).tolist() == expected


def test_percentiles_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(5, 1, 3000), 3)
    (quantiles,) = score_quantiles(scores, np.zeros(3000, dtype=np.int64))
    for score in (1.0, 3.2, 4.9, 5.0, 6.66, 9.0):
        assert percentile(score, quantiles) == pytest.approx(percentileofscore(scores, score, "mean"), abs=0.6)
    flat = np.full(101, 5.0)
    assert [percentile(score, flat) for score in (4.9, 5.0, 5.1)] == [0, 50, 100]


def test_a_cluster_is_named_by_what_sets_it_apart() -> None:
    similarities = np.zeros((6, 3), dtype=np.float32)
    similarities[:, 0] = 0.9  # always high, tells nothing
    similarities[:3, 1] = 0.2
    similarities[3:, 2] = 0.1
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert characteristic_tags(similarities, labels, ["photo", "dog", "cat"], top=1) == [["dog"], ["cat"]]


# ---- levels and balanced batches -----------------------------------------------------------------------------


def test_levels_are_the_papers_intervals() -> None:
    scores = np.array([1.0, 1.99, 2.0, 2.01, 5.0, 5.5, 8.999, 9.0, 10.0])
    assert score_levels(scores).tolist() == [0, 0, 1, 1, 4, 4, 7, 8, 8]
    assert score_levels(scores, form="official").tolist() == [-1, -1, -1, 1, -1, 4, 7, -1, -1]
    edges = 1 + 9 * np.arange(18) / 18
    assert score_levels(edges, bins=18).tolist() == list(range(18))


@pytest.mark.parametrize("seed", range(6))
def test_batches_hold_as_many_of_each_level_within_the_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 300)
    levels = np.clip(np.round(rng.normal(4, 1.5, 300)), 0, 8).astype(np.int64)
    levels[labels == 3] = 2  # one level only: cannot be ranked
    batches = BalancedBatches(labels, levels, frequency=5, seed=seed)
    assert batches.skipped == 1
    assert len(batches) == 5 * 3
    seen = np.zeros(4, dtype=int)
    for step in range(len(batches)):
        batch = batches.batch(0, step)
        (cluster,) = set(labels[batch].tolist())
        seen[cluster] += 1
        present, counts = np.unique(levels[batch], return_counts=True)
        assert set(present.tolist()) == set(levels[labels == cluster].tolist())
        assert len(set(counts.tolist())) == 1
        assert len(batch) <= 64
        repeats = np.unique(batch, return_counts=True)[1]
        assert repeats.max() <= MOST_REPEATS
        assert len(batch) + len(present) > 64 or counts[0] <= max(
            2, MOST_REPEATS * np.unique(levels[labels == cluster], return_counts=True)[1].min()
        )
    assert seen.tolist() == [5, 5, 5, 0]


def test_the_rule_for_n_bal() -> None:
    assert balanced_count(np.array([10, 50, 30])) == 21  # 64 // 3
    assert balanced_count(np.array([1, 50, 30])) == 4  # four times the rarest
    assert balanced_count(np.array([100] * 9)) == 7
    assert balanced_count(np.array([5] * 9), batch_limit=9) == 1
    fixed = BalancedBatches(np.zeros(9, dtype=int), np.arange(9) // 3, n_bal=5, frequency=1)
    assert np.bincount(np.arange(9)[fixed.batch(0, 0)] // 3).tolist() == [5, 5, 5]


def test_a_level_is_exhausted_before_a_photo_comes_again() -> None:
    batches = BalancedBatches(np.zeros(60, dtype=int), np.arange(60) // 30, frequency=1)
    batch = batches.batch(3, 0)
    assert len(batch) == 64
    assert np.unique(batch, return_counts=True)[1].max() == 2
    assert len(np.unique(batch)) == 60


def test_a_batch_depends_on_seed_epoch_and_step_alone() -> None:
    labels, levels = np.arange(100) % 2, np.arange(100) % 3
    one, two = (BalancedBatches(labels, levels, frequency=4, seed=1) for _ in range(2))
    one.batch(0, 1)
    np.testing.assert_array_equal(one.batch(2, 5), two.batch(2, 5))
    assert one.batch(2, 5).tolist() != one.batch(2, 6).tolist()
    assert one.batch(2, 5).tolist() != one.batch(3, 5).tolist()
    assert one.batch(2, 5).tolist() != BalancedBatches(labels, levels, frequency=4, seed=2).batch(2, 5).tolist()


# ---- feature store --------------------------------------------------------------------------------------------


def test_features_are_found_again_by_content(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    with FeatureStore(tmp_path / "deep" / "store.sqlite", 7) as store:
        store.put(list("abcde"), values)
        store.put(["a"], values[:1])  # again: no second row
        assert len(store) == 5
    with FeatureStore(tmp_path / "deep" / "store.sqlite", 7) as store:
        np.testing.assert_array_equal(store.get(["d", "a", "d"]), values[[3, 0, 3]])
        assert set(store.all_keys()) == set("abcde")
        with pytest.raises(KeyError):
            store.get(["z"])
        with pytest.raises(ValueError, match="zip"):
            store.put(["x", "y"], values[:1])
        assert "x" not in set(store.all_keys())


def test_the_name_of_a_store_follows_encoder_and_preprocessing() -> None:
    names = {store_key("a", PreprocessSpec(8)), store_key("b", PreprocessSpec(8)), store_key("a", PreprocessSpec(9))}
    assert len(names) == 3
    assert store_key("a", PreprocessSpec(8)) in names


FILL = """
import sys
from pathlib import Path
import numpy as np
from tmcr.features import FeatureStore
path, prefix, rounds = sys.argv[1:]
with FeatureStore(Path(path), 4) as store:
    for number in range(int(rounds)):
        keys = [f"{prefix}{number}.{each}" for each in range(20)]
        store.put(keys, np.full((20, 4), number, dtype=np.float32))
"""


def test_several_writers_share_a_store_and_a_kill_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    def writer(prefix: str, rounds: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", FILL, str(path), prefix, str(rounds)])

    killed, workers = writer("k", 10_000_000), [writer(prefix, 15) for prefix in "ab"]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with FeatureStore(path, 4) as store:
            if len(store) > 700:
                break
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    with FeatureStore(path, 4) as store:
        keys = list(store.all_keys())
        assert sum(key.startswith("a") for key in keys) == sum(key.startswith("b") for key in keys) == 300
        whole = [key.split(".")[0] for key in keys if key.startswith("k")]
        assert whole
        assert {whole.count(name) for name in set(whole)} == {20}
        np.testing.assert_array_equal(store.get(["a7.3"]), np.full((1, 4), 7, dtype=np.float32))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"this is no database, not at all" * 50)
    with pytest.raises(DataError, match="cannot use this feature store"):
        FeatureStore(tmp_path / "store.sqlite", 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot use this feature store"):
        FeatureStore(tmp_path / "file" / "store.sqlite", 4)


# ---- training views -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("views")
    for number in range(6):
        scene(60, 50, seed=number).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


SPEC = PreprocessSpec(16, "squash", 20)


def views(paths: list[Path], *, workers: int = 2, seed: int = 0, flip: bool = True) -> PhotoViews:
    return PhotoViews(paths, SPEC, seed=seed, workers=workers, flip=flip)


BATCHES = [np.array([0, 1, 1]), np.array([5, 2]), np.array([3, 4, 0, 1])]


def test_random_views_depend_on_their_place_and_not_on_workers_or_where_one_begins(paths: list[Path]) -> None:
    reference = [batch.numpy() for batch in views(paths).random(BATCHES, epoch=3)]
    assert [batch.shape for batch in reference] == [(3, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16)]
    for workers in (0, 1, 5):
        for mine, other in zip(views(paths, workers=workers).random(BATCHES, epoch=3), reference, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other)
    (last,) = views(paths).random(BATCHES, epoch=3, first=2)
    np.testing.assert_array_equal(last.numpy(), reference[2])
    assert not np.array_equal(reference[0][1], reference[0][2])  # the same photo, another view
    assert not np.array_equal(next(views(paths).random(BATCHES, epoch=4)).numpy(), reference[0])
    assert not np.array_equal(next(views(paths, seed=1).random(BATCHES, epoch=3)).numpy(), reference[0])


def test_scored_views_are_what_scoring_sees(paths: list[Path]) -> None:
    batches = list(views(paths).scored([4, 0, 2], batch_size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    np.testing.assert_array_equal(batches[0][0].numpy(), SPEC(decode(paths[4])))


def test_a_photo_that_vanishes_during_training_stops_it_with_its_name(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(views([*paths, tmp_path / "gone.png"]).random([np.array([6, 0])], epoch=0))


# ---- configuration --------------------------------------------------------------------------------------------


def test_presets_follow_their_source() -> None:
    paper, official = preset("paper"), preset("official")
    assert (paper.rank.form, paper.fit.score_head, paper.cluster.k, paper.rank.frequency) == ("paper", "mlp", 15, 30)
    assert (official.rank.form, official.rank.n_bal, official.fit.score_head) == ("official", 9, "linear")
    assert official.encoders.preprocessing == "official"
    assert preset("small").encoders.image_text == "starter"
    with pytest.raises(ConfigError, match="paper, official, small"):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name: str) -> None:
    assert TrainConfig.from_json(preset(name).to_json(), "here") == preset(name)


def test_settings_are_changed_by_their_dotted_names() -> None:
    changed = preset("small").with_overrides({"rank.epochs": 7, "seed": 3, "cluster.k": "auto"})
    assert (changed.rank.epochs, changed.seed, changed.cluster.k) == (7, 3, "auto")
    assert preset("small").rank.epochs != 7
    assert parse_setting("fit.dropout=0.5") == ("fit.dropout", 0.5)
    assert parse_setting("cluster.k=auto") == ("cluster.k", "auto")
    assert parse_setting("match.template=a = {}") == ("match.template", "a = {}")
    for wrong, says in (
        ({"rank.epoch": 1}, "no setting 'rank.epoch'"),
        ({"ranking.epochs": 1}, "sections are"),
        ({"rank.epochs": -1}, "setting rank.epochs"),
        ({"fit.mode": "both"}, "setting fit.mode"),
        ({"seed": "often"}, "setting seed"),
    ):
        with pytest.raises(ConfigError, match=says):
            preset("small").with_overrides(wrong)
    with pytest.raises(ConfigError, match=r"section\.name=value"):
        parse_setting("rank.epochs")
    with pytest.raises(ConfigError, match="run/config"):
        TrainConfig.from_json('{"nonsense": 1}', "run/config.json")
