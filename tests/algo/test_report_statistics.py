from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibadv_algo.experiments.statistics import (
    Interval,
    corrected_interval,
    draw_resamples,
    interquartile_mean,
    is_stable,
    percentile_interval,
    resampled_interquartile_means,
    resampled_means,
    share_interval,
    win_shares,
)
from calibadv_algo.experiments.variance import components


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _interval(
    scores: np.ndarray,
    rng: np.random.Generator,
    num_resamples: int = 400,
    clusters: np.ndarray | None = None,
) -> Interval:
    """Interval of the first arm's mean, or of its difference from the second."""
    codes = np.arange(scores.shape[2]) if clusters is None else clusters
    resamples = draw_resamples(
        num_seeds=scores.shape[1],
        num_questions=scores.shape[2],
        num_resamples=num_resamples,
        rng=rng,
        clusters=codes,
        num_arms=len(scores),
    )
    means = resampled_means(scores, resamples)
    signs = (1, -1)[: len(scores)]
    return corrected_interval(
        float(np.dot(signs, scores.mean(axis=(1, 2)))),
        means @ np.array(signs),
        components(list(zip(signs, scores, strict=True)), codes),
    )


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


def test_interquartile_means_equal_a_slow_loop_over_drawn_runs() -> None:
    scores = _rng(5).random((5, 6))
    resamples = draw_resamples(num_seeds=5, num_questions=6, num_resamples=12, rng=_rng(6))
    middles = resampled_interquartile_means(scores, resamples)
    for r in range(12):
        seeds = np.repeat(np.arange(5), resamples.seeds[r].astype(int))
        questions = np.repeat(np.arange(6), resamples.questions[r].astype(int))
        runs = np.array([np.mean([scores[s, q] for q in questions]) for s in seeds])
        assert middles[r] == pytest.approx(interquartile_mean(runs))


def test_a_cluster_is_drawn_with_all_its_questions() -> None:
    clusters = np.array([0, 0, 0, 1, 2, 2])
    resamples = draw_resamples(
        num_seeds=2, num_questions=6, num_resamples=50, rng=_rng(), clusters=clusters
    )
    for cluster in range(3):
        drawn = resamples.questions[:, clusters == cluster]
        assert (drawn == drawn[:, :1]).all()
    assert set(np.unique(resamples.questions[:, [0, 3, 4]].sum(axis=1))) == {2.0}


def test_seeds_of_two_arms_are_drawn_apart() -> None:
    resamples = draw_resamples(
        num_seeds=4, num_questions=3, num_resamples=50, rng=_rng(), num_arms=2
    )
    assert resamples.seeds.shape == (50, 2, 4)
    assert not np.array_equal(resamples.seeds[:, 0], resamples.seeds[:, 1])
    scores = _rng(3).random((2, 4, 3))
    means = resampled_means(scores, resamples)
    r = 7
    expected = np.average(
        np.average(scores[1], axis=1, weights=resamples.questions[r]),
        weights=resamples.seeds[r, 1],
    )
    assert means[r, 1] == pytest.approx(expected)


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


HEAVY = (34, 34, 29, 29, 16, 12, 11, 8, 8, 7, 6, 5, 5, 4, *[3] * 7, *[2] * 11, *[1] * 49)
"""Sizes of the clusters of 300 dev questions of the atlas: 81 that weigh as much as 18."""
EVEN = (6,) * 50
"""Sizes of the clusters of a balanced split."""

COVERAGE = [
    (HEAVY, 1, 2, 0.97),
    (HEAVY, 1, 5, 0.98),
    (HEAVY, 2, 5, 0.97),
    (EVEN, 1, 5, 0.96),
    (EVEN, 2, 2, 0.95),
    (EVEN, 2, 5, 0.94),
]
"""Clusters, arms (1: a level, 2: a difference), seeds, coverage: rows of docs/report.md."""


def _world(
    sizes: tuple[int, ...], num_seeds: int, num_arms: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scores about 0 of clustered questions, and their clusters; arms share nothing but these.

    Standard deviations: clusters .2 (a level) or .08 (a difference), questions .35, seeds .02,
    a seed in a cluster .05, the rest .25.
    """
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    num = len(clusters)
    scores = rng.normal(0, 0.02, (num_arms, num_seeds, 1))
    scores = scores + rng.normal(0, 0.05, (num_arms, num_seeds, len(sizes)))[:, :, clusters]
    scores = scores + rng.normal(0, 0.25, (num_arms, num_seeds, num))
    common = rng.normal(0, 0.2, len(sizes))[clusters] + rng.normal(0, 0.35, num)
    scores = scores + common
    if num_arms == 2:
        scores[0] += rng.normal(0, 0.08, len(sizes))[clusters]
    return scores, clusters


def _coverage(
    sizes: tuple[int, ...],
    num_seeds: int,
    num_trials: int,
    *,
    num_arms: int = 1,
    knows_clusters: bool = True,
    shrink: float = 1.0,
) -> float:
    """How often the interval of a level or a difference, shrunk round it, holds the truth."""
    rng = _rng(11)
    hits = 0
    for _ in range(num_trials):
        scores, clusters = _world(sizes, num_seeds, num_arms, rng)
        found = _interval(scores, rng, clusters=clusters if knows_clusters else None)
        low, high = found.low - found.estimate, found.high - found.estimate
        hits += shrink * low <= -found.estimate <= shrink * high
    return hits / num_trials


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_intervals_cover_the_truth_about_as_often_as_they_say(num_seeds: int) -> None:
    assert _coverage(EVEN, num_seeds, 120) >= 0.9


def test_intervals_of_half_the_width_would_fail_the_coverage_test() -> None:
    assert _coverage(EVEN, 5, 120, shrink=0.5) < 0.8


def test_without_clusters_the_intervals_would_be_far_too_narrow() -> None:
    assert _coverage(HEAVY, 5, 120, knows_clusters=False) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "num_arms", "num_seeds", "expected"), COVERAGE)
def test_coverage_is_what_the_documentation_says(
    sizes: tuple[int, ...], num_arms: int, num_seeds: int, expected: float
) -> None:
    coverage = _coverage(sizes, num_seeds, 150, num_arms=num_arms)
    assert coverage == pytest.approx(expected, abs=0.045)


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
