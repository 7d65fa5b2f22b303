"""Filters, which groups an update learns from, and loss masks, which trajectories. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Bool

from calibadv_algo.credit.facts import fact
from calibadv_algo.shaping.base import GroupFilter, LossMask, OnExhaust
from calibadv_algo.types import Group, Trajectory, group_rewards
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE

Overlong = Literal["tokens", "budget", "either"]
"""Limit that makes an episode too long: a turn cut off by the token limit (``tokens``), turns or
context that ran out (``budget``), or either."""

Keep = Literal["highest", "lowest"]
"""End of an order that stays."""


def is_overlong(trajectory: Trajectory, overlong: Overlong = "either") -> bool:
    """True if an episode was cut short by one of the limits on its length.

    An episode whose context was full is truncated, so it counts as ``budget``.
    """
    is_cut = any(turn.is_cut for turn in trajectory.turns)
    if overlong == "tokens":
        return is_cut
    return trajectory.is_truncated or (overlong == "either" and is_cut)


def has_void_turn(trajectory: Trajectory) -> bool:
    """True if some turn neither searches nor answers.

    **Source:** SimpleTIR (arXiv 2509.02479), where a void turn holds neither a complete block of
    code nor a final answer. Here it holds neither a complete search nor a complete answer.

    Raises:
        MissingInfoKeyError: if a turn lacks the info key ``action``.
    """
    kinds = [fact(turn, "action", "has_void_turn") for turn in trajectory.turns]
    return "malformed" in kinds


def reward_std(group: Group) -> float:
    """Sample standard deviation (n - 1) of a group's rewards, 0 for a group of one."""
    rewards = group_rewards(group).tolist()
    if len(rewards) < 2 or max(rewards) == min(rewards):
        return 0.0
    return float(np.std(rewards, ddof=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSampling(GroupFilter):
    """Drops groups whose trajectories all have the same reward.

    They carry no signal. The trainer reads ``max_batches`` and plays further questions until as
    many groups are left as an update wants, then leaves the surplus out.

    **Source:** DAPO (arXiv 2503.14476), dynamic sampling, as in verl's recipe.

    **Differs:** where the batches are used up, the original stops with an error; here the update
    goes on with what there is unless ``on_exhaust="raise"``. That groups of one are kept is what
    the recipe's code appears to do and not stated in the paper, hence ``singletons``.

    Attributes:
        max_batches: Collections of an update, the first included.
        on_exhaust: Reaction to used-up batches.
        min_range: Largest minus smallest reward that a group must exceed; 0 drops equal ones.
        singletons: Fate of a group of one.
    """

    max_batches: Annotated[int, POSITIVE] = 10
    on_exhaust: OnExhaust = "train"
    min_range: Annotated[float, NOT_NEGATIVE] = 0.0
    singletons: Literal["keep", "drop"] = "keep"

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Groups with different rewards."""
        return [group for group in groups if self._is_kept(group)]

    def _is_kept(self, group: Group) -> bool:
        if len(group) == 1:
            return self.singletons == "keep"
        rewards = group_rewards(group)
        return float(rewards.max() - rewards.min()) > self.min_range


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStdFilter(GroupFilter):
    """Drops groups whose rewards deviate less than a threshold.

    **Source:** SimpleTIR's group rejection, threshold 1e-3.

    **Differs:** where too few groups are left, the original repeats them until the batch is full;
    here the update is smaller.

    Attributes:
        min_std: Least sample standard deviation of a group that stays.
    """

    min_std: Annotated[float, NOT_NEGATIVE] = 1e-3

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Groups that deviate enough."""
        return [group for group in groups if reward_std(group) >= self.min_std]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBand(GroupFilter):
    """Keeps groups whose mean reward lies in a band.

    **Source:** SimpleTIR's optional accuracy band; the difficulty filter of CalibAdv's code.

    Attributes:
        low: Least mean that stays.
        high: Largest mean that stays.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Checks the order."""
        GroupFilter.__post_init__(self)
        if not self.low <= self.high:
            raise ValueError(f"low must be at most high ({self.high}), got {self.low}")

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Groups within the band, its ends included."""
        return [
            group
            for group in groups
            if self.low <= math.fsum(group_rewards(group).tolist()) / len(group) <= self.high
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceFilter(GroupFilter):
    """Keeps the share of the groups whose rewards deviate most, or least.

    A group's deviation is the sample standard deviation (n - 1) of its trajectories' returns.

    **Source:** RAGEN / StarPO-S (arXiv 2504.20073), uncertainty-based filtering; its code's types
    ``std`` (``keep="highest"``) and ``std_rev`` (``keep="lowest"``), default share 0.25.

    **Differs:** at least one group stays, where ``int(share * n)`` of the original may be 0;
    equal deviations are broken by the order of the groups, where the original leaves it open.

    Attributes:
        share: Share of the groups that stays, in (0, 1]; 1 keeps all.
        keep: End of the order that stays.
    """

    share: Annotated[float, Interval(gt=0, le=1)] = 0.25
    keep: Keep = "highest"

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Chosen groups in the order given."""
        if not groups:
            return []
        sign = -1.0 if self.keep == "highest" else 1.0
        order = sorted(range(len(groups)), key=lambda place: sign * reward_std(groups[place]))
        # The product is rounded first: 0.29 * 100 is 28.999…, which must give 29 groups.
        count = max(1, int(round(self.share * len(groups), 9)))
        return [groups[place] for place in sorted(order[:count])]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongFilter(GroupFilter):
    """Drops over-long trajectories, and groups of which too few are left.

    **Source:** ``remove_clip`` of SimpleTIR's code, ``min_size`` 4.

    Attributes:
        min_size: Least number of trajectories of a group that stays, at least 1.
        overlong: Limits that count.
    """

    min_size: Annotated[int, POSITIVE] = 2
    overlong: Overlong = "either"

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Groups without their over-long trajectories."""
        return _without(groups, lambda each: is_overlong(each, self.overlong), self.min_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidTurnFilter(GroupFilter):
    """Drops trajectories with a void turn before they are compared with their group.

    **Source:** SimpleTIR (arXiv 2509.02479).

    **Differs:** the original leaves them in the group's statistics and only out of the loss,
    which is :class:`VoidTurnMask`; this is the stricter reading of "filtering".

    Attributes:
        min_size: Least number of trajectories of a group that stays, at least 1.
    """

    min_size: Annotated[int, POSITIVE] = 2

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every action."""
        return frozenset({"action"})

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """Groups without trajectories that have a void turn."""
        return _without(groups, has_void_turn, self.min_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidTurnMask(LossMask):
    """Leaves trajectories with a void turn out of the loss, not out of their group.

    **Source:** SimpleTIR (arXiv 2509.02479), ``mask_void_turns``: the loss mask of the whole
    trajectory becomes 0, the advantages are computed with it.

    **Differs:** nothing. A group may therefore push in one direction only, as there.
    """

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every action."""
        return frozenset({"action"})

    def __call__(self, group: Group) -> Bool[np.ndarray, " group"]:
        """True for trajectories all of whose turns search or answer."""
        return np.array([not has_void_turn(each) for each in group.trajectories], dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongMask(LossMask):
    """Leaves over-long trajectories out of the loss, not out of their group.

    **Source:** overlong filtering of DAPO (arXiv 2503.14476); ``mask_truncated_completions`` of
    TRL; E-GRPO (arXiv 2510.24694) for over-long trajectories.

    Attributes:
        overlong: Limits that count.
    """

    overlong: Overlong = "either"

    def __call__(self, group: Group) -> Bool[np.ndarray, " group"]:
        """True for trajectories that came to their end."""
        return np.array(
            [not is_overlong(each, self.overlong) for each in group.trajectories], dtype=np.bool_
        )


def _without(
    groups: Sequence[Group], is_dropped: Callable[[Trajectory], bool], min_size: int
) -> list[Group]:
    """Groups without some trajectories; those left too small are gone."""
    kept = [tuple(each for each in group.trajectories if not is_dropped(each)) for group in groups]
    return [Group(members) for members in kept if len(members) >= min_size]
