"""CalibAdv's ablations: token-level loops as oracles, numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.advantages.ablations import (
    CalibAdvVariant,
    ClippedCalibAdv,
    balance,
    over_batch,
    spare,
)
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.template import (
    TemplateBalanced,
    balance_template_tokens,
    rebalance_tokens,
)
from calibadv_algo.advantages.turn_groups import (
    GoodQueryPositive,
    PenaltyTurnGroup,
    QueryGroup,
    TurnGroup,
    place_normalized,
)
from calibadv_algo.types import Group, Trajectory, Turn

NAN = math.nan
BAD = 1e-6


def make_group(
    rewards: Sequence[float], lengths: Sequence[Sequence[int]], name: str = "g"
) -> Group:
    trajectories = []
    for reward, counts in zip(rewards, lengths, strict=True):
        turns = tuple(
            Turn(
                action_ids=tuple(range(count)),
                action_text="",
                logprobs=(0.0,) * count,
                reward=reward if index == len(counts) - 1 else 0.0,
            )
            for index, count in enumerate(counts)
        )
        trajectories.append(
            Trajectory(group_id=name, task_id="t", prompt_ids=(0,), prompt_text="", turns=turns)
        )
    return Group(tuple(trajectories))


def counts_of(group: Group) -> np.ndarray:
    rows = [[len(turn.action_ids) for turn in each.turns] for each in group.trajectories]
    return np.array([row + [0] * (group.max_turns - len(row)) for row in rows], dtype=float)


@st.composite
def scored_groups(draw: st.DrawFn) -> tuple[Group, np.ndarray]:
    """A group, and correctness on its turns but the last ones."""
    size = draw(st.integers(1, 4))
    lengths = draw(
        st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=size, max_size=size)
    )
    rewards = draw(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=size, max_size=size))
    group = make_group(rewards, lengths)
    scores = np.full((size, group.max_turns), NAN)
    for row, counts in enumerate(lengths):
        for column in range(len(counts) - 1):
            scores[row, column] = draw(st.sampled_from([NAN, BAD, 1 / 3, 0.5, 1.0]))
    return group, scores


WORKED = make_group([1.0, 0.0, 0.0], [[10, 5], [12, 9, 6], [11, 10]])
SCORES = np.array([[1.0, NAN, NAN], [1 / 3, 2 / 3, NAN], [BAD, NAN, NAN]])
BASE = Grpo()(WORKED, SCORES)


# Variants of sparing and balancing


@given(scored_groups(), st.sampled_from([0.5, 1.0, 2.0]), st.booleans())
def test_the_default_variant_is_calibadv(
    scored: tuple[Group, np.ndarray], ratio: float, adjust_positive: bool
) -> None:
    group, scores = scored
    settings = {"target_ratio": ratio, "adjust_positive": adjust_positive}
    variant = CalibAdvVariant(**settings)
    expected = CalibAdv(**settings)(group, scores)
    np.testing.assert_allclose(variant(group, scores), expected, atol=1e-12)
    (kept,) = variant.finish([expected], [counts_of(group)])
    np.testing.assert_array_equal(kept, expected)


def balance_by_tokens(
    advantages: np.ndarray,
    counts: np.ndarray,
    pools: list[list[tuple[int, int]]],
    ratio: float,
    adjust_positive: bool,
) -> np.ndarray:
    """Sums over tokens one by one."""
    result = advantages.copy()
    for pool in pools:
        tokens = [advantages[place] for place in pool for _ in range(int(counts[place]))]
        positive = sum(value for value in tokens if value > 0)
        negative = -sum(value for value in tokens if value < 0)
        for place in pool:
            if positive == 0 or negative == 0:
                result[place] = 0.0
            elif adjust_positive and result[place] > 0:
                result[place] *= negative / (positive * ratio)
            elif not adjust_positive and result[place] < 0:
                result[place] *= positive / negative * ratio
    return result


@given(
    scored_groups(),
    st.sampled_from(["answers", "searches", "turns", "all", "none"]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.booleans(),
)
def test_balancing_is_the_token_loop(
    scored: tuple[Group, np.ndarray], pools: Any, ratio: float, adjust_positive: bool
) -> None:
    group, scores = scored
    counts = counts_of(group)
    advantages = spare(Grpo()(group, scores), scores)
    lengths = [len(each.turns) for each in group.trajectories]
    answers = [(row, length - 1) for row, length in enumerate(lengths)]
    searches = [
        [(row, q) for row, length in enumerate(lengths) if q < length - 1]
        for q in range(group.max_turns)
    ]
    everything = [place for place in np.ndindex(*counts.shape) if counts[place] > 0]
    by_name = {
        "answers": [answers],
        "searches": searches,
        "turns": [*searches, answers],
        "all": [everything],
        "none": [],
    }
    result = balance(advantages, counts, pools, ratio, adjust_positive=adjust_positive)
    expected = balance_by_tokens(advantages, counts, by_name[pools], ratio, adjust_positive)
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_batch_scope_sums_over_all_groups() -> None:
    good = make_group([1.0, 0.0], [[2, 2], [6]], "a")
    poor = make_group([1.0, 0.0, 0.0], [[4], [1], [5]], "b")
    groups = [good, poor]
    scores = [np.full((2, 2), NAN), np.full((3, 1), NAN)]
    variant = CalibAdvVariant(scope="batch")
    raw = [variant(group, score) for group, score in zip(groups, scores, strict=True)]
    for matrix, group, score in zip(raw, groups, scores, strict=True):
        np.testing.assert_array_equal(matrix, Grpo()(group, score))
    result = variant.finish(raw, [counts_of(group) for group in groups])
    assert [matrix.shape for matrix in result] == [(2, 2), (3, 1)]
    positive = raw[0][0, 1] * 2 + raw[1][0, 0] * 4
    negative = -(raw[0][1, 0] * 6 + raw[1][1, 0] * 1 + raw[1][2, 0] * 5)
    assert result[0][0, 1] == pytest.approx(raw[0][0, 1] * negative / positive)
    assert result[1][0, 0] == pytest.approx(raw[1][0, 0] * negative / positive)
    assert result[0][0, 0] == raw[0][0, 0]
    assert over_batch([], [], lambda stacked, _: stacked) == []


def test_a_batch_without_negatives_gives_zeros_or_is_kept() -> None:
    group = make_group([1.0], [[2, 3]])
    scores = np.full((1, 2), NAN)
    variant = CalibAdvVariant(scope="batch")
    raw = [variant(group, scores)]
    (zeroed,) = variant.finish(raw, [counts_of(group)])
    np.testing.assert_array_equal(zeroed, [[raw[0][0, 0], 0.0]])
    (kept,) = replace(variant, lone="keep-positive").finish(raw, [counts_of(group)])
    np.testing.assert_array_equal(kept, raw[0])
    (zeroed,) = replace(variant, lone="keep-negative").finish(raw, [counts_of(group)])
    assert zeroed[0, 1] == 0.0


def test_only_risky_pools_are_balanced() -> None:
    counts = np.array([[5.0], [1.0]])
    safe = np.array([[1.0], [-1.0]])
    np.testing.assert_array_equal(balance(safe, counts, when="risky"), safe)
    assert balance(safe, counts)[0, 0] == pytest.approx(0.2)
    risky = np.array([[0.1], [-1.0]])
    np.testing.assert_array_equal(balance(risky, counts, when="risky"), balance(risky, counts))


@pytest.mark.parametrize(
    ("penalty", "row"),
    [
        ("none", [BASE[1, 0]] * 3),
        ("soft", [-0.384900, -0.192450, -0.577349]),
        ("lifting", [-0.577349 + 1.732047 / 3, -0.577349 + 1.732047 * 2 / 3, -0.577349]),
        ("aggressive", [0.0, 0.0, -0.577349]),
        ("aggressive-lifting", [0.0, 0.0, -0.577349]),
    ],
)
def test_ways_to_spare(penalty: Any, row: list[float]) -> None:
    result = CalibAdvVariant(penalty=penalty, pools="none")(WORKED, SCORES)
    np.testing.assert_allclose(result[1], row, atol=1e-5)
    np.testing.assert_array_equal(result[0], BASE[0])


def test_solved_turns_earn_nothing() -> None:
    scores = np.array([[1.0, NAN, NAN], [1.0, 0.5, NAN], [1.0, NAN, NAN]])
    result = CalibAdvVariant(penalty="none", pools="none", solved="zero")(WORKED, scores)
    np.testing.assert_allclose(result[0], [0.0, BASE[0, 1], 0.0])
    np.testing.assert_array_equal(result[1:], BASE[1:])


def test_clipping_at_the_batchs_mean() -> None:
    group = make_group([1.0, 1.0, 1.0, 0.0], [[2]] * 4)
    scores = np.full((4, 1), NAN)
    estimator = ClippedCalibAdv()
    raw = [estimator(group, scores)]
    (result,) = estimator.finish(raw, [counts_of(group)])
    assert raw[0][3, 0] == pytest.approx(-1.5, abs=1e-4)
    np.testing.assert_allclose(result[:, 0], [0.5, 0.5, 0.5, -0.5], atol=1e-5)
    (half,) = ClippedCalibAdv(target_ratio=0.5).finish(raw, [counts_of(group)])
    assert half[3, 0] == pytest.approx(-0.25, abs=1e-5)


# Turns compared with turns


def z(values: Sequence[float]) -> list[float]:
    if len(values) == 1:
        return [values[0] / (1 + 1e-6)]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return [0.0 if abs(v - mean) < 1e-12 else (v - mean) / (std + 1e-6) for v in values]


def by_place(
    scores: np.ndarray, value_of: Callable[[int, int], float]
) -> dict[tuple[int, int], float]:
    """Compares the k-th scored turns with one another."""
    order = [[q for q in range(len(row)) if not math.isnan(row[q])] for row in scores]
    result = {}
    for k in range(scores.shape[1]):
        members = [(i, row[k]) for i, row in enumerate(order) if len(row) > k]
        if members:
            compared = z([value_of(i, q) for i, q in members])
            result.update(zip(members, compared, strict=True))
    return result


@given(scored_groups())
def test_turn_groups_are_the_loops(scored: tuple[Group, np.ndarray]) -> None:
    group, scores = scored
    base = Grpo()(group, scores)
    rewards = [each.reward for each in group.trajectories]
    places = by_place(scores, lambda i, q: scores[i, q])
    expected = 0.5 * base
    for place, value in places.items():
        expected[place] += 0.5 * value
    np.testing.assert_allclose(TurnGroup()(group, scores), expected, atol=1e-6)

    best = max(rewards)
    earned = by_place(
        scores,
        lambda i, q: (
            rewards[i] + (best - rewards[i]) * scores[i, q] if scores[i, q] > BAD else rewards[i]
        ),
    )
    expected = base.copy()
    for place, value in earned.items():
        expected[place] = value
    np.testing.assert_allclose(PenaltyTurnGroup()(group, scores), expected, atol=1e-6)


@given(scored_groups())
def test_query_group_and_good_queries_are_the_loops(scored: tuple[Group, np.ndarray]) -> None:
    group, scores = scored
    base = Grpo()(group, scores)
    places = [place for place in np.ndindex(*scores.shape) if not math.isnan(scores[place])]
    expected = base.copy()
    if places:
        for place, value in zip(places, z([scores[place] for place in places]), strict=True):
            expected[place] = 0.7 * value + 0.3 * base[place]
    np.testing.assert_allclose(QueryGroup()(group, scores), expected, atol=1e-6)

    rewards = [each.reward for each in group.trajectories]
    size = len(rewards)
    mean = sum(rewards) / size if size > 1 else 0.0
    std = np.std(rewards, ddof=1) if size > 1 else 1.0
    expected = base.copy()
    for i, q in places:
        if scores[i, q] > 0.1:
            target = max(mean + (max(rewards) - mean) * scores[i, q], rewards[i])
            expected[i, q] = 0.0 if std < 1e-12 else (target - mean) / (std + 1e-6)
    np.testing.assert_allclose(GoodQueryPositive()(group, scores), expected, atol=1e-6)


def test_good_searches_of_poor_trajectories_are_rewarded() -> None:
    result = GoodQueryPositive()(WORKED, SCORES)
    np.testing.assert_allclose(
        result[1], [BASE[0, 0] / 3, BASE[0, 0] * 2 / 3, BASE[1, 2]], atol=1e-6
    )
    np.testing.assert_array_equal(result[2], BASE[2])
    strict = GoodQueryPositive(good_from=0.5)(WORKED, SCORES)
    assert strict[1, 0] == BASE[1, 0]


def test_a_lone_score_is_kept_or_dropped() -> None:
    scores = np.array([[0.5, NAN]])
    assert place_normalized(np.array([[0.5, 3.0]]), scores)[0, 0] == pytest.approx(0.5, abs=1e-5)
    assert not place_normalized(np.array([[0.5, 3.0]]), scores, singleton="zero").any()
    assert not place_normalized(np.array([[1.0]]), np.array([[NAN]])).any()


# Template tokens


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 2.0]), st.booleans()), max_size=8))
def test_template_tokens_are_the_loop(tokens: list[tuple[float, bool]]) -> None:
    positive = sum(value for value, is_tag in tokens if is_tag and value > 0)
    negative = -sum(value for value, is_tag in tokens if is_tag and value < 0)
    expected = []
    for value, is_tag in tokens:
        if is_tag and value > 0:
            value = value / (positive / negative + 1e-8) if negative else 0.0
        expected.append(value)
    result = balance_template_tokens(
        np.array([value for value, _ in tokens]), np.array([tag for _, tag in tokens], dtype=bool)
    )
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_rebalancing_tokens_of_answers() -> None:
    advantages = np.array([5.0, 1.0, 1.0, -1.0])
    answers = np.array([False, True, True, True])
    np.testing.assert_allclose(rebalance_tokens(advantages, answers), [5.0, 0.5, 0.5, -1.0])
    np.testing.assert_allclose(rebalance_tokens(advantages, answers, 2.0), [5, 0.25, 0.25, -1])
    lone = np.array([False, True, True, False])
    np.testing.assert_allclose(rebalance_tokens(advantages, lone), [5.0, 0.0, 0.0, -1.0])


def test_before_its_first_update_the_template_estimator_is_calibadv() -> None:
    estimator = TemplateBalanced(token_ids=(0, 5), from_update=3)
    counts = counts_of(WORKED).astype(int)
    matrix = estimator(WORKED, SCORES)
    vectors = [np.repeat(row, count) for row, count in zip(matrix, counts, strict=True)]
    expected = CalibAdv()(WORKED, SCORES)
    before = estimator.reweight_tokens(vectors, WORKED.trajectories, 2)
    for vector, row, count in zip(before, expected, counts, strict=True):
        np.testing.assert_allclose(vector, np.repeat(row, count))
    after = estimator.reweight_tokens(vectors, WORKED.trajectories, 3)
    # Positive tags: 3 of 1.1547. Negative ones: 2 each of .3849, .19245 and 3 times .57735.
    assert pytest.approx(4 / 3, rel=1e-4) == 2 * (0.3849 + 0.19245 + 3 * 0.57735) / (3 * 1.154698)
    tagged = np.isin(np.arange(10), [0, 5])
    np.testing.assert_allclose(after[0][:10][tagged], 1.154698 * 4 / 3, rtol=1e-4)
    np.testing.assert_allclose(after[0][:10][~tagged], 1.154698, rtol=1e-4)
    assert after[0][10] == pytest.approx(after[0][11] * 4 / 3, rel=1e-4)
    total = sum(vector[-n:].sum() for vector, n in zip(after, (5, 6, 10), strict=True))
    assert total == pytest.approx(0.0, abs=1e-9)
    assert estimator.reweight_tokens([], [], 5) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CalibAdvVariant(penalty="hard"), "penalty must be soft, lifting"),
        (lambda: CalibAdvVariant(pools="x"), "pools must be answers"),
        (lambda: CalibAdvVariant(scope="x"), "scope must be group or batch"),
        (lambda: CalibAdvVariant(target_ratio=0), "target_ratio must be positive"),
        (lambda: ClippedCalibAdv(penalty="x"), "penalty must be soft"),
        (lambda: ClippedCalibAdv(target_ratio=-1), "target_ratio must be positive"),
        (lambda: TurnGroup(query_coef=2), "query_coef must be in"),
        (lambda: QueryGroup(query_coef=-1), "query_coef must be in"),
        (lambda: GoodQueryPositive(good_from=2), "good_from must be in"),
        (lambda: TemplateBalanced(token_ids=()), "token_ids must not be empty"),
        (lambda: TemplateBalanced(token_ids=(1,), from_update=-1), "from_update must not be"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
