"""The parts of the experiments, each against its plainest reading."""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tmcr
from tmcr.datasets.manifest import Manifest
from tmcr.errors import ConfigError, DataError
from tmcr.experiments import baselines, bench, paper, peers, probes, resampling, reweighting
from tmcr.experiments.outcome import HeldOut, RegionRule, balanced_list, estimate, held_out, region_edges
from tmcr.experiments.plan import Plan, number_range
from tmcr.metrics import bootstrap, emd_per_photo, mse, paired_difference, plcc, srcc
from tmcr.training.config import preset

VALUES = np.arange(1.0, 11.0)


def rated(count: int = 60, seed: int = 0, groups: int = 20) -> Manifest:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(10), count)
    return Manifest(
        ids=tuple(f"{number}.jpg" for number in range(count)),
        paths=tuple(Path(f"{number}.jpg") for number in range(count)),
        distributions=shares,
        score_values=VALUES,
        splits=tuple(("train", "train", "val", "test")[number % 4] for number in range(count)),
        groups=tuple(f"theme {number % groups}" for number in range(count)),
    )


# ---- plan ---------------------------------------------------------------------------------------------------------


def test_every_pass_over_folds_holds_every_photo_out_once_and_keeps_groups_whole() -> None:
    photos = rated()
    passes = list(Plan(seeds=(3, 4), folds=4, repeats=(0, 1)).passes(photos, 0.2))
    assert len(passes) == 4
    for cells in passes:
        held = [photo for cell in cells for photo in cell.manifest.part("test").ids]
        assert sorted(held) == sorted(photos.ids)
        for cell in cells:
            parts = {part: set(cell.manifest.part(part).groups or ()) for part in ("train", "val", "test")}
            assert all(parts.values())
            assert not parts["train"] & parts["test"]
            assert not parts["val"] & (parts["train"] | parts["test"])
    assert [cell.manifest.splits for cell in passes[0]] != [cell.manifest.splits for cell in passes[2]]


