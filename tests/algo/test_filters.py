"""Filters and loss masks: what is left, in which order, and what counts as too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.shaping.filters import (
    DynamicSampling,
    OverlongFilter,
    OverlongMask,
    RewardBand,
    RewardStdFilter,
    VarianceFilter,
    VoidTurnFilter,
    VoidTurnMask,
    is_overlong,
    reward_std,
)
from calibadv_algo.types import Group, Trajectory, Turn


def trajectory(
    name: str,
    reward: float = 0.0,
    kinds: Sequence[str] = ("search", "answer"),
    *,
    is_truncated: bool = False,
    is_cut: bool = False,
) -> Trajectory:
    turns = tuple(
        Turn(
            action_ids=(1,),
            action_text=kind,
            logprobs=(0.0,),
            reward=reward if place == len(kinds) - 1 else 0.0,
            info={"action": kind},
            is_cut=is_cut and place == 0,
        )
        for place, kind in enumerate(kinds)
    )
    return Trajectory(
        group_id=name,
        task_id="t",
        prompt_ids=(1,),
        prompt_text="",
        turns=turns,
        is_terminated=not is_truncated,
        is_truncated=is_truncated,
    )


def group(name: str, *rewards: float) -> Group:
    return Group(tuple(trajectory(name, reward) for reward in rewards))


def names(groups: Sequence[Group]) -> list[str]:
    return [each.group_id for each in groups]


FLAT, MIXED, WIDE, LONE = (
    group("flat", 1.0, 1.0, 1.0),
    group("mixed", 0.5, 0.4, 0.5),
    group("wide", 1.0, 0.0, 1.0),
    group("lone", 1.0),
)


def test_dynamic_sampling_drops_groups_without_a_difference() -> None:
    assert names(DynamicSampling()([FLAT, MIXED, WIDE, LONE])) == ["mixed", "wide", "lone"]
    assert names(DynamicSampling(singletons="drop")([LONE, WIDE])) == ["wide"]
    assert names(DynamicSampling(min_range=0.2)([MIXED, WIDE])) == ["wide"]
    assert (DynamicSampling().max_batches, VarianceFilter().max_batches) == (10, 1)


def test_reward_deviation_is_that_of_a_sample() -> None:
    assert reward_std(WIDE) == pytest.approx(math.sqrt(1 / 3))
    assert reward_std(FLAT) == 0
    assert reward_std(LONE) == 0
    assert names(RewardStdFilter()([FLAT, MIXED, WIDE])) == ["mixed", "wide"]
    assert names(RewardStdFilter(min_std=0.1)([FLAT, MIXED, WIDE])) == ["wide"]


def test_a_band_of_mean_rewards() -> None:
    assert names(RewardBand(low=0.1, high=0.9)([FLAT, MIXED, WIDE])) == ["mixed", "wide"]
    assert names(RewardBand(low=1.0)([FLAT, MIXED])) == ["flat"]


@pytest.mark.parametrize(
    ("share", "keep", "left"),
    [
        (0.25, "highest", ["wide"]),
        (0.5, "highest", ["mixed", "wide"]),
        (0.25, "lowest", ["flat"]),
        (0.5, "lowest", ["flat", "lone"]),
        (1.0, "highest", ["flat", "mixed", "wide", "lone"]),
        (0.01, "highest", ["wide"]),
    ],
)
def test_variance_filter(share: float, keep: str, left: list[str]) -> None:
    kept = VarianceFilter(share=share, keep=keep)([FLAT, MIXED, WIDE, LONE])  # type: ignore[arg-type]
    assert names(kept) == left


def test_a_share_is_not_lost_to_rounding() -> None:
    groups = [group(str(k), 0.0, float(k)) for k in range(100)]
    assert len(VarianceFilter(share=0.29)(groups)) == 29
    assert VarianceFilter()([]) == []


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=4), min_size=1, max_size=12),
    st.floats(0.01, 1),
)
def test_variance_filter_keeps_the_most_varied(rewards: list[list[float]], share: float) -> None:
    groups = [group(str(k), *values) for k, values in enumerate(rewards)]
    kept = VarianceFilter(share=share)(groups)
    dropped = [each for each in groups if each not in kept]
    assert 1 <= len(kept) <= len(groups)
    assert [int(each.group_id) for each in kept] == sorted(int(each.group_id) for each in kept)
    if dropped:
        assert min(map(reward_std, kept)) >= max(map(reward_std, dropped))


def test_what_is_too_long() -> None:
    cut, spent = trajectory("g", is_cut=True), trajectory("g", is_truncated=True)
    assert [is_overlong(each) for each in (cut, spent, trajectory("g"))] == [True, True, False]
    assert [is_overlong(cut, kind) for kind in ("tokens", "budget")] == [True, False]
    assert [is_overlong(spent, kind) for kind in ("tokens", "budget")] == [False, True]
    mixed = Group((cut, spent, trajectory("g", 1.0)))
    assert OverlongMask()(mixed).tolist() == [False, False, True]
    assert OverlongMask(overlong="tokens")(mixed).tolist() == [False, True, True]
    assert len(OverlongFilter(min_size=1)([mixed])[0]) == 1
    assert OverlongFilter()([mixed]) == []
    assert len(OverlongFilter(overlong="tokens")([mixed])[0]) == 2


def test_void_turns() -> None:
    void = trajectory("g", 0.0, ("search", "malformed"))
    early = trajectory("g", 1.0, ("malformed", "search", "answer"))
    mixed = Group((void, trajectory("g", 1.0), early, trajectory("g")))
    assert VoidTurnMask()(mixed).tolist() == [False, True, False, True]
    (left,) = VoidTurnFilter()([mixed])
    assert [each.reward for each in left.trajectories] == [1.0, 0.0]
    assert VoidTurnFilter(min_size=3)([mixed]) == []
    assert VoidTurnMask()(Group((void, void))).dtype == np.bool_


def test_a_missing_fact_is_named() -> None:
    turn = Turn(action_ids=(1,), action_text="x", logprobs=(0.0,))
    bare = Trajectory(group_id="g", task_id="t", prompt_ids=(1,), prompt_text="", turns=(turn,))
    with pytest.raises(MissingInfoKeyError, match="'action'"):
        VoidTurnMask()(Group((bare,)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DynamicSampling(max_batches=0), "max_batches must be positive, got 0"),
        (lambda: DynamicSampling(on_exhaust="stop"), "on_exhaust must be train or raise"),  # type: ignore[arg-type]
        (lambda: DynamicSampling(min_range=-1), "min_range must not be negative"),
        (lambda: DynamicSampling(min_range=math.nan), "min_range must not be negative"),
        (lambda: VarianceFilter(share=0), "share must be in"),
        (lambda: VarianceFilter(keep="most"), "keep must be highest or lowest"),  # type: ignore[arg-type]
        (lambda: RewardBand(low=1, high=0), "low must be at most high"),
        (lambda: RewardStdFilter(min_std=-1), "min_std must not be negative"),
        (lambda: OverlongFilter(min_size=0), "min_size must be positive"),
        (lambda: OverlongMask(overlong="all"), "overlong must be tokens, budget or either"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_checked(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
