"""Components of variance, verdicts and the levels of repeated looks, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from calibadv_algo.experiments.profiles import (
    area_under_curve,
    optimality_gap,
    performance_profile,
)
from calibadv_algo.experiments.sequential import look_levels
from calibadv_algo.experiments.variance import (
    Components,
    components,
    detectable_difference,
    effective_clusters,
    equivalence_pvalue,
    t_pvalue,
)
from calibadv_algo.experiments.verdicts import holm, judge, passed


def _found(seeds: float = 1e-4, clusters: float = 1e-4, *, df: float = 8) -> Components:
    return Components(
        seeds=seeds, clusters=clusters, rest=0.0, seed_df=df, cluster_df=40, num_seeds=5
    )


def test_components_of_equal_clusters_are_the_textbook_ones() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 8))
    found = components([(1, scores)], np.arange(8))
    assert found.seeds == pytest.approx(scores.mean(axis=1).var(ddof=1) / 3)
    assert found.clusters == pytest.approx(scores.mean(axis=0).var(ddof=1) / 8)
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    assert found.rest == pytest.approx((rest**2).sum() / (2 * 7) / 24)
    assert found.seed_df == pytest.approx(2)
    assert found.cluster_df == pytest.approx(7)


def test_questions_of_one_cluster_count_as_one() -> None:
    scores = np.repeat(np.random.default_rng(1).normal(size=(1, 6)), 4, axis=1)
    clusters = np.repeat(np.arange(6), 4)
    together = components([(1, scores)], clusters)
    single = components([(1, scores[:, ::4])], np.arange(6))
    assert together.clusters == pytest.approx(single.clusters)
    assert components([(1, scores)], np.arange(24)).clusters < 0.3 * together.clusters


def test_the_variance_is_right_on_average_for_clusters_of_any_size() -> None:
    rng = np.random.default_rng(2)
    sizes = (30, 10, 10, *[2] * 20)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    estimates, variances = [], []
    for _ in range(1500):
        common = rng.normal(0, 0.1, len(sizes))[clusters]
        sides = [
            (
                sign,
                rng.normal(0, 0.03, (3, 1))
                + rng.normal(0, 0.05, (3, len(sizes)))[:, clusters]
                + rng.normal(0, 0.2, (3, len(clusters)))
                + (common if sign == 1 else 0.0),
            )
            for sign in (1, -1)
        ]
        found = components(sides, clusters)
        variances.append(found.seeds + found.clusters - found.rest)
        estimates.append(sides[0][1].mean() - sides[1][1].mean())
    assert np.mean(variances) == pytest.approx(np.var(estimates), rel=0.1)


def test_more_seeds_shrink_their_part_alone() -> None:
    found = Components(seeds=4e-4, clusters=9e-4, rest=2e-4, seed_df=8, cluster_df=50, num_seeds=5)
    many = found.with_seeds(50)
    assert many.seeds == pytest.approx(4e-5)
    assert many.clusters == pytest.approx(7e-4 + 2e-5)
    assert many.variance < found.variance
    assert many.seed_df == pytest.approx(8 * 49 / 4)


def test_effective_clusters() -> None:
    assert effective_clusters(np.array([0, 1, 2, 3])) == pytest.approx(4)
    assert effective_clusters(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    found = _found(df=4)
    shift = detectable_difference(found) / found.standard_error
    rng = np.random.default_rng(3)
    t = (rng.normal(size=200_000) + shift) / np.sqrt(rng.chisquare(found.df, 200_000) / found.df)
    critical = special.stdtrit(found.df, 0.975)
    assert np.mean(np.abs(t) > critical) == pytest.approx(0.8, abs=0.01)


def test_one_seed_shows_nothing() -> None:
    found = components([(1, np.random.default_rng(4).random((1, 9)))], np.arange(9))
    assert math.isnan(detectable_difference(found))
    assert t_pvalue(0.5, found) == 1.0
    assert equivalence_pvalue(0.0, found, 0.5) == 1.0
    (verdict,) = judge({"a − b": (0.5, found)}, margin=0.02).values()
    assert verdict.word == "not resolvable"
    assert verdict.reason == "one seed says nothing about another seed"


def test_scores_that_do_not_vary_say_nothing() -> None:
    """As of two policies that answer nothing: 0 everywhere is no proof that they are equal."""
    found = components([(1, np.zeros((2, 6))), (-1, np.zeros((2, 6)))], np.arange(6))
    (verdict,) = judge({"a − b": (0.0, found)}, margin=0.02).values()
    assert verdict.word == "not resolvable"
    assert "no score varies" in verdict.reason
    assert math.isnan(verdict.detectable)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("estimate", "error", "word"),
    [
        (0.1, 0.01, "higher"),
        (-0.1, 0.01, "lower"),
        (0.0, 0.004, "equivalent"),
        (0.01, 0.002, "higher, within the margin"),
        (-0.01, 0.002, "lower, within the margin"),
        (0.01, 0.05, "not resolvable"),
    ],
)
def test_every_word(estimate: float, error: float, word: str) -> None:
    found = _found(error**2 / 2, error**2 / 2, df=30)
    (verdict,) = judge({"a − b": (estimate, found)}, margin=0.02).values()
    assert verdict.word == word
    assert verdict.is_decided is (word != "not resolvable")


def test_a_larger_family_asks_for_more() -> None:
    found = _found(df=30)
    estimate = 2.3 * found.standard_error
    assert judge({"a": (estimate, found)}, margin=0.001)["a"].word == "higher"
    many = judge({"a": (estimate, found)} | {f"x{i}": (0.0, found) for i in range(9)}, margin=0.001)
    assert many["a"].word == "not resolvable"
    assert many["a"].detectable > judge({"a": (estimate, found)}, margin=0.001)["a"].detectable


def test_controls_pass_only_with_what_they_must_show() -> None:
    found = _found(1e-6, 1e-6, df=30)
    higher = judge({"a": (0.1, found)}, margin=0.02)["a"]
    equal = judge({"a": (0.0, found)}, margin=0.02)["a"]
    assert passed("higher", higher)
    assert not passed("lower", higher)
    assert not passed("same", higher)
    assert passed("same", equal)
    assert not passed("higher", equal)


def test_levels_of_looks_spend_alpha_in_all() -> None:
    assert look_levels(0.05, 1) == pytest.approx([0.05])
    levels = look_levels(0.05, 5)
    assert levels[0] < 1e-4
    assert list(levels) == sorted(levels)
    rng = np.random.default_rng(5)
    z = np.cumsum(rng.normal(size=(200_000, 5)), axis=1) / np.sqrt(np.arange(1, 6))
    crossed = (2 * special.ndtr(-np.abs(z)) <= np.array(levels)).any(axis=1)
    assert crossed.mean() == pytest.approx(0.05, abs=0.002)
    naive = (2 * special.ndtr(-np.abs(z)) <= 0.05).any(axis=1)
    assert naive.mean() > 0.13


def _error_rates(shift: float, num_trials: int, *, naive: bool = False) -> tuple[float, float]:
    """How often seeds that are added two at a time, ten at most, end in a wrong verdict.

    Returns:
        Shares of "higher" or "lower", and of "equivalent" or "within the margin".
    """
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(50), 4)
    different, equivalent = 0, 0
    for _ in range(num_trials):
        common = rng.normal(0, 0.05, 50)[clusters]
        sides = [
            rng.normal(0, 0.02, (10, 1)) + rng.normal(0, 0.15, (10, 200)) + extra
            for extra in (common + shift, 0.0)
        ]
        for look in range(1, 6):
            num = 2 * look
            first, second = (side[:num] for side in sides)
            found = components([(1, first), (-1, second)], clusters)
            (verdict,) = judge(
                {"a": (float(first.mean() - second.mean()), found)},
                margin=0.04,
                look=1 if naive else look,
                num_looks=1 if naive else 5,
            ).values()
            if verdict.is_decided:
                different += verdict.word.startswith(("higher", "lower"))
                equivalent += verdict.word == "equivalent" or "within" in verdict.word
                break
    return different / num_trials, equivalent / num_trials


@pytest.mark.slow
def test_adding_seeds_until_decided_keeps_the_error_rate() -> None:
    false_differences, _ = _error_rates(0.0, 600)
    assert false_differences <= 0.06
    _, false_equivalences = _error_rates(0.04, 600)
    assert false_equivalences <= 0.06
    assert _error_rates(0.0, 600, naive=True)[0] > false_differences


def test_profile_gap_and_area_by_hand() -> None:
    runs = np.array([0.5, 0.75, 1.0])
    np.testing.assert_allclose(
        performance_profile(runs, np.array([0.4, 0.5, 0.8])), [1.0, 2 / 3, 1 / 3]
    )
    assert optimality_gap(runs) == pytest.approx(0.25)
    assert optimality_gap(runs, target=0.6) == pytest.approx(0.1 / 3)
    assert area_under_curve([0, 5, 15], [0.0, 1.0, 1.0]) == pytest.approx(12.5 / 15)
    assert area_under_curve([3], [0.4]) == 0.4
    with pytest.raises(ValueError, match="as many"):
        area_under_curve([0, 1], [0.5])
