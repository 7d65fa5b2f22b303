"""The arms of a comparison: what each of them changes, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.flipped import FlippedSearches
from calibadv_algo.advantages.gold_turns import GoldTurns
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mass_matched import MassMatchedGrpo
from calibadv_algo.advantages.vine import Vine
from calibadv_algo.credit.labels import (
    AnswerMatchCredit,
    GoldCredit,
    InvertedCredit,
    NoCredit,
    RandomCredit,
)
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.experiments.arms import ARMS, find_arm
from calibadv_algo.experiments.baseline import find_algorithm
from calibadv_algo.training.presets import ATLAS_TINY, PRESETS

EXPECTED = {
    "grpo": (Grpo, NoCredit, False),
    "calibadv": (CalibAdv, SilverCredit, True),
    "soft-penalty": (SoftPenalty, SilverCredit, False),
    "rebalance": (Rebalance, NoCredit, False),
    "think-tag": (Grpo, NoCredit, True),
    "soft-penalty-rebalance": (CalibAdv, SilverCredit, False),
    "calibadv-gold": (CalibAdv, GoldCredit, True),
    "calibadv-answer-match": (CalibAdv, AnswerMatchCredit, True),
    "calibadv-random": (CalibAdv, RandomCredit, True),
    "calibadv-inverted": (CalibAdv, InvertedCredit, True),
    "grpo-equal-mass": (MassMatchedGrpo, SilverCredit, True),
    "calibadv-lambda-0.5": (CalibAdv, SilverCredit, True),
    "calibadv-lambda-0.75": (CalibAdv, SilverCredit, True),
    "calibadv-lambda-1.5": (CalibAdv, SilverCredit, True),
    "calibadv-lambda-2": (CalibAdv, SilverCredit, True),
    "vine": (Vine, NoCredit, False),
    "gold-turns": (GoldTurns, GoldCredit, False),
    "flipped-searches": (FlippedSearches, NoCredit, False),
    "grpo-again": (Grpo, NoCredit, False),
}


def test_these_are_the_arms() -> None:
    assert list(ARMS) == list(EXPECTED)
    assert len({arm.description for arm in ARMS.values()}) == len(ARMS)
    assert all(len(arm.description) <= 60 for arm in ARMS.values())


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("preset", PRESETS)
def test_an_arm_sets_algorithm_and_tag_and_nothing_else(name: str, preset: str) -> None:
    start = PRESETS[preset]
    config = find_arm(name).apply(start)
    advantage, credit, prepend_think = EXPECTED[name]
    assert type(config.advantage) is advantage
    assert type(config.credit) is credit
    assert config.env.prepend_think is prepend_think
    back = replace(
        config,
        advantage=start.advantage,
        credit=start.credit,
        env=replace(config.env, prepend_think=start.env.prepend_think),
        rollout=replace(config.rollout, vine=None),
        seed=start.seed,
    )
    assert (config.seed == start.seed) is (name != "grpo-again")
    assert (config.rollout.vine is not None) is (name == "vine")
    assert back == start


def test_an_arm_forgets_the_arm_before_it() -> None:
    once = find_arm("grpo").apply(ATLAS_TINY)
    for name in ("calibadv-gold", "vine"):
        assert find_arm("grpo").apply(find_arm(name).apply(ATLAS_TINY)) == once


def test_inverted_labels_are_those_of_the_silver_arm() -> None:
    credit = ARMS["calibadv-inverted"].credit
    assert isinstance(credit, InvertedCredit)
    assert credit.base == ARMS["calibadv"].credit


def test_an_unknown_arm_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"among grpo, calibadv, .*lambda-2, vine, .*; got 'ppo'"):
        find_arm("ppo")


def test_an_estimator_that_is_no_method_is_told_how_it_is_compared() -> None:
    with pytest.raises(ValueError, match=r"compared under a name: --arms sibling-td=sibling-td$"):
        find_algorithm("sibling-td")
    with pytest.raises(ValueError, match=r"got 'nonsense'$"):
        find_algorithm("nonsense")


def test_the_table_of_arms_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ARMS["mine"] = ARMS["grpo"]  # type: ignore[index]
