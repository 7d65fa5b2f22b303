from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibadv_algo.experiments.statistics import (
    Interval,
    draw_resamples,
    interquartile_mean,
    is_stable,
    percentile_interval,
    resampled_interquartile_means,
    resampled_means,
    seeds_needed,
    share_interval,
    win_shares,
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _interval(scores: np.ndarray, rng: np.random.Generator, num_resamples: int = 400) -> Interval:
    resamples = draw_resamples(
        num_seeds=scores.shape[1],
        num_questions=scores.shape[2],
        num_resamples=num_resamples,
        rng=rng,
    )
    return percentile_interval(float(scores[0].mean()), resampled_means(scores, resamples)[:, 0])


def test_the_same_generator_gives_the_same_resamples() -> None:
    first = draw_resamples(num_seeds=3, num_questions=5, num_resamples=20, rng=_rng(1))
    second = draw_resamples(num_seeds=3, num_questions=5, num_resamples=20, rng=_rng(1))
    np.testing.assert_array_equal(first.questions, second.questions)
    np.testing.assert_array_equal(first.seeds, second.seeds)
    assert not np.array_equal(first.questions[0], first.questions[1])


def test_one_fewer_is_drawn_than_there_are_but_one_alone_is_always_drawn() -> None:
    resamples = draw_resamples(num_seeds=1, num_questions=7, num_resamples=10, rng=_rng())
    np.testing.assert_array_equal(resamples.seeds, np.ones((10, 1)))
    np.testing.assert_array_equal(resamples.questions.sum(axis=1), np.full(10, 6))


def test_means_equal_a_slow_loop_over_drawn_cells() -> None:
    scores = _rng(3).random((2, 3, 4))
    resamples = draw_resamples(num_seeds=3, num_questions=4, num_resamples=15, rng=_rng(4))
    means = resampled_means(scores, resamples)
    for r in range(15):
        seeds = np.repeat(np.arange(3), resamples.seeds[r].astype(int))
        questions = np.repeat(np.arange(4), resamples.questions[r].astype(int))
        for arm in range(2):
            cells = [scores[arm, s, q] for s in seeds for q in questions]
            assert means[r, arm] == pytest.approx(np.mean(cells))


def test_interquartile_means_equal_a_slow_loop_over_drawn_cells() -> None:
    scores = _rng(5).random((3, 6))
    resamples = draw_resamples(num_seeds=3, num_questions=6, num_resamples=12, rng=_rng(6))
    middles = resampled_interquartile_means(scores, resamples)
    for r in range(12):
        seeds = np.repeat(np.arange(3), resamples.seeds[r].astype(int))
        questions = np.repeat(np.arange(6), resamples.questions[r].astype(int))
        cells = np.array([scores[s, q] for s in seeds for q in questions])
        assert middles[r] == pytest.approx(interquartile_mean(cells))


def test_the_variance_of_the_mean_over_two_seeds_is_unbiased() -> None:
    """With as many draws as seeds it would come out at a half."""
    scores = np.array([[[0.2] * 50, [0.6] * 50]])
    resamples = draw_resamples(num_seeds=2, num_questions=50, num_resamples=20_000, rng=_rng(7))
    means = resampled_means(scores, resamples)[:, 0]
    assert means.var() == pytest.approx(np.var([0.2, 0.6], ddof=1) / 2, rel=0.05)


def test_arms_that_are_equal_have_a_difference_of_exactly_nothing() -> None:
    scores = _rng(8).random((1, 3, 30))
    both = np.concatenate([scores, scores])
    resamples = draw_resamples(num_seeds=3, num_questions=30, num_resamples=100, rng=_rng(9))
    means = resampled_means(both, resamples)
    np.testing.assert_array_equal(means[:, 0] - means[:, 1], 0.0)


def test_pairing_makes_the_difference_sharper_than_the_levels() -> None:
    rng = _rng(10)
    questions = rng.normal(0, 1, 40)
    scores = np.stack([np.tile(questions, (3, 1)), np.tile(questions, (3, 1)) + 0.1])
    scores = scores + rng.normal(0, 0.05, scores.shape)
    resamples = draw_resamples(num_seeds=3, num_questions=40, num_resamples=500, rng=rng)
    means = resampled_means(scores, resamples)
    assert np.std(means[:, 1] - means[:, 0]) < 0.2 * np.std(means[:, 0])


def test_all_equal_scores_give_an_interval_of_no_width() -> None:
    assert _interval(np.full((1, 2, 5), 0.5), _rng()) == Interval(estimate=0.5, low=0.5, high=0.5)


def test_one_seed_and_one_question_give_a_point() -> None:
    assert _interval(np.array([[[0.25]]]), _rng()) == Interval(estimate=0.25, low=0.25, high=0.25)


def test_one_seed_still_varies_over_questions() -> None:
    interval = _interval(np.array([[[0.0, 1.0] * 20]]), _rng())
    assert interval.low < 0.4 < 0.6 < interval.high


def _coverage(
    num_seeds: int, num_trials: int, *, shrink: float = 1.0, seed_spread: float = 0.05
) -> float:
    """How often the interval, shrunk round its estimate, holds the truth."""
    rng = _rng(11)
    hits = 0
    for _ in range(num_trials):
        questions = rng.normal(0, 0.3, (1, 1, 40))
        seeds = rng.normal(0, seed_spread, (1, num_seeds, 1))
        scores = 0.5 + questions + seeds + rng.normal(0, 0.1, (1, num_seeds, 40))
        interval = _interval(scores, rng)
        low = interval.estimate - shrink * (interval.estimate - interval.low)
        high = interval.estimate + shrink * (interval.high - interval.estimate)
        hits += low <= 0.5 <= high
    return hits / num_trials


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_intervals_cover_the_truth_about_as_often_as_they_say(num_seeds: int) -> None:
    assert 0.9 <= _coverage(num_seeds, 300) <= 0.98


def test_intervals_of_half_the_width_would_fail_the_coverage_test() -> None:
    assert _coverage(5, 300, shrink=0.5) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_seeds", "seed_spread", "expected"),
    [
        (1, 0.0, 0.95),
        (1, 0.2, 0.34),
        (2, 0.05, 0.93),
        (2, 0.2, 0.74),
        (3, 0.2, 0.84),
        (5, 0.2, 0.91),
        (10, 0.2, 0.93),
    ],
)
def test_coverage_is_what_the_documentation_says(
    num_seeds: int, seed_spread: float, expected: float
) -> None:
    coverage = _coverage(num_seeds, 1000, seed_spread=seed_spread)
    assert coverage == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([0.0, 1.0], 0.5),
        ([0.0, 1.0, 5.0, 100.0], 3.0),
        ([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0], 3.5),
        ([0.0, 0.0, 1.0], 0.25 / 1.5),
    ],
)
def test_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100)))
def test_interquartile_mean_lies_within_the_values(values: np.ndarray) -> None:
    middle = interquartile_mean(values)
    assert values.min() - 1e-9 <= middle <= values.max() + 1e-9


