"""Silver correctness by hand, and the other credits on facts alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.credit.base import SCORED_BAD, search_mask
from calibadv_algo.credit.facts import check_info_keys
from calibadv_algo.credit.labels import (
    AnswerMatchCredit,
    GoldCredit,
    InvertedCredit,
    NoCredit,
    RandomCredit,
)
from calibadv_algo.credit.silver import SilverCredit, is_more_similar, silver_correctness
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.protocol.words import word_distance

BAD = SCORED_BAD
NAN = math.nan
THOUGHTS = ("first a plain idea", "then quite another thing", "lastly some more words", "so on")


def make_trajectory(
    passages: Sequence[str],
    reward: float,
    *,
    thoughts: Sequence[str] = THOUGHTS,
    is_format_valid: bool = True,
    facts: Sequence[Mapping[str, Any]] = (),
) -> Trajectory:
    """One search for each string of passage ids, then an answer."""
    turns = []
    for index in range(len(passages) + 1):
        is_last = index == len(passages)
        info: dict[str, Any] = {
            "action": "answer" if is_last else "search",
            "think": "done" if is_last else thoughts[index],
            "passage_ids": () if is_last else tuple(passages[index].split()),
        }
        if is_last:
            info["is_format_valid"] = is_format_valid
        if index < len(facts):
            info |= facts[index]
        turns.append(
            Turn(
                action_ids=(1, 2),
                action_text="",
                logprobs=(0.0, 0.0),
                reward=reward if is_last else 0.0,
                info=info,
            )
        )
    return Trajectory(
        group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=tuple(turns)
    )


def make_group(*trajectories: Trajectory) -> Group:
    return Group(trajectories)


def assert_rows(matrix: np.ndarray, rows: Sequence[Sequence[float]]) -> None:
    width = max(map(len, rows))
    padded = [[*row, *[NAN] * (width - len(row))] for row in rows]
    np.testing.assert_allclose(matrix, np.array(padded), rtol=0, atol=1e-12)


def test_old_calculator_counts_hits_over_passages() -> None:
    group = make_group(
        make_trajectory(["d1 d2 d3"], 1.0),
        make_trajectory(["d1 d4 d5", "d2 d3 d6"], 0.0),
        make_trajectory(["d7 d8 d9"], 0.0),
    )
    assert_rows(silver_correctness(group), [[1.0, NAN], [1 / 3, 2 / 3, NAN], [BAD, NAN]])


def test_mean_and_max_weigh_hits_by_frequency() -> None:
    group = make_group(
        make_trajectory(["d1 d2 d3"], 1.0),
        make_trajectory(["d1 d2 d4"], 1.0),
        make_trajectory(["d3 d5 d6"], 0.0),
    )
    mean = silver_correctness(group, "mean")
    assert_rows(mean, [[2.5 / 3, NAN], [2.5 / 3, NAN], [0.5 / 3, NAN]])
    assert_rows(silver_correctness(group, "max"), [[1.0, NAN], [1.0, NAN], [0.5, NAN]])


def test_only_the_best_trajectories_give_silver_passages() -> None:
    group = make_group(
        make_trajectory(["d1"], 1.0),
        make_trajectory(["d2"], 0.9),
        make_trajectory(["d3"], 1.0, is_format_valid=False),
        make_trajectory(["d2", "d3", "d1"], 0.0),
    )
    assert_rows(silver_correctness(group), [[1.0], [BAD], [NAN], [BAD, BAD, 1.0, NAN]])


@pytest.mark.parametrize(("reward", "is_scored"), [(0.69, False), (0.7, True)])
def test_without_a_good_trajectory_nothing_is_scored(reward: float, is_scored: bool) -> None:
    group = make_group(make_trajectory(["d1"], reward), make_trajectory(["d1"], 0.0))
    assert np.isnan(silver_correctness(group)).all() != is_scored
    lower = silver_correctness(group, answer_threshold=0.5)
    assert_rows(lower, [[1.0, NAN], [1.0, NAN]])


def test_repeated_passages_count_once_above_and_twice_below() -> None:
    group = make_group(make_trajectory(["d1 d1 d2 d9"], 1.0), make_trajectory(["d1 d1 x y"], 0.0))
    assert_rows(silver_correctness(group), [[3 / 4, NAN], [1 / 4, NAN]])


def test_a_passage_is_credited_once_in_a_trajectory() -> None:
    group = make_group(
        make_trajectory(["d1 d2 d3"], 1.0), make_trajectory(["d1 x y", "d1 d2 z"], 0)
    )
    assert_rows(silver_correctness(group), [[1.0, NAN], [1 / 3, 1 / 3, NAN]])


def test_two_shared_passages_make_a_search_redundant() -> None:
    group = make_group(
        make_trajectory(["d1 d2 d3"], 1.0), make_trajectory(["x y z", "x y d1"], 0.0)
    )
    assert_rows(silver_correctness(group), [[1.0, NAN], [BAD, BAD, NAN]])
    lenient = silver_correctness(group, max_shared_passages=2)
    assert_rows(lenient, [[1.0, NAN], [BAD, 1 / 3, NAN]])


@pytest.mark.parametrize(
    ("thoughts", "score"),
    [
        (("u1 u2 u3", "u1 u2 u9"), BAD),  # similarity 2/3
        (("u1 u2", "u1 u9"), 1.0),  # exactly 1/2 is not above it
        (("", ""), 1.0),  # two empty thoughts are not similar
        (("same words", "same words"), BAD),
    ],
)
def test_similar_thoughts_make_a_search_redundant(thoughts: tuple[str, str], score: float) -> None:
    group = make_group(
        make_trajectory(["d1"], 1.0), make_trajectory(["x", "d1"], 0.0, thoughts=thoughts)
    )
    assert_rows(silver_correctness(group), [[1.0, NAN], [BAD, score, NAN]])


def test_redundancy_also_looks_at_bad_earlier_searches() -> None:
    thoughts = ("one two three", "four five six", "four five seven")
    group = make_group(
        make_trajectory(["d1"], 1.0), make_trajectory(["d1", "x", "d1 y"], 0.0, thoughts=thoughts)
    )
    assert_rows(silver_correctness(group), [[1.0, NAN], [1.0, BAD, BAD, NAN]])


def test_a_dangling_search_and_no_passages() -> None:
    dangling = make_trajectory(["d1"], 0.0, facts=({}, {"action": "search"}))
    group = make_group(make_trajectory(["d1", ""], 1.0), dangling)
    assert_rows(silver_correctness(group), [[1.0, BAD, NAN], [1.0, NAN]])
    np.testing.assert_array_equal(search_mask(group), [[True, True, False], [True, False, False]])


def test_best_trajectories_without_passages_score_everything_bad() -> None:
    group = make_group(make_trajectory([""], 1.0), make_trajectory(["d1"], 0.0))
    assert_rows(silver_correctness(group), [[BAD, NAN], [BAD, NAN]])


words = st.lists(st.sampled_from("abcde"), max_size=9)


@settings(max_examples=200, deadline=None)
@given(words, words, st.sampled_from([-0.1, 0.0, 0.25, 0.4, 0.5, 0.8, 1.0]))
def test_early_exits_never_change_the_verdict(
    first: list[str], second: list[str], threshold: float
) -> None:
    longest = max(len(first), len(second))
    similarity = 1 - word_distance(first, second) / longest if longest else 0.0
    assert is_more_similar(first, second, threshold) == (similarity > threshold)


def test_gold_credit_is_all_or_nothing() -> None:
    facts = (
        {"gold_new": ("d1",), "gold_recall": 0.5},
        {"gold_new": (), "gold_recall": 0.5},
    )
    group = make_group(make_trajectory(["d1", "d2"], 0.0, facts=facts, is_format_valid=False))
    assert_rows(GoldCredit()(group), [[1.0, BAD, NAN]])
    blind = ({"gold_new": (), "gold_recall": NAN},)
    assert_rows(GoldCredit()(make_group(make_trajectory(["d"], 0.0, facts=blind))), [[NAN, NAN]])


def test_answer_match_credit() -> None:
    facts = ({"answer_in_passages": True}, {"answer_in_passages": False})
    group = make_group(make_trajectory(["d1", "d2"], 0.0, facts=facts))
    assert_rows(AnswerMatchCredit()(group), [[1.0, BAD, NAN]])


def test_random_credit_depends_on_seed_group_and_place_alone() -> None:
    group = make_group(*[make_trajectory(["a", "b", "c", "d"], 0.0) for _ in range(8)])
    first = RandomCredit(seed=1)(group)
    np.testing.assert_array_equal(first, RandomCredit(seed=1)(group))
    assert not np.array_equal(first, RandomCredit(seed=2)(group), equal_nan=True)
    assert set(np.unique(first[:, :4])) == {BAD, 1.0}
    assert np.isnan(first[:, 4]).all()
    assert len({tuple(row) for row in first[:, :4]}) > 1
    always = RandomCredit(seed=1, probability=1.0)(group)
    assert (always[:, :4] == 1.0).all()


def test_random_credit_does_not_touch_the_global_generator() -> None:
    group = make_group(make_trajectory(["a"], 0.0))
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    RandomCredit(seed=3)(group)
    assert np.random.rand() == expected  # noqa: NPY002


def test_inverted_credit_turns_scores_round() -> None:
    group = make_group(
        make_trajectory(["d1 d2 d3"], 1.0),
        make_trajectory(["d1 d4 d5", "d2 d3 d6"], 0.0),
        make_trajectory(["d7"], 0.0),
    )
    inverted = InvertedCredit(base=SilverCredit())(group)
    assert_rows(inverted, [[BAD, NAN], [2 / 3, 1 / 3, NAN], [1.0, NAN]])


def test_no_credit_needs_nothing() -> None:
    turn = Turn(action_ids=(1,), action_text="", logprobs=(0.0,))
    other = Trajectory(group_id="g", task_id="t", prompt_ids=(), prompt_text="", turns=(turn,))
    assert np.isnan(NoCredit()(Group((other,)))).all()
    assert NoCredit().required_info_keys == frozenset()


CREDITS = [
    SilverCredit(),
    GoldCredit(),
    AnswerMatchCredit(),
    RandomCredit(),
    InvertedCredit(base=GoldCredit()),
]


@pytest.mark.parametrize("credit", CREDITS, ids=lambda credit: type(credit).__name__)
def test_required_keys_are_those_that_are_read(credit: Any) -> None:
    facts = {"gold_new": (), "gold_recall": 0.0, "answer_in_passages": True}
    complete = make_trajectory(["d1"], 1.0, facts=(facts, facts))
    credit(make_group(complete))
    for key in credit.required_info_keys:
        turns = [
            Turn(
                action_ids=turn.action_ids,
                action_text="",
                logprobs=turn.logprobs,
                reward=turn.reward,
                info={name: value for name, value in turn.info.items() if name != key},
            )
            for turn in complete.turns
        ]
        broken = Trajectory(
            group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=tuple(turns)
        )
        with pytest.raises(MissingInfoKeyError, match=repr(key)):
            credit(make_group(broken))


def test_check_info_keys_names_who_and_what() -> None:
    check_info_keys({"a"}, {"a": 1, "b": 2}, "Silver")
    with pytest.raises(MissingInfoKeyError, match=r"Silver needs the info key 'x', 'y'.*\['a'\]"):
        check_info_keys({"a", "y", "x"}, {"a": 1}, "Silver")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SilverCredit(calculator="best"), "calculator must be old, mean or max"),
        (lambda: SilverCredit(max_shared_passages=-1), "max_shared_passages must not be negative"),
        (lambda: RandomCredit(probability=1.5), r"probability must be in \[0, 1\], got 1.5"),
        (lambda: RandomCredit(seed=-1), "seed must not be negative, got -1"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
