"""MT-GRPO, GiGPO, Tree-GRPO, CriticSearch: what turns and trees are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.advantages.critic_search import CriticSearch, mix_verdicts
from calibadv_algo.advantages.gigpo import GiGpo, cluster_states, step_relative, step_returns
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mt_grpo import MtGrpo, turn_normalized
from calibadv_algo.advantages.tree_grpo import TreeGrpo, tree_normalized
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory, Turn

NAN = math.nan
BAD = 1e-6
VALUES = st.sampled_from([0.0, 0.2, 0.5, 1.0])


def make_group(
    rewards: Sequence[Sequence[float]],
    observations: Sequence[Sequence[str]] | None = None,
    trees: Sequence[int] | None = None,
) -> Group:
    trajectories = []
    for row, of_turns in enumerate(rewards):
        texts = observations[row] if observations else [""] * len(of_turns)
        turns = tuple(
            Turn(
                action_ids=(7, 7),
                action_text="",
                logprobs=(0.0, 0.0),
                reward=reward,
                observation_text=text,
                info={"passage_ids": (text,) if text else ()},
            )
            for reward, text in zip(of_turns, texts, strict=True)
        )
        trajectories.append(
            Trajectory(
                group_id="g",
                task_id="t",
                prompt_ids=(0,),
                prompt_text="question",
                turns=turns,
                reset_info={} if trees is None else {"tree_id": trees[row]},
            )
        )
    return Group(tuple(trajectories))


def no_scores(group: Group) -> np.ndarray:
    return np.full((len(group), group.max_turns), NAN)


def z(values: Sequence[float], epsilon: float, *, lone: float | None = None) -> list[float]:
    """GRPO's comparison as a loop; a lone value gives `lone`, or itself over 1 + epsilon."""
    if len(values) == 1:
        return [values[0] / (1 + epsilon) if lone is None else lone]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return [0.0 if abs(v - mean) < 1e-12 else (v - mean) / (std + epsilon) for v in values]


# MT-GRPO