def test_wins_count_ties_as_a_half() -> None:
    baseline = np.array([[0.0, 0.5], [1.0, 0.5]])
    candidate = np.array([[1.0, 0.5], [0.0, 0.6]])
    np.testing.assert_array_equal(win_shares(baseline, candidate), [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="same seeds and questions"):
        win_shares(baseline, candidate[:1])


@pytest.mark.parametrize(
    ("curve", "alarm", "expected"),
    [
        ([0.3, 0.5, 0.5], False, True),
        ([0.3, 0.5, 0.4], False, True),
        ([0.3, 0.5, 0.39], False, False),
        ([0.3, 0.5, 0.5], True, False),
        ([0.0, 0.0], False, True),
        ([0.3, math.nan], False, False),
        ([math.nan, 0.4], False, True),
    ],
)
def test_stability(curve: list[float], alarm: bool, expected: bool) -> None:
    assert is_stable(curve, has_alarm=alarm) is expected


def test_share_interval_does_not_shrink_to_a_point() -> None:
    interval = share_interval(2, 2)
    assert interval.estimate == 1.0
    assert interval.high == 1.0
    assert interval.low == pytest.approx(0.342, abs=1e-3)
    assert share_interval(0, 2).low == 0.0
    assert share_interval(5, 10).low == pytest.approx(0.2366, abs=1e-4)


def test_seeds_needed_by_hand() -> None:
    differences = np.array([0.0, 0.1, 0.2])
    assert seeds_needed(differences) == math.ceil((1.959964 + 0.841621) ** 2)
    assert seeds_needed(np.array([0.1])) is None
    assert seeds_needed(np.array([-0.1, 0.1])) is None
    assert seeds_needed(np.array([0.1, 0.1])) == 2


def test_wrong_input_is_named() -> None:
    resamples = draw_resamples(num_seeds=2, num_questions=3, num_resamples=4, rng=_rng())
    with pytest.raises(ValueError, match="num_seeds must be positive, got 0"):
        draw_resamples(num_seeds=0, num_questions=3, num_resamples=4, rng=_rng())
    with pytest.raises(ValueError, match="finite"):
        resampled_means(np.full((1, 2, 3), np.nan), resamples)
    with pytest.raises(ValueError, match="2 seeds and 3 questions"):
        resampled_means(np.zeros((1, 3, 2)), resamples)
    with pytest.raises(ValueError, match="confidence"):
        percentile_interval(0.0, np.zeros(3), confidence=1.0)
    with pytest.raises(ValueError, match="must not be empty"):
        percentile_interval(0.0, np.zeros(0))
    with pytest.raises(ValueError, match="at least one evaluation"):
        is_stable([], has_alarm=False)
    with pytest.raises(ValueError, match="num_successes"):
        share_interval(3, 2)
