"""Biases of estimators by enumeration: expected gradients against the true one, exactly.

All groups of four of the small worlds are listed with their probabilities, so there is no noise.
What is found stands in the estimators' docstrings and in ``docs/paper_map.md``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance
from calibadv_algo.advantages.gigpo import GiGpo
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mt_grpo import MtGrpo
from calibadv_algo.advantages.sibling_td import SiblingTd
from calibadv_algo.advantages.tree_grpo import TreeGrpo
from calibadv_algo.advantages.turn_baseline import TurnBaseline
from calibadv_algo.advantages.turn_groups import (
    GoodQueryPositive,
    PenaltyTurnGroup,
    QueryGroup,
    TurnGroup,
)
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.labels import GoldCredit, NoCredit
from calibadv_algo.credit.silver import SilverCredit
from tests.algo.enumeration import (
    Advantages,
    cosine,
    expected_gradient,
    groups,
    tree_groups,
    true_gradient,
)
from tests.algo.text_worlds import (
    WORLDS,
    World,
    delayed_chain,
    stop_or_search,
    two_hop_lottery,
    when_to_stop,
)


def using(estimator: AdvantageEstimator, credit: CreditRule | None = None) -> Advantages:
    labels = credit or NoCredit()
    return lambda group: estimator(group, labels(group))


def gradient(world: World, estimator: Any, credit: CreditRule | None = None) -> dict[str, float]:
    return expected_gradient(world, using(estimator, credit))


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_corrected_baseline_has_the_true_gradient(world: World, size: int) -> None:
    found = expected_gradient(world, using(TurnBaseline()), size)
    true = true_gradient(world)
    assert all(found.get(key, 0.0) == pytest.approx(value) for key, value in true.items())


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("anchor", ["history", "observation"])
def test_values_by_siblings_have_the_true_gradient_where_nothing_is_cut_short(
    world: World, size: int, anchor: Any
) -> None:
    found = expected_gradient(world, using(SiblingTd(lam=1.0, anchor=anchor)), size)
    for key, value in true_gradient(world).items():
        assert found.get(key, 0.0) == pytest.approx(value, abs=1e-12)


def test_below_that_the_direction_stays_near_the_truth() -> None:
    cosines = [cosine(gradient(world, SiblingTd()), true_gradient(world)) for world in WORLDS]
    assert min(cosines) > 0.9


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_grpo_without_deviation_has_it_but_for_its_own_share(world: World) -> None:
    """The mean holds the episode itself: (n - 1) / n of the gradient."""
    found = gradient(world, Grpo(normalization="none"))
    for key, value in true_gradient(world).items():
        assert found.get(key, 0.0) == pytest.approx(0.75 * value, abs=1e-12)


def test_dividing_by_the_deviation_weighs_turns_where_returns_are_of_many_sizes() -> None:
    world = stop_or_search()
    ratios = ratio_by_turn(world, Grpo())
    assert ratios == pytest.approx([0.73, 0.48, 0.31], abs=0.01)
    binary = ratio_by_turn(when_to_stop(), Grpo(), ("a", "aa"))
    assert binary == pytest.approx([1.40, 1.40], abs=0.01), "no matter where returns are 0 or 1"


def ratio_by_turn(
    world: World,
    estimator: AdvantageEstimator,
    keys: tuple[str, ...] = ("a", "aa", "aaa"),
    credit: CreditRule | None = None,
) -> list[float]:
    found, true = gradient(world, estimator, credit), true_gradient(world)
    return [found[key] / true[key] for key in keys]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (MtGrpo(), [0.87, 1.20, 1.46]),
        (MtGrpo(absent="skip"), [0.54, 0.77, 1.46]),
        (MtGrpo(without="outcome"), [0.61, 1.20, 1.46]),
    ],
)
def test_mt_grpo_favours_late_searches_where_the_policy_stops(
    estimator: MtGrpo, expected: list[float]
) -> None:
    """Each search pays 1: the ratios of expected to true gradient should be the same."""
    ratios = ratio_by_turn(stop_or_search(), estimator)
    assert ratios == pytest.approx(expected, abs=0.01)
    assert cosine(gradient(stop_or_search(), estimator), true_gradient(stop_or_search())) < 0.99


@pytest.mark.parametrize("world", [two_hop_lottery(), delayed_chain(), when_to_stop()])
def test_mt_grpo_is_right_where_only_the_outcome_pays(world: World) -> None:
    assert cosine(gradient(world, MtGrpo()), true_gradient(world)) == pytest.approx(1.0, abs=1e-6)


def test_gigpo_counts_the_step_twice_and_long_episodes_more() -> None:
    by_step = ratio_by_turn(stop_or_search(), GiGpo(gamma=1.0))
    by_trajectory = ratio_by_turn(stop_or_search(), GiGpo(gamma=1.0, statistics="trajectories"))
    assert by_step == pytest.approx([1.50, 1.16, 0.94], abs=0.01)
    assert by_trajectory == pytest.approx([1.50, 1.28, 1.07], abs=0.01)
    chain = gradient(delayed_chain(), GiGpo(gamma=1.0))
    assert cosine(chain, true_gradient(delayed_chain())) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "dead_end", "direction"),
    [
        (CalibAdv(), 0.0175, 0.984),
        (TurnGroup(), 0.0595, 0.890),
        (QueryGroup(), 0.1029, 0.842),
        (PenaltyTurnGroup(), 0.0430, 0.936),
        (GoodQueryPositive(), 0.0614, 0.897),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AdvantageEstimator) else "",
)
def test_labels_reward_good_searches_on_dead_ends(
    estimator: AdvantageEstimator, dead_end: float, direction: float
) -> None:
    """After a first search that went wrong (b) nothing helps, yet gold labels reward ``a``."""
    world = two_hop_lottery()
    found = gradient(world, estimator, GoldCredit())
    assert true_gradient(world)["ba"] == 0.0
    assert found["ba"] == pytest.approx(dead_end, abs=5e-4)
    assert cosine(found, true_gradient(world)) == pytest.approx(direction, abs=1e-3)


def test_silver_labels_do_not_since_no_success_came_that_way() -> None:
    for estimator in (CalibAdv(), TurnGroup(), QueryGroup(), PenaltyTurnGroup()):
        found = gradient(two_hop_lottery(), estimator, SilverCredit())
        assert found["ba"] == pytest.approx(0.0, abs=1e-9)
        assert found["a"] / found["aa"] > 0.75, "though the first search is favoured: true .57"


def test_one_pool_for_all_searches_forgets_the_later_ones() -> None:
    """QueryGroup compares first with second searches; all are labelled good, and count for less."""
    ratios = ratio_by_turn(stop_or_search(), QueryGroup(), credit=GoldCredit())
    assert ratios == pytest.approx([0.50, 0.01, 0.31], abs=0.01)


def test_rebalancing_alone_keeps_the_direction_where_it_weighs_all_groups_alike() -> None:
    for world in (two_hop_lottery(), when_to_stop()):
        assert cosine(gradient(world, Rebalance()), true_gradient(world)) > 0.9999


@pytest.mark.parametrize(
    ("world", "keys", "ratios"),
    [
        (two_hop_lottery(), ("a", "aa", "aac"), [0.471, 0.943, 1.414]),
        (when_to_stop(), ("a", "aa", "aabc"), [0.552, 0.845, 1.547]),
    ],
)
def test_trees_teach_late_turns_more(
    world: World, keys: tuple[str, ...], ratios: list[float]
) -> None:
    """Leaves that share a prefix cancel out on it, so the first turn learns a third of the last."""

    def estimate(group: Any) -> np.ndarray:
        return TreeGrpo()(group, NoCredit()(group))

    found, true = expected_gradient(world, estimate, as_trees=True), true_gradient(world)
    assert [found[key] / true[key] for key in keys] == pytest.approx(ratios, abs=1e-3)
    assert sum(chance for _, chance in tree_groups(world)) == pytest.approx(1.0)


def test_step_rewards_are_another_objective() -> None:
    """Paying each good search, as StepSearch does, favours searching beyond what the outcome earns.

    The gradient is that of outcome plus pay: exact for that sum, so it is no error of an estimator.
    """
    world = when_to_stop()
    paid = replace(world, reward=lambda history: world.reward(history) + 0.2 * (history[-1] == "a"))
    found = expected_gradient(paid, using(TurnBaseline()), 2)
    true = true_gradient(world)
    assert found["a"] / true["a"] > 1.5
    assert found["abc"] / true["abc"] == pytest.approx(1.0)


def test_what_is_enumerated_is_everything() -> None:
    assert sum(chance for _, chance in groups(stop_or_search(), 4)) == pytest.approx(1.0)
    assert np.isclose(true_gradient(stop_or_search())["a"], 0.4375)