@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["zero", "skip"]),
    st.sampled_from(["combined", "outcome"]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_mt_grpo_is_the_loop(
    rewards: list[list[float]], absent: Any, without: Any, coef: float
) -> None:
    outcome = z([row[-1] for row in rewards], 1e-4)
    combined = z([math.fsum(row) for row in rewards], 1e-4)
    expected = [[outcome[i]] * len(row) for i, row in enumerate(rewards)]
    for q in range(max(map(len, rewards)) - 1):
        inner = [i for i, row in enumerate(rewards) if q < len(row) - 1]
        pool = inner if absent == "skip" else list(range(len(rewards)))
        scores = z([rewards[i][q] if i in inner else 0.0 for i in pool], 1e-4)
        for i, score in zip(pool, scores, strict=True):
            if i in inner:
                expected[i][q] += coef * score
    if without == "combined":
        expected = [[combined[i]] if len(row) == 1 else row for i, row in enumerate(expected)]
    group = make_group(rewards)
    result = MtGrpo(coef=coef, absent=absent, without=without)(group, no_scores(group))
    for row, want in zip(result, expected, strict=True):
        np.testing.assert_allclose(row[: len(want)], want, atol=1e-6)
        assert not row[len(want) :].any()


def test_mt_grpo_on_the_published_setting_by_hand() -> None:
    group = make_group([[0.7, 1.5], [0.2, 0.5], [0.4]])
    result = MtGrpo()(group, no_scores(group))
    outcome = z([1.5, 0.5, 0.4], 1e-4)
    turn = z([0.7, 0.2, 0.0], 1e-4)
    combined = z([2.2, 0.7, 0.4], 1e-4)
    np.testing.assert_allclose(
        result,
        [
            [outcome[0] + turn[0], outcome[0]],
            [outcome[1] + turn[1], outcome[1]],
            [combined[2], 0.0],
        ],
    )
    outcome_only = MtGrpo(coef=0, without="outcome")(group, no_scores(group))
    np.testing.assert_allclose(outcome_only[:, 0], outcome)


def test_equal_turn_rewards_say_nothing() -> None:
    rewards = np.full((3, 2), 0.1 + 0.2)
    inner = np.array([[True, False]] * 3)
    assert not turn_normalized(rewards, inner, absent="skip").any()


# GiGPO


def test_step_returns_by_hand() -> None:
    np.testing.assert_allclose(step_returns(np.array([1.0, 0.0, 2.0]), 0.5), [1.5, 1.0, 2.0])
    assert step_returns(np.zeros(0)).shape == (0,)


def test_states_are_equal_or_alike() -> None:
    assert cluster_states(["a", "b", "a", "c"]).tolist() == [0, 1, 0, 2]
    texts = ["the cat sat", "the cat sat!", "something else", "the cat sat"]
    assert cluster_states(texts, 0.9).tolist() == [0, 0, 1, 0]
    assert cluster_states(texts).tolist() == [0, 1, 2, 0]
    assert cluster_states([]).tolist() == []


@given(st.lists(st.tuples(VALUES, st.integers(0, 2)), min_size=1, max_size=8), st.booleans())
def test_steps_are_compared_within_their_state(
    steps: list[tuple[float, int]], divides: bool
) -> None:
    expected = []
    for value, state in steps:
        same = [v for v, s in steps if s == state]
        mean = sum(same) / len(same)
        std = 1.0
        if divides and len(same) > 1:
            std = math.sqrt(sum((v - mean) ** 2 for v in same) / (len(same) - 1)) + 1e-6
        expected.append(0.0 if abs(value - mean) < 1e-12 else (value - mean) / std)
    result = step_relative(
        np.array([value for value, _ in steps]),
        np.array([state for _, state in steps]),
        normalization="group" if divides else "none",
    )
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_gigpo_by_hand() -> None:
    group = make_group([[0.0, 1.0], [0.0, 0.0], [0.5]], [["x", ""], ["x", ""], [""]])
    result = GiGpo(gamma=0.5)(group, no_scores(group))
    # Five steps: rewards 1, 1, 0, 0, 0.5. The first turns share a state, the second ones another.
    mean = 0.5
    first = np.array([0.5, 0.0, 0.5]) - 1 / 3
    second = np.array([1.0, 0.0]) - 0.5
    np.testing.assert_allclose(
        result,
        [
            [1 - mean + first[0], 1 - mean + second[0]],
            [0 - mean + first[1], 0 - mean + second[1]],
            [0.5 - mean + first[2], 0.0],
        ],
        atol=1e-12,
    )
    once = GiGpo(gamma=0.5, statistics="trajectories", step_coef=0)(group, no_scores(group))
    np.testing.assert_allclose(once, [[0.5, 0.5], [-0.5, -0.5], [0, 0]], atol=1e-12)
    scaled = GiGpo(gamma=0.5, normalization="group", step_coef=0)(group, no_scores(group))
    np.testing.assert_allclose(scaled[0, 0], z([1, 1, 0, 0, 0.5], 1e-6)[0])


def test_gigpo_anchors() -> None:
    group = make_group([[0.0, 1.0], [0.0, 0.0]], [["x", ""], ["y", ""]])
    apart = GiGpo(gamma=1.0, statistics="trajectories")(group, no_scores(group))
    np.testing.assert_allclose(apart, [[1.0, 0.5], [-1.0, -0.5]])
    assert GiGpo(anchor="passages").required_info_keys == {"passage_ids"}
    assert GiGpo().required_info_keys == frozenset()
    GiGpo(anchor="passages")(group, no_scores(group))


def test_gigpo_on_one_trajectory() -> None:
    lone = make_group([[1.0]])
    np.testing.assert_allclose(GiGpo()(lone, no_scores(lone)), [[1.0]])
    two_steps = make_group([[0.0, 1.0]])
    np.testing.assert_allclose(GiGpo()(two_steps, no_scores(two_steps)), [[0.0, 0.0]])


# Tree-GRPO


@given(
    st.lists(st.tuples(VALUES, st.integers(0, 2)), min_size=1, max_size=7),
    st.sampled_from(["sum", "intra", "renormalized"]),
    st.sampled_from(["raw", "zero"]),
)
def test_trees_are_the_loop(leaves: list[tuple[float, int]], mode: Any, lone: Any) -> None:
    rewards = [reward for reward, _ in leaves]
    across = z(rewards, 1e-6)
    scores = across if mode == "renormalized" else rewards
    within = [0.0] * len(leaves)
    for tree in {tree for _, tree in leaves}:
        members = [i for i, (_, t) in enumerate(leaves) if t == tree]
        compared = z([scores[i] for i in members], 1e-6, lone=0.0 if lone == "zero" else None)
        for i, value in zip(members, compared, strict=True):
            within[i] = value
    expected = [a + w if mode == "sum" else w for a, w in zip(across, within, strict=True)]
    result = tree_normalized(
        np.array(rewards), np.array([tree for _, tree in leaves]), mode=mode, lone_leaf=lone
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_renormalising_is_nearly_the_comparison_within() -> None:
    rewards, trees = np.array([1.0, 0.0, 0.5, 0.0, 1.0]), np.array([0, 0, 0, 1, 1])
    np.testing.assert_allclose(
        tree_normalized(rewards, trees, mode="renormalized"),
        tree_normalized(rewards, trees, mode="intra"),
        atol=1e-5,
    )


def test_trees_are_read_from_the_reset() -> None:
    group = make_group([[1.0], [0.0], [0.0, 0.0]], trees=[0, 0, 1])
    result = TreeGrpo()(group, no_scores(group))
    across = z([1.0, 0.0, 0.0], 1e-6)
    within = z([1.0, 0.0], 1e-6)
    np.testing.assert_allclose(
        result, [[across[0] + within[0], 0], [across[1] + within[1], 0], [across[2]] * 2]
    )
    bare = make_group([[1.0], [0.0]])
    with pytest.raises(MissingInfoKeyError, match="tree_id"):
        TreeGrpo()(bare, no_scores(bare))


# CriticSearch


@given(
    st.lists(
        st.lists(st.sampled_from([NAN, BAD, 0.5, 1.0]), min_size=3, max_size=3),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from(["group", "turn"]),
    st.sampled_from(["binary", "graded"]),
)
def test_verdicts_are_the_loop(scores: list[list[float]], pool: Any, verdict: Any) -> None:
    group = make_group([[0.0, 0.0, 0.0, i / 3] for i in range(len(scores))])
    correctness = np.array([[*row, NAN] for row in scores])
    outcome = z([i / 3 for i in range(len(scores))], 1e-6)
    expected = [[outcome[i]] * 4 for i in range(len(scores))]
    places = [(i, q) for i, row in enumerate(scores) for q in range(3) if not math.isnan(row[q])]
    pools = [places] if pool == "group" else [[p for p in places if p[1] == q] for q in range(3)]
    for members in filter(None, pools):
        marks = [
            scores[i][q] if verdict == "graded" else float(scores[i][q] > BAD) for i, q in members
        ]
        for (i, q), value in zip(members, z(marks, 1e-6, lone=0.0), strict=True):
            expected[i][q] = 0.25 * value + 0.75 * outcome[i]
    result = CriticSearch(alpha=0.25, pool=pool, verdict=verdict)(group, correctness)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_failed_verdicts_fall_back_to_the_outcome() -> None:
    group = make_group([[0.0, 1.0], [0.0, 0.0]])
    nothing = CriticSearch()(group, no_scores(group))
    np.testing.assert_array_equal(nothing, Grpo()(group, no_scores(group)))
    one = CriticSearch()(group, np.array([[1.0, NAN], [NAN, NAN]]))
    np.testing.assert_allclose(one[0], nothing[0] * [0.5, 1.0])
    outcome = np.array([[1.0, 1.0]])
    assert mix_verdicts(outcome, np.array([[NAN, NAN]])) is not outcome
    assert CriticSearch.needs_correctness


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MtGrpo(epsilon=0), "epsilon must be positive"),
        (lambda: MtGrpo(coef=-1), "coef must not be negative"),
        (lambda: MtGrpo(absent="drop"), "absent must be zero or skip"),
        (lambda: MtGrpo(without="x"), "without must be combined or outcome"),
        (lambda: GiGpo(gamma=2), "gamma must be in"),
        (lambda: GiGpo(similarity=1.0), "similarity must be in"),
        (lambda: GiGpo(statistics="x"), "statistics must be steps or trajectories"),
        (lambda: GiGpo(normalization="x"), "normalization must be group or none"),
        (lambda: GiGpo(step_coef=-1), "step_coef must not be negative"),
        (lambda: TreeGrpo(mode="x"), "mode must be sum, intra or renormalized"),
        (lambda: TreeGrpo(lone_leaf="x"), "lone_leaf must be raw or zero"),
        (lambda: CriticSearch(alpha=2), "alpha must be in"),
        (lambda: CriticSearch(pool="x"), "pool must be group or turn"),
        (lambda: CriticSearch(verdict="x"), "verdict must be binary or graded"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
