"""A critic's values against measured ones, and the estimators that need them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibadv_algo.experiments.truth.audit import audit
from calibadv_algo.experiments.truth.candidates import (
    STEPS,
    Field,
    ScoredOnce,
    own_candidate,
)
from calibadv_algo.experiments.truth.critic import (
    NEEDS_CRITIC,
    OTHER_REWARDS,
    CriticValues,
    ValueScore,
    value_scores,
)
from calibadv_algo.experiments.truth.intervals import draw_clusters
from calibadv_algo.experiments.truth.measuring import Measurement, Plan
from calibadv_algo.experiments.truth.metrics import judge
from calibadv_algo.experiments.truth.turns import collect_turns
from calibadv_algo.shaping.turns import MtPpoRewards
from calibadv_algo.training.config import config_to_dict
from tests.algo.test_truth_measuring import run
from tests.algo.text_worlds import World, letters_of, stop_or_search, when_to_stop

PLAN = Plan(group_size=4, continuations=16)
Case = tuple[World, Measurement]


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The return comes at the end."""
    world = when_to_stop()
    return world, run(world, tmp_path_factory.mktemp("truth"), PLAN, 40)


@pytest.fixture(scope="module")
def paid_by_search(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Every search pays at once, so a part of the return is past."""
    world = stop_or_search()
    return world, run(world, tmp_path_factory.mktemp("paid"), PLAN, 12)


def critic(case: Case, factor: float = 1.0, shift: float = 0.0) -> CriticValues:
    """One that knows the world, times a factor and plus a shift; a letter is a token."""
    world, measured = case
    episodes = [each for group in measured.groups for each in group.group.trajectories]
    texts = [letters_of(each) for each in episodes]
    tokens = [
        np.array([shift + factor * world.value(text[:turn]) for turn in range(len(text))])
        for text in texts
    ]
    return CriticValues(episodes=tuple(episodes), tokens=tuple(tokens), shaping=[])


def scores(case: Case, values: CriticValues) -> dict[str, ValueScore]:
    groups = case[1].groups
    turns = collect_turns(groups)
    weights = draw_clusters(len(turns.clusters), 0, 400)
    found = value_scores(groups, turns, judge(turns), values, weights)
    return {each.what: each for each in found}


def test_true_values_account_for_all_of_the_variance(stopping: Case) -> None:
    found = scores(stopping, critic(stopping))
    everywhere = found["critic, all states"]
    assert everywhere.corrected.estimate == pytest.approx(1.0, abs=0.05)
    assert everywhere.explained.estimate == pytest.approx(1.0, abs=0.05)
    assert everywhere.within.estimate == pytest.approx(1.0, abs=0.05)
    assert everywhere.bias.low < 0 < everywhere.bias.high
    assert everywhere.correlation.estimate < everywhere.corrected.estimate, "noise costs something"
    start = found["critic, the start"]
    assert np.isnan(start.within.estimate), "there is one state a question"
    assert start.count + found["critic, later states"].count == everywhere.count
    assert found["other episodes, later states"].explained.estimate < 0.5


def test_scale_and_shift_are_seen_where_order_is_not_enough(stopping: Case) -> None:
    shifted = scores(stopping, critic(stopping, shift=0.5))["critic, all states"]
    assert shifted.bias.estimate == pytest.approx(0.5, abs=0.05)
    assert shifted.corrected.estimate == pytest.approx(1.0, abs=0.05)
    assert shifted.explained.estimate < 0.6
    opposite = scores(stopping, critic(stopping, factor=-1.0))["critic, all states"]
    assert opposite.corrected.estimate < -0.95
    assert opposite.explained.estimate < 0


def test_values_are_those_of_the_rewards_to_come(paid_by_search: Case) -> None:
    found = scores(paid_by_search, critic(paid_by_search))
    for where in ("all states", "the start", "later states"):
        assert found[f"critic, {where}"].bias.estimate == pytest.approx(0.0, abs=0.1)


def test_estimators_with_a_critic_stand_among_the_others(paid_by_search: Case) -> None:
    """Steps of true values are the true advantages; PPO takes a value off the rewards to come."""
    world, measured = paid_by_search
    field = Field(candidates=tuple(own_candidate(name) for name in ("grpo", "ppo-gae", "mt-ppo")))
    result = audit(measured.groups, field, critic=critic(paid_by_search))
    exact, plain = [], []
    for group in measured.groups:
        for each in group.group.trajectories:
            text = letters_of(each)
            for turn in range(len(text)):
                exact.append(world.advantage(text[: turn + 1]))
                to_come = sum(world.reward(text[: k + 1]) for k in range(turn, len(text)))
                plain.append(to_come - world.value(text[:turn]))
    assert result.advantages[STEPS.name] == pytest.approx(np.array(exact))
    assert result.jackknife[STEPS.name] == pytest.approx(0.0, abs=1e-12)
    assert {STEPS.name, "ppo-gae"} <= set(result.standings["all"])
    assert np.corrcoef(result.advantages["ppo-gae"], plain)[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert result.left_out["mt-ppo"] == OTHER_REWARDS
    assert result.to_dict()["values"][0]["what"] == "critic, all states"


def test_a_critic_serves_those_who_learn_from_its_rewards(paid_by_search: Case) -> None:
    groups = [each.group for each in paid_by_search[1].groups]
    values = critic(paid_by_search)
    shaped = replace(values, shaping=config_to_dict([MtPpoRewards()]))
    names = ("ppo-gae", "bi-level-gae", "mt-ppo", "grpo")

    def lacking(given: CriticValues | None) -> list[str | None]:
        return [ScoredOnce(groups, given).lacks(own_candidate(name)) for name in names]

    assert lacking(values) == [None, None, OTHER_REWARDS, None]
    assert lacking(shaped) == [OTHER_REWARDS, OTHER_REWARDS, None, None]
    assert lacking(None) == [NEEDS_CRITIC, NEEDS_CRITIC, NEEDS_CRITIC, None]
