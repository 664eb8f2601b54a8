"""Metrics against scipy, hand-computed values and plain loops."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tmcr import metrics
from tmcr.errors import MetricError

VALUES = np.arange(1.0, 11.0)


def random_distributions(n: int, bins: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(bins), size=n)


# --- metrics of the mean ---


def test_acc_counts_agreement_about_being_above_five():
    predicted = [4.0, 6.0, 5.0, 5.1]
    true = [4.9, 5.2, 5.1, 8.0]  # sides: low low, high high, low high, high high
    assert metrics.acc(predicted, true) == 0.75


def test_acc_of_exactly_five_is_low():
    assert metrics.acc([5.0], [4.0]) == 1.0
    assert metrics.acc([5.0], [5.0 + 1e-9]) == 0.0


def test_mse_by_hand():
    assert metrics.mse([1, 2, 3], [1, 4, 2]) == pytest.approx(5 / 3)


scores_with_ties = st.lists(st.integers(2, 18).map(lambda i: i / 2), min_size=2, max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_correlations_equal_scipys_with_ties(data):
    predicted = data.draw(scores_with_ties)
    true = data.draw(st.lists(st.integers(2, 18), min_size=len(predicted), max_size=len(predicted)))
    if len(set(predicted)) == 1 or len(set(true)) == 1:
        with pytest.raises(MetricError, match="all the same"):
            metrics.srcc(predicted, true)
        return
    assert metrics.srcc(predicted, true) == pytest.approx(stats.spearmanr(predicted, true).statistic, abs=1e-12)
    assert metrics.plcc(predicted, true) == pytest.approx(stats.pearsonr(predicted, true).statistic, abs=1e-12)


def test_srcc_by_hand_with_a_tie():
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: cov 4.5, variances 4.5 and 5
    assert metrics.srcc([1, 2, 2, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_srcc_sees_order_only_and_plcc_the_line():
    true = np.array([1.0, 2, 3, 4, 5])
    assert metrics.srcc(np.exp(true), true) == 1.0
    assert metrics.plcc(np.exp(true), true) < 0.95
    assert metrics.plcc(3 - 2 * true, true) == -1.0


@pytest.mark.parametrize("metric", [metrics.acc, metrics.mse, metrics.plcc, metrics.srcc])
@pytest.mark.parametrize(
    ("predicted", "true", "says"),
    [
        ([1.0, 2.0], [1.0], "2 predicted scores but 1 true|at least 2"),
        ([1.0, float("nan"), 3.0], [1.0, 2.0, 3.0], "number 1 .* is not"),
        ([1.0, 2.0], [1.0, float("inf")], "finite"),
        ([], [], "0 given"),
        ([[1.0], [2.0]], [1.0, 2.0], "2 × 1"),
        (["a", "b"], [1.0, 2.0], "must be numbers"),
    ],
)
def test_unusable_scores_are_refused(metric, predicted, true, says):
    with pytest.raises(MetricError, match=says):
        metric(predicted, true)


@pytest.mark.parametrize("metric", [metrics.plcc, metrics.srcc])
def test_correlation_of_a_constant_or_of_one_photo_is_an_error(metric):
    with pytest.raises(MetricError, match="predicted scores are all the same"):
        metric([3.0, 3.0, 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(MetricError, match="true scores are all the same"):
        metric([1.0, 2.0, 3.0], [0.1 + 0.2, 0.3, 0.3])  # equal up to rounding
    with pytest.raises(MetricError, match="at least 2"):
        metric([3.0], [1.0])


# --- metrics of the distribution ---


def test_emd_by_hand():
    predicted, true = [[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]  # CDFs differ by 1, 1, 0, 0
    assert metrics.emd(predicted, true, r=1) == pytest.approx(2 / 4)
    assert metrics.emd(predicted, true, r=2) == pytest.approx(np.sqrt(2 / 4))


def test_emd_one_is_the_wasserstein_distance_in_units_of_the_number_of_bins():
    predicted, true = random_distributions(20, seed=1), random_distributions(20, seed=2)
    by_scipy = [stats.wasserstein_distance(VALUES, VALUES, p, t) for p, t in zip(predicted, true, strict=True)]
    assert metrics.emd_per_photo(predicted, true, r=1) == pytest.approx(np.array(by_scipy) / 10)


def test_emd_two_equals_plain_loops_over_photos_and_bins():
    predicted, true = random_distributions(5, seed=1), random_distributions(5, seed=2)
    total = 0.0
    for photo in range(5):
        squares = 0.0
        for d in range(10):
            squares += (sum(predicted[photo][: d + 1]) - sum(true[photo][: d + 1])) ** 2
        total += (squares / 10) ** 0.5
    assert metrics.emd(predicted, true, r=2) == pytest.approx(total / 5)


@pytest.mark.parametrize(
    ("distributions", "says"),
    [
        ([[0.5, 0.6]], "row 0 .* does not sum to 1"),
        ([[0.5, 0.5], [1.2, -0.2]], "row 1 .* negative"),
        ([[0.5, float("nan")]], "finite"),
        ([0.5, 0.5], "score bins"),
    ],
)
def test_what_is_no_distribution_is_refused(distributions, says):
    with pytest.raises(MetricError, match=says):
        metrics.emd(distributions, distributions)


def test_emd_on_different_bins_names_the_way_out():
    with pytest.raises(MetricError, match="on_axis"):
        metrics.emd(random_distributions(3, 7), random_distributions(3, 10))


def test_moving_to_another_axis_splits_mass_and_keeps_the_mean():
    seven = np.linspace(1, 10, 7)  # 1, 2.5, 4, …, 10
    moved = metrics.on_axis([[0, 1, 0, 0, 0, 0, 0]], seven, VALUES)
    assert moved == pytest.approx(np.array([[0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]]))
    distributions = random_distributions(50, 7)
    moved = metrics.on_axis(distributions, seven, VALUES)
    assert moved.sum(axis=1) == pytest.approx(1)
    assert moved @ VALUES == pytest.approx(distributions @ seven)


def test_mass_beyond_the_new_axis_goes_to_its_ends():
    assert metrics.on_axis([[0.25, 0.5, 0.25]], [1, 5, 10], [4, 6]) == pytest.approx(np.array([[0.5, 0.5]]))


# --- evaluate ---


def test_evaluate_reports_every_metric():
    predicted, true = random_distributions(40, seed=3), random_distributions(40, seed=4)
    report = metrics.evaluate(predicted, true, VALUES, resamples=0)
    scores, true_scores = predicted @ VALUES, true @ VALUES
    assert report.n == 40
    assert report.srcc == pytest.approx(stats.spearmanr(scores, true_scores).statistic)
    assert report.plcc == pytest.approx(stats.pearsonr(scores, true_scores).statistic)
    assert report.mse == pytest.approx(np.mean((scores - true_scores) ** 2))
    assert report.emd1 == pytest.approx(metrics.emd(predicted, true, r=1))
    assert report.emd2 == pytest.approx(metrics.emd(predicted, true, r=2))
    assert report.intervals == {}


def test_evaluate_of_a_constant_predictor_has_no_correlation_but_all_else():
    true = random_distributions(30)
    constant = np.tile(true.mean(axis=0), (30, 1))
    report = metrics.evaluate(constant, true, VALUES, resamples=50)
    assert report.srcc is None
    assert report.plcc is None
    assert set(report.intervals) == {"acc", "mse", "emd1", "emd2"}
    assert report.intervals["mse"].low < report.mse < report.intervals["mse"].high


def test_evaluate_gives_intervals_and_the_long_tail():
    predicted, true = random_distributions(40, seed=3), random_distributions(40, seed=4)
    groups = [f"theme {i // 2}" for i in range(40)]
    report = metrics.evaluate(
        predicted, true, VALUES, train_scores=[5.2] * 10 + [6.2], groups=groups, resamples=60, seed=5
    )
    true_scores = true @ VALUES
    expected = metrics.bootstrap(metrics.srcc, predicted @ VALUES, true_scores, n=60, seed=5, groups=groups)
    assert report.intervals["srcc"] == expected
    assert report.long_tail is not None
    assert report.long_tail.counts["many"] == int(((true_scores >= 5) & (true_scores < 5.5)).sum())
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["intervals"]["srcc"] == [expected.low, expected.high]
    assert plain["long_tail"]["mse_all"] == pytest.approx(report.mse)


def test_evaluate_of_one_photo_or_one_group_has_no_intervals():
    one, three = random_distributions(1), random_distributions(3)
    assert metrics.evaluate(one, one, VALUES).intervals == {}
    assert metrics.evaluate(three, three, VALUES, groups=["a", "a", "a"]).intervals == {}
    with pytest.raises(MetricError, match="3 photos but 2 groups"):
        metrics.evaluate(three, three, VALUES, groups=["a", "b"])


def test_evaluate_across_bins_measures_on_the_bins_of_the_ratings():
    seven = np.linspace(1, 10, 7)
    true = random_distributions(30, 7)
    predicted = metrics.on_axis(true, seven, VALUES)
    report = metrics.evaluate(predicted, true, VALUES, true_values=seven)
    back = metrics.on_axis(predicted, VALUES, seven)
    assert report.mse == pytest.approx(0, abs=1e-20)
    assert report.emd1 == pytest.approx(metrics.emd(back, true, r=1))


def test_evaluate_refuses_values_that_do_not_fit():
    with pytest.raises(MetricError, match="9 score values for 10 score bins"):
        metrics.evaluate(random_distributions(3), random_distributions(3), VALUES[:9])
    with pytest.raises(MetricError, match="3 predictions but 4 rated"):
        metrics.evaluate(random_distributions(3), random_distributions(4), VALUES)
    with pytest.raises(MetricError, match="ascend"):
        metrics.evaluate(random_distributions(3), random_distributions(3), VALUES[::-1])


# --- uncertainty ---


def test_bootstrap_interval_of_a_mean_is_the_normal_theory_one():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    interval = metrics.bootstrap(lambda v: float(np.mean(v)), values, n=2000, seed=1)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.15 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.15 * half_width)


def test_bootstrap_repeats_itself_by_seed():
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(size=(2, 30))
    again = [metrics.bootstrap(metrics.srcc, predicted, true, n=50, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_copies_of_photos_narrow_the_interval_unless_they_are_grouped():
    rng = np.random.default_rng(0)
    once = rng.normal(size=40)
    copied = np.repeat(once, 9)
    themes = [f"theme {i}" for i in np.repeat(np.arange(40), 9)]

    def width(interval: metrics.Interval) -> float:
        return interval.high - interval.low

    def mean(values: np.ndarray) -> float:
        return float(values.mean())

    honest = width(metrics.bootstrap(mean, once, n=2000))
    assert width(metrics.bootstrap(mean, copied, n=2000)) == pytest.approx(honest / 3, rel=0.1)
    assert width(metrics.bootstrap(mean, copied, n=2000, groups=themes)) == pytest.approx(honest, rel=0.1)


def test_group_resamples_hold_whole_groups():
    groups = ["a", "b", "a", "c", "b", "a"]
    seen: list[np.ndarray] = []
    metrics.bootstrap(lambda v: float(seen.append(v) or 0), np.arange(6), n=30, groups=groups)
    for resample in seen[1:]:
        counts = np.bincount(resample.astype(int), minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[[0, 1, 3]].sum() == 3


def test_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(0)
    true = rng.normal(size=200)
    worse = true + rng.normal(size=200)
    better = 0.8 * worse + 0.2 * true
    difference = metrics.paired_difference(metrics.srcc, better, worse, true, n=500)
    first = metrics.bootstrap(metrics.srcc, better, true, n=500)
    second = metrics.bootstrap(metrics.srcc, worse, true, n=500)
    assert difference.value == pytest.approx(first.value - second.value)
    assert difference.low > 0
    assert first.low < second.high  # apart, the two could not be told from each other


def test_bootstrap_refuses_what_cannot_be_resampled():
    with pytest.raises(MetricError, match="two photos or more"):
        metrics.bootstrap(metrics.mse, [1.0], [2.0])
    with pytest.raises(MetricError, match="two groups or more"):
        metrics.bootstrap(metrics.mse, [1.0, 2.0], [2.0, 2.0], groups=["a", "a"])
    with pytest.raises(MetricError, match="same length"):
        metrics.bootstrap(metrics.mse, [1.0, 2.0], [2.0])
    with pytest.raises(MetricError, match="2 photos but 1 groups"):
        metrics.bootstrap(metrics.mse, [1.0, 2.0], [2.0, 2.0], groups=["a"])
    with pytest.raises(MetricError, match="undefined on"):
        metrics.bootstrap(metrics.srcc, [1.0, 2.0], [2.0, 3.0], n=100)


# --- long tail ---


def test_the_papers_edges_split_scores():
    scores = [1.0, 3.849, 3.85, 4.864, 4.865, 5.884, 5.885, 6.89, 6.90, 10.0]
    expected = ["few", "few", "med", "med", "many", "many", "med", "med", "few", "few"]
    assert metrics.regions_by_edges(scores).tolist() == expected


def test_the_papers_edges_reproduce_the_released_list(shared_data: Path):
    with (shared_data / "ava_labels" / "tmcr_test_balanced.csv").open() as file:
        rows = list(csv.DictReader(file))
    votes = np.array([[float(row[f"score{i}"]) for i in range(2, 12)] for row in rows])
    means = votes @ VALUES / votes.sum(axis=1)
    assert metrics.regions_by_edges(means).tolist() == [row["Shot"].lower() for row in rows]


def test_density_regions_by_hand():
    train = [5.1] * 20 + [5.7] * 15 + [6.2] * 14 + [6.6] * 2 + [7.1]
    scores = [5.4, 5.5, 6.0, 6.9, 7.2, 9.0, 4.9]  # bins hold 20, 15, 14, 2, 1, 0, 0 of the fullest bin's 20
    assert metrics.regions_by_density(train, scores).tolist() == [
        "many",
        "many",
        "med",
        "med",
        "few",
        "few",
        "few",
    ]


def test_density_regions_on_ava_lie_near_the_papers(shared_data: Path):
    with (shared_data / "ava_labels" / "tanet_val.csv").open() as file:
        rows = list(csv.DictReader(file))
    votes = np.array([[float(row[f"score{i}"]) for i in range(2, 12)] for row in rows])
    means = votes @ VALUES / votes.sum(axis=1)
    same = metrics.regions_by_density(means, means) == metrics.regions_by_edges(means)
    assert same.mean() > 0.85


def test_balanced_draw_takes_as_many_from_every_region():
    regions = np.array(["many"] * 50 + ["med"] * 20 + ["few"] * 7)
    drawn = metrics.balanced_draw(regions, seed=3)
    assert np.unique(regions[drawn], return_counts=True)[1].tolist() == [7, 7, 7]
    assert len(set(drawn.tolist())) == 21
    assert drawn.tolist() == metrics.balanced_draw(regions, seed=3).tolist()
    assert drawn.tolist() != metrics.balanced_draw(regions, seed=4).tolist()
    assert len(metrics.balanced_draw(regions, per_region=2)) == 6


def test_balanced_draw_says_what_is_there():
    with pytest.raises(MetricError, match="many 2, med 1, few 0"):
        metrics.balanced_draw(["many", "many", "med"])
    with pytest.raises(MetricError, match="cannot draw 2"):
        metrics.balanced_draw(["many", "many", "med", "few"], per_region=2)


def test_long_tail_by_hand():
    result = metrics.long_tail([5, 5, 4, 9], [5, 6, 6, 6], ["many", "many", "med", "few"])
    assert result.mse == {"many": 0.5, "med": 4.0, "few": 9.0}
    assert result.mse_all == pytest.approx((0 + 1 + 4 + 9) / 4)
    assert result.counts == {"many": 2, "med": 1, "few": 1}
    assert result.n == 4


def test_long_tail_without_a_region_has_no_value_for_it():
    result = metrics.long_tail([5, 5], [5, 6], ["many", "many"])
    assert result.mse == {"many": 0.5}
    assert result.srcc is None
    with pytest.raises(MetricError, match="no region 'mny'"):
        metrics.long_tail([5, 5], [5, 6], ["mny", "many"])


def test_bad_regions_are_refused():
    with pytest.raises(MetricError, match="four ascending"):
        metrics.regions_by_edges([5.0], edges=(3, 2, 4, 5))
    with pytest.raises(MetricError, match="few ≤ many"):
        metrics.regions_by_density([5.0], [5.0], many=0.1, few=0.5)
