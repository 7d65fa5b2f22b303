"""Credit of turns on pages: what is opened and found is judged as searches are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from calibadv_algo.credit.base import SCORED_BAD, search_mask
from calibadv_algo.credit.labels import GoldCredit
from calibadv_algo.credit.silver import silver_correctness
from calibadv_algo.experiments.truth.turns import UNKNOWN, collect_turns
from calibadv_algo.experiments.truth.values import MeasuredGroup, Returns
from calibadv_algo.report.assessment import assess
from calibadv_algo.report.groups import view
from calibadv_algo.types import Group, Trajectory, Turn


def turn(action: str, *ids: str, think: str = "", gold: tuple[str, ...] = ()) -> Turn:
    info: dict[str, Any] = {
        "action": action,
        "passage_ids": ids,
        "think": think,
        "gold_new": gold,
        "gold_recall": 0.0,
        "is_format_valid": True,
    }
    return Turn(
        action_ids=(1,), action_text="a", logprobs=(0.0,), observation_ids=(), observation_text="",
        reward=0.0, info=info,
    )  # fmt: skip


def played(reward: float, *turns: Turn) -> Trajectory:
    last = turn("answer")
    last = Turn(
        action_ids=(1,), action_text="a", logprobs=(0.0,), observation_ids=(), observation_text="",
        reward=reward, info=dict(last.info),
    )  # fmt: skip
    return Trajectory(
        group_id="g", task_id="t", prompt_ids=(0,), prompt_text="p", turns=(*turns, last)
    )


BEST = played(
    1.0,
    turn("search", "a", "b", "c", "d", think="one"),
    turn("open", "a", think="two"),
    turn("find", "e", think="three"),
)


def test_silver_are_the_sections_that_the_best_read():
    other = played(0.0, turn("search", "b", "c"), turn("open", "b"), turn("open", "e"))
    group = Group((BEST, other))
    scores = silver_correctness(group)
    assert scores[0, :3].tolist() == [0.25, 1.0, 1.0]
    assert scores[1, :3].tolist() == [SCORED_BAD, SCORED_BAD, 1.0]
    assert np.isnan(scores[:, 3]).all()
    assert assess(group).silver_passages == {"a", "e"}


def test_a_section_that_a_search_showed_is_still_new_to_read_but_once():
    again = played(
        1.0, turn("search", "a", think="x"), turn("search", "a", think="y"), turn("open", "a"),
        turn("open", "a"),
    )  # fmt: skip
    scores = silver_correctness(Group((again,)))
    assert scores[0, :4].tolist() == [1.0, SCORED_BAD, 1.0, SCORED_BAD]


def test_an_open_is_redundant_only_against_what_was_read():
    ids = ("a", "b", "c")
    twice = played(1.0, turn("search", *ids, think="x"), turn("open", *ids, think="x"))
    assert silver_correctness(Group((twice,)))[0, :2].tolist() == [1.0, 1.0]


def test_of_a_best_that_read_nothing_the_hits_are_silver():
    best = played(1.0, turn("search", "a"))
    scores = silver_correctness(Group((best, played(0.0, turn("open", "a")))))
    assert scores[:, 0].tolist() == [1.0, 1.0]


def test_gold_credit_and_the_mask_count_every_call():
    trajectory = played(1.0, turn("open", "a", gold=("a",)), turn("find", "a"))
    group = Group((trajectory,))
    assert search_mask(group).tolist() == [[True, True, False]]
    scores = GoldCredit()(group)
    assert scores[0, :2].tolist() == [1.0, SCORED_BAD]
    assert math.isnan(scores[0, 2])


def test_the_credit_instrument_counts_calls_as_searches():
    trajectory = played(1.0, turn("search", "a"), turn("open", "a", gold=("a",)))
    dangling = played(0.0, turn("open", "b"))
    dangling = replace(dangling, turns=dangling.turns[:1])
    group = Group((trajectory, dangling))
    returns = tuple(
        tuple(Returns(pilot=(0.0, 1.0, 0.0, 1.0)) for _ in each.turns)
        for each in group.trajectories
    )
    turns = collect_turns([MeasuredGroup(group=group, returns=returns)])
    assert turns.kind.tolist() == ["search", "open", "answer", "dangling"]
    assert turns.is_search.tolist() == [True, True, False, False]
    assert turns.number.tolist() == [1, 2, 0, 0]
    assert turns.gold.tolist() == [0, 1, UNKNOWN, UNKNOWN]


def test_the_browser_shows_what_was_called():
    called = turn("open", "norway#area", gold=("norway#area",))
    info = {
        **called.info,
        "calls": ("open", "find"),
        "arguments": ("norway#area", "km"),
        "passages": (("Norway: Area", "total: 323,802 sq km"),),
    }
    trajectory = played(1.0, replace(called, info=info))
    shown = view(assess(Group((trajectory,))), arm="grpo", seed=0).trajectories[0].turns[0]
    assert shown.kind == "open"
    assert shown.body == "open: norway#area\nfind: km"
    [section] = shown.passages
    assert (section.id, section.is_gold, section.is_silver) == ("norway#area", True, True)
    assert section.text == "total: 323,802 sq km"
