from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from understudy.errors import ConfigError, DataError, NonFiniteDataError
from understudy.evaluation import statistics
from understudy.evaluation.statistics import iqm, permutation_test, probability_of_improvement, stratified_bootstrap


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm([1, 2, 3, 100]) == pytest.approx(2.5)
    assert iqm([0, 0, 4, 5, 6, 7, 90, 100]) == pytest.approx((4 + 5 + 6 + 7) / 4)
    assert iqm([[0, 0], [4, 5], [6, 7], [90, 100]]) == pytest.approx(5.5)
    np.testing.assert_allclose(iqm([[1, 2, 3, 100], [5, 5, 7, 7]], axis=-1), [2.5, 6.0])


def test_iqm_of_few_scores_is_their_mean() -> None:
    assert iqm([1, 2, 9]) == pytest.approx(4)


def test_interval_of_two_scores_follows_the_four_equally_likely_resamples() -> None:
    """Resamples of (0, 1) have means 0, ½, ½, 1 with probability ¼, ½, ¼: half of the mass is ½ alone."""
    interval = stratified_bootstrap([0.0, 1.0], np.mean, confidence=0.4, n_resamples=4000, rng=np.random.default_rng(1))
    assert (interval.point, interval.low, interval.high) == (0.5, 0.5, 0.5)
    interval = stratified_bootstrap([0.0, 1.0], np.mean, confidence=0.6, n_resamples=4000, rng=np.random.default_rng(1))
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_interval_of_the_mean_is_close_to_the_normal_one() -> None:
    scores = np.random.default_rng(0).normal(10, 2, size=400)
    interval = stratified_bootstrap(scores, np.mean, rng=np.random.default_rng(0))
    half = 1.96 * scores.std() / 20
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.1 * half)
    assert interval.low < interval.point < interval.high


def test_runs_are_resampled_within_their_task() -> None:
    """Two tasks far apart but constant within: pooled resampling would spread, stratified must not."""
    scores = np.array([[0.0, 100.0]] * 10)
    interval = stratified_bootstrap(scores, np.mean)
    assert (interval.point, interval.low, interval.high) == (50.0, 50.0, 50.0)
    scores[0, 0] = 10.0
    interval = stratified_bootstrap(scores, np.mean)
    assert 50.0 <= interval.low < interval.point < interval.high < 53.0


def test_constant_scores_give_a_point_with_every_method() -> None:
    for method in ("percentile", "basic", "BCa"):
        interval = stratified_bootstrap([500.0] * 10, method=method)  # type: ignore[arg-type]
        assert (interval.low, interval.point, interval.high) == (500.0, 500.0, 500.0)


def test_a_statistic_without_spread_in_uneven_scores_is_its_own_interval() -> None:
    interval = stratified_bootstrap([500.0] * 99 + [9.0])
    assert (interval.low, interval.point, interval.high) == (500.0, 500.0, 500.0)


def test_the_same_generator_seed_gives_the_same_interval() -> None:
    scores = np.arange(20.0)
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores, rng=np.random.default_rng(3)) == stratified_bootstrap(
        scores, rng=np.random.default_rng(3)
    )


def test_blocks_do_not_change_the_number_of_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.arange(50.0)
    whole = stratified_bootstrap(scores, rng=np.random.default_rng(0))
    monkeypatch.setattr(statistics, "_BLOCK", 500)
    blocks = stratified_bootstrap(scores, rng=np.random.default_rng(0))
    assert blocks.low == pytest.approx(whole.low, abs=1.0)
    assert blocks.point == whole.point


def test_probability_of_improvement_counts_pairs() -> None:
    """Pairs of (2, 3, 4) against (1, 3): 2>1, 3>1, 4>1, 4>3 win, 3=3 is half, 2<3 loses: 4.5 of 6."""
    assert probability_of_improvement([2, 3, 4], [1, 3]).point == pytest.approx(4.5 / 6)
    assert probability_of_improvement([1, 3], [2, 3, 4]).point == pytest.approx(1.5 / 6)


def test_probability_of_improvement_agrees_with_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 10, 30), rng.integers(2, 12, 40)
    expected = stats.mannwhitneyu(x, y).statistic / (30 * 40)
    interval = probability_of_improvement(x, y)
    assert interval.point == pytest.approx(expected)
    assert 0 <= interval.low < interval.point < interval.high <= 1


def test_probability_of_improvement_is_averaged_over_tasks() -> None:
    x = np.array([[1.0, 5.0], [2.0, 6.0]])
    y = np.array([[0.0, 7.0], [0.5, 8.0], [0.2, 9.0]])
    interval = probability_of_improvement(x, y)
    assert (interval.low, interval.point, interval.high) == (0.5, 0.5, 0.5)


def test_probability_of_improvement_of_constants() -> None:
    assert probability_of_improvement([5, 5], [5, 5]).point == 0.5
    assert probability_of_improvement([6, 6], [5, 5]).low == 1.0


def test_permutation_test_is_exact_on_few_scores() -> None:
    """Of the C(6, 3) = 20 ways to choose three of {1…6}, one has a mean as high as {4, 5, 6}."""
    test = permutation_test([4, 5, 6], [1, 2, 3])
    assert test.statistic == pytest.approx(3.0)
    assert test.p_value == pytest.approx(1 / 20)
    assert permutation_test([4, 5, 6], [1, 2, 3], alternative="two-sided").p_value == pytest.approx(2 / 20)
    assert permutation_test([4, 5, 6], [1, 2, 3], alternative="less").p_value == pytest.approx(1.0)


def test_permutation_test_samples_when_there_are_too_many_regroupings() -> None:
    x, y = np.arange(30.0) + 100, np.arange(30.0)
    assert permutation_test(x, y, n_resamples=199).p_value == pytest.approx(1 / 200)


@pytest.mark.parametrize("scores", [[1.0], np.zeros((2, 2, 2)), np.zeros((5, 0))])
def test_scores_of_the_wrong_shape_are_refused(scores: object) -> None:
    with pytest.raises(DataError):
        stratified_bootstrap(scores)  # type: ignore[arg-type]


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(NonFiniteDataError, match="1 NaN"):
        stratified_bootstrap([1.0, np.nan, 2.0])
    with pytest.raises(ConfigError, match=r"0\.95"):
        stratified_bootstrap([1.0, 2.0], confidence=95)
    with pytest.raises(ConfigError):
        stratified_bootstrap([1.0, 2.0], n_resamples=0)
    with pytest.raises(DataError, match="tasks"):
        probability_of_improvement(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(DataError):
        permutation_test(np.zeros((3, 2)), [1.0, 2.0])


def test_an_interval_reads_well() -> None:
    assert str(statistics.Interval(500.0, 498.25, 500.0)) == "500 [498.2, 500]"