def test_the_datas_own_test_part_is_one_cell_for_each_seed() -> None:
    passes = list(Plan(seeds=(0, 1)).passes(rated(), 0.2))
    assert [[(cell.name, cell.seed) for cell in cells] for cells in passes] == [[("test", 0)], [("test", 1)]]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plan(folds=1), "at least 2 folds"),
        (lambda: Plan(repeats=(0, 1)), "give --folds 5 too"),
        (lambda: list(Plan(folds=30).passes(rated(), 0.2)), "fall into 20 groups"),
        (lambda: number_range("four", "seeds"), "FROM-TO"),
        (lambda: number_range("4-3", "seeds"), "at least one"),
        (lambda: number_range("0", "seeds"), "at least one"),
        (lambda: region_edges("3,2,1"), "four scores"),
        (lambda: region_edges("3,2,4,5"), "must ascend"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


def test_ranges_of_seeds_can_be_shared_among_machines() -> None:
    assert number_range("3", "seeds") == (0, 1, 2)
    assert number_range("2-4", "seeds") == (2, 3, 4)


# ---- baselines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [8, 40])  # fewer and more photos than features
def test_ridge_is_the_minimum_of_its_loss_whichever_system_is_solved(photos: int) -> None:
    rng = np.random.default_rng(1)
    x, new, y = rng.normal(size=(photos, 12)), rng.normal(size=(3, 12)), rng.dirichlet(np.ones(4) * 50, photos)
    z, z_new = (x - x.mean(0)) / x.std(0), (new - x.mean(0)) / x.std(0)
    weights = np.linalg.inv(z.T @ z + 0.7 * 12 * np.eye(12)) @ z.T @ (y - y.mean(0))
    expected = y.mean(0) + z_new @ weights
    assert (expected > 0).all()
    np.testing.assert_allclose(baselines.ridge(x, y, new, strength=0.7), expected / expected.sum(1, keepdims=True))


# ---- label distribution smoothing ---------------------------------------------------------------------------------


def test_lds_weights_are_one_over_the_root_of_the_smoothed_count() -> None:
    scores = np.array([1.0, 1.1, 1.3, 5.0, 5.01, 5.2, 5.24, 5.6, 10.0])
    counts = Counter(math.floor((score - 1) / 0.25 + 1e-9) for score in scores)
    kernel = [math.exp(-0.5 * (offset / 2) ** 2) for offset in range(-2, 3)]

    def density(score: float) -> float:
        own = math.floor((score - 1) / 0.25 + 1e-9)
        return sum(weight / sum(kernel) * counts[own + step] for step, weight in zip(range(-2, 3), kernel, strict=True))

    expected = np.array([density(score) ** -0.5 for score in scores])
    np.testing.assert_allclose(reweighting.lds_weights(scores), expected / expected.mean())


def test_repeats_are_shares_rounded_up_or_down_and_right_on_average() -> None:
    weights = np.array([0.3, 1.9, 0.8, 1.0, 0.55])
    share = weights / weights.sum() * 20
    drawn = np.array([reweighting.repeats(weights, 20, seed=seed) for seed in range(2000)])
    assert (drawn.sum(1) == 20).all()
    assert (np.abs(drawn - share) < 1).all()
    np.testing.assert_allclose(drawn.mean(0), share, atol=0.05)


def test_reweighting_repeats_rare_training_photos_and_nothing_else() -> None:
    photos = rated(200, seed=3)
    again = reweighting.reweighted(photos, seed=0)
    assert len(again.part("train")) == 4 * len(photos.part("train"))
    assert again.part("test").ids == photos.part("test").ids
    assert set(Counter(again.part("val").ids).values()) == {4}  # what validation says is unchanged
    assert set(again.part("val").ids) == set(photos.part("val").ids)
    counts = Counter(again.part("train").ids)
    weights = dict(zip(photos.part("train").ids, reweighting.lds_weights(photos.part("train").scores), strict=True))
    assert all(abs(counts[photo] - 4 * weight) < 1 for photo, weight in weights.items())


def test_an_epoch_over_the_copies_counts_as_that_many_epochs() -> None:
    config = preset("small").fit
    settings = reweighting.epochs_over_copies(config)
    assert settings["fit.epochs"] * 4 == config.epochs
    assert settings["fit.patience"] * 4 == config.patience
    assert settings["fit.decay"] == pytest.approx(config.decay**4)


# ---- probes -------------------------------------------------------------------------------------------------------


def embedded_quality(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (n, 8) whose first number says how a photo is liked; its mean rating (n,) and ratings (n, 10)."""
    embeddings = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    quality = 5.5 + 1.5 * np.tanh(embeddings[:, 0])
    shares = np.exp(-0.5 * (VALUES - quality[:, None]) ** 2)
    return embeddings, quality, shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("widths", [(), probes.MLP_WIDTHS], ids=["linear", "MLP"])
def test_a_probe_learns_what_the_embedding_holds(widths: tuple[int, ...]) -> None:
    embeddings, quality, shares = embedded_quality(300)
    rows = np.arange(300)
    config = preset("small").with_overrides({"fit.weight_decay": 0.0, "fit.epochs": 20}).fit
    predicted = probes.probe(
        embeddings, shares, train=rows[:200], validation=rows[200:250], test=rows[250:], widths=widths, config=config,
        seed=0,
    )  # fmt: skip
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-5)
    assert srcc(predicted @ VALUES, quality[250:]) > 0.9


def test_a_probe_is_fitted_anew_on_validation_photos_too_where_the_method_is() -> None:
    embeddings, _, shares = embedded_quality(200)
    rows = np.arange(200)

    def answer(refit: bool, validation: np.ndarray) -> np.ndarray:
        config = preset("small").with_overrides({"fit.refit": refit, "fit.epochs": 1}).fit
        parts = {"train": rows[:100], "validation": validation, "test": rows[180:]}
        return probes.probe(embeddings, shares, **parts, widths=(), config=config, seed=0)

    one, other = rows[100:140], rows[140:180]
    assert np.array_equal(answer(False, one), answer(False, other))  # both keep their only epoch
    assert not np.array_equal(answer(True, one), answer(True, other))


def test_antonym_prompts_prefer_photos_near_the_liked_one() -> None:
    class Compass:
        logit_scale = 10.0

        def encode_texts(self, texts: list[str]) -> torch.Tensor:
            liked = {text for text, _ in probes.LIKED_AND_DISLIKED}
            return torch.tensor([[1.0, 0.0] if text in liked else [0.0, 1.0] for text in texts])

    photos = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=np.float32)
    preference = probes.antonym_preference(Compass(), photos)  # type: ignore[arg-type]
    expected = [1 / (1 + math.exp(-10)), 1 / (1 + math.exp(2)), 1 / (1 + math.exp(10))]
    np.testing.assert_allclose(preference, expected, 1e-4)


# ---- peers --------------------------------------------------------------------------------------------------------


def by_number(paths: list[Path]) -> list[float]:
    return [float(path.stem) / 100 for path in paths]


def uniform(paths: list[Path]) -> np.ndarray:
    return np.full((len(paths), 10), 0.1)


def broken(paths: list[Path]) -> list[float]:
    raise RuntimeError("weights are missing\nand more")


def one_number(paths: list[Path]) -> list[float]:
    return [1.0]


HERE = Path(__file__).stem


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def test_a_peers_numbers_are_calibrated_by_the_line_through_the_validation_photos() -> None:
    photos = rated()
    validation, test = np.arange(0, 40), np.arange(40, 60)
    scores = 3 + 0.05 * np.arange(60)
    shares = np.exp(-0.5 * (VALUES - scores[:, None]) ** 2)
    photos = Manifest(**vars(photos) | {"distributions": shares / shares.sum(1, keepdims=True)})
    predicted = peers.peer_distributions(peers.load_peer(f"{HERE}:by_number"), photos, validation, test)
    raw = np.array(by_number([Path(f"{row}.jpg") for row in range(60)]))
    line = np.polyval(np.polyfit(raw[validation], photos.scores[validation], 1), raw[test])
    np.testing.assert_allclose(predicted @ VALUES, line, atol=1e-6)
    np.testing.assert_allclose(predicted.sum(1), 1)


def test_a_peer_that_ranks_the_wrong_way_round_is_not_put_right() -> None:
    photos = rated()
    wrong = -photos.scores
    answers = peers.calibrated(wrong[40:], wrong[:40], photos, np.arange(40))
    assert srcc(answers @ VALUES, photos.scores[40:]) == pytest.approx(-1)


def test_a_peers_own_distributions_are_taken_as_they_are() -> None:
    predicted = peers.peer_distributions(peers.load_peer(f"{HERE}:uniform"), rated(), np.arange(5), np.arange(5, 9))
    np.testing.assert_allclose(predicted, 0.1)


@pytest.mark.parametrize(("name", "says"), [("broken", "weights are missing"), ("one_number", "must return 4")])
def test_a_peer_that_fails_is_told_in_one_line(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        peers.peer_distributions(peers.load_peer(f"{HERE}:{name}"), rated(), np.arange(5), np.arange(5, 9))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere_at_all:score", "PYTHONPATH"),
        (f"{HERE}:nothing", "PYTHONPATH"),
        (f"{HERE}:VALUES", "no function"),
        ("plain", "MODULE:FUNCTION"),
    ],
)
def test_a_peer_that_is_not_there_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        peers.load_peer(name)


def test_pyiqa_metrics_are_found_by_name_and_lower_ones_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def create_metric(name: str, device: torch.device) -> object:
        asked.append(name)

        class Metric:
            lower_better = name == "niqe"

            def __call__(self, path: str) -> torch.Tensor:
                return torch.tensor(float(Path(path).stem))

        return Metric()

    stand_in = SimpleNamespace(list_models=lambda: ["niqe", "topiq_iaa"], create_metric=create_metric, __version__="0")
    monkeypatch.setitem(sys.modules, "pyiqa", stand_in)
    paths = [Path("1.jpg"), Path("2.jpg")]
    assert peers.load_peer("pyiqa:topiq_iaa", "cpu").score(paths) == [1.0, 2.0]
    assert peers.load_peer("pyiqa:niqe", "cpu").score(paths) == [-1.0, -2.0]
    assert asked == ["topiq_iaa", "niqe"]  # weights are loaded when photos are scored, not before
    with pytest.raises(ConfigError, match="has no such metric; it has niqe, topiq_iaa"):
        peers.load_peer("pyiqa:magic")


def test_without_pyiqa_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError, match=r"pip install 'tmcr\[peers\]'"):
        peers.load_peer("pyiqa:topiq_iaa")


# ---- outcome ------------------------------------------------------------------------------------------------------


def answers(photos: Manifest, passes: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = [photos.distributions + noise * rng.dirichlet(np.ones(10), len(photos)) for _ in range(passes)]
    return np.stack([each / each.sum(1, keepdims=True) for each in mixed])


def everyone(photos: Manifest, passes: int) -> HeldOut:
    return held_out(photos, photos.scores, RegionRule(edges=(4.5, 5.2, 5.8, 6.5)), passes)


def test_a_value_is_the_mean_over_passes_of_the_metric_on_each() -> None:
    photos = rated(80, seed=4)
    predicted = answers(photos, 3, 0.5)
    found = estimate(predicted, everyone(photos, 3), ("srcc", "mse", "emd1", "mse_few"), resamples=20)
    scores = predicted @ VALUES
    few = (photos.scores < 4.5) | (photos.scores >= 6.5)
    for metric, value in {
        "srcc": np.mean([srcc(each, photos.scores) for each in scores]),
        "mse": np.mean([mse(each, photos.scores) for each in scores]),
        "emd1": np.mean([emd_per_photo(each, photos.distributions, r=1).mean() for each in predicted]),
        "mse_few": np.mean([mse(each[few], photos.scores[few]) for each in scores]),
    }.items():
        assert found[metric].value == pytest.approx(value)


def test_weights_do_what_repeating_photos_does() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(1, 6, 30) / 2, rng.normal(size=30)  # x has ties
    (weights,) = resampling.group_weights([f"theme {row // 3}" for row in range(30)], 25, seed=1)
    assert (weights.sum(1) == 30).all()
    assert (weights.reshape(25, 10, 3) == weights.reshape(25, 10, 3)[:, :, :1]).all()  # whole groups
    repeated = [np.repeat(np.arange(30), row.astype(int)) for row in weights]
    np.testing.assert_allclose(resampling.mean(weights, y), [y[rows].mean() for rows in repeated])
    np.testing.assert_allclose(resampling.pearson(weights, x, y), [plcc(x[rows], y[rows]) for rows in repeated])
    ranked = resampling.pearson(weights, resampling.ranks(weights, x), resampling.ranks(weights, y))
    np.testing.assert_allclose(ranked, [srcc(x[rows], y[rows]) for rows in repeated])
    assert np.isnan(resampling.pearson(weights, np.full(30, 0.1), y)).all()
    assert np.isnan(resampling.mean(np.zeros((1, 30)), y)).all()


def test_one_pass_has_the_interval_of_a_bootstrap_over_groups() -> None:
    photos = rated(80, seed=4)
    predicted = answers(photos, 1, 0.5)
    found = estimate(predicted, everyone(photos, 1), ("srcc",), resamples=2000)["srcc"].interval()
    plain = bootstrap(srcc, predicted[0] @ VALUES, photos.scores, n=2000, groups=photos.groups)
    assert found == pytest.approx((plain.low, plain.high), abs=0.02)


def test_differences_are_paired() -> None:
    photos = rated(80, seed=4)
    good, bad = answers(photos, 1, 0.3), answers(photos, 1, 1.5, seed=1)
    one = everyone(photos, 1)
    first, second = (estimate(each, one, ("srcc",), resamples=2000)["srcc"] for each in (good, bad))
    assert first.minus(first).interval() == (0, 0)
    plain = paired_difference(srcc, good[0] @ VALUES, bad[0] @ VALUES, photos.scores, n=2000, groups=photos.groups)
    assert first.minus(second).interval() == pytest.approx((plain.low, plain.high), abs=0.03)


def test_the_interval_holds_the_luck_of_the_pass_even_where_photos_bring_none() -> None:
    photos = rated(40)
    truth = np.tile(np.eye(10)[4], (40, 1))
    photos = Manifest(**vars(photos) | {"distributions": truth})
    lucky, unlucky = truth, np.tile(np.eye(10)[6], (40, 1))  # always two bins off: EMD 0.2
    found = estimate(np.stack([lucky, unlucky]), everyone(photos, 2), ("emd1",))["emd1"]
    assert found.value == pytest.approx(0.1)
    assert found.interval() == pytest.approx((0, 0.2))


def test_what_is_undefined_has_no_value_and_no_interval() -> None:
    photos = rated(20)
    found = estimate(np.full((1, 20, 10), 0.1), everyone(photos, 1), ("srcc", "mse"), resamples=50)
    assert (found["srcc"].value, found["srcc"].interval(), str(found["srcc"])) == (None, None, "–")
    assert found["mse"].interval() is not None


def test_the_balanced_draw_takes_as_many_of_each_region_and_anew_for_each_pass() -> None:
    photos = rated(200, seed=5)
    held = everyone(photos, 2)
    for drawn in held.drawn:
        assert len(set(Counter(held.regions[drawn].tolist()).values())) == 1
    assert (held.drawn[0] != held.drawn[1]).any()
    predicted = answers(photos, 2, 0.5)
    found = estimate(predicted, held, ("mse",), which="balanced", resamples=10)["mse"].value
    chosen = [
        mse(each[drawn] @ VALUES, photos.scores[drawn]) for each, drawn in zip(predicted, held.drawn, strict=True)
    ]
    assert found == pytest.approx(np.mean(chosen))


def test_a_balanced_list_names_photos_with_or_without_suffix(tmp_path: Path) -> None:
    photos = rated(20)
    (tmp_path / "list.csv").write_text("image_id,more\n3,x\n7,y\n11.jpg,z\n99,not here\n")
    rule = RegionRule(balanced=balanced_list(tmp_path / "list.csv"))
    drawn = held_out(photos, photos.scores, rule, 1).drawn
    assert [photos.ids[row] for row in np.flatnonzero(drawn[0])] == ["3.jpg", "7.jpg", "11.jpg"]
    with pytest.raises(DataError, match="none of which is held out"):
        held_out(photos, photos.scores, RegionRule(balanced=("99",)), 1)
    with pytest.raises(DataError, match="cannot read this list"):
        balanced_list(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("image_id\n")
    with pytest.raises(DataError, match="lists no photo"):
        balanced_list(tmp_path / "empty.csv")


def test_the_released_balanced_list_is_read_whole_and_its_regions_are_the_papers(shared_data: Path) -> None:
    path = shared_data / "ava_labels" / "tmcr_test_balanced.csv"
    listed = balanced_list(path)
    assert len(listed) == 1371
    with path.open() as file:
        rows = list(csv.DictReader(file))
    rule = RegionRule(edges=(3.85, 4.865, 5.885, 6.90))
    regions = rule.regions(np.array([5.0]), np.array([float(row["Aesthetic"]) for row in rows]))
    assert Counter(regions.tolist()) == {"many": 513, "med": 510, "few": 348}
    assert regions.tolist() == [row["Shot"].lower().removesuffix("ium") for row in rows]


# ---- the paper, the code ------------------------------------------------------------------------------------------


def test_the_papers_tables_are_whole() -> None:
    tables = [value for value in vars(paper).values() if isinstance(value, paper.PaperTable)]
    assert len(tables) == 6
    assert all(len(row) == len(table.metrics) for table in tables for row in table.rows.values())
    assert dict(zip(paper.TABLE_3.metrics, paper.TABLE_3.rows["TMCR"], strict=True))["mse_few"] == ".818"
    assert paper.TABLE_1.rows["TMCR, Swin-B"] == paper.TABLE_4.rows["TM+CR FT"]


def test_the_digest_of_the_code_sees_code_and_no_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tmcr, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "training").mkdir()
    file = tmp_path / "training" / "fit.py"

    def digest_of(text: str) -> str:
        file.write_text(text)
        return bench.code_digest.__wrapped__()

    first = digest_of("x = 1\n")
    assert digest_of("# why\nx  =  1\n") == first
    assert digest_of("x = 2\n") != first
