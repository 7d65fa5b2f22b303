"""GAGPO: temporal differences of a value that is the mean return of the states in the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from calibadv_algo.advantages.anchors import AnchorKind, anchor_states
from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.gae import gae
from calibadv_algo.advantages.gigpo import step_returns
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.types import Group
from calibadv_env.common.checks import FRACTION, POSITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Gagpo(AdvantageEstimator):
    """GAGPO's advantage: GAE over turns, with the group's mean return in a state as its value.

    The value of a state is the mean discounted return of the group's turns that began in it;
    ``delta_t = r_t + gamma V(s_{t+1}) - V(s_t)`` and ``A_t = delta_t + gamma lam A_{t+1}``. All
    advantages of a group are brought to mean 0 and deviation 1. Each action has one probability
    ratio, the geometric mean over its tokens: `TurnClipped`.

    **Source:** GAGPO (arXiv 2605.13217), from a reader's account of its method section; neither the
    paper's text nor code was to be had.

    **Differs:** discounts are not in that account: gamma is GiGPO's, lambda our choice. A state
    that the group met once has the return itself for its value, so that nothing remains of a path
    that no other episode crosses but the difference at the fork.

    Attributes:
        anchor: What makes two states the same, as for `GiGpo`.
        gamma: Discount from turn to turn.
        lam: Weight of longer looks ahead.
        epsilon: Added to the deviation.
    """

    name: ClassVar[str] = "gagpo"

    anchor: AnchorKind = "history"
    gamma: Annotated[float, FRACTION] = 0.95
    lam: Annotated[float, FRACTION] = 0.95
    epsilon: Annotated[float, POSITIVE] = 1e-6

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The passages, if they are the anchors."""
        return frozenset({"passage_ids"} if self.anchor == "passages" else ())

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        rewards = [np.array([turn.reward for turn in each.turns]) for each in group.trajectories]
        returns = [step_returns(each, self.gamma) for each in rewards]
        states = [anchor_states(each, self.anchor) for each in group.trajectories]
        met: dict[str, list[float]] = {}
        for own, values in zip(states, returns, strict=True):
            for state, value in zip(own, values.tolist(), strict=True):
                met.setdefault(state, []).append(value)
        advantages = np.zeros_like(counts)
        for row, own in enumerate(states):
            values = np.array([np.mean(met[state]) for state in own])
            steps, _ = gae(rewards[row], values, gamma=self.gamma, lam=self.lam)
            advantages[row, : len(own)] = steps
        exists = counts > 0
        advantages[exists] = group_normalized(
            advantages[exists], epsilon=self.epsilon, singleton="zero"
        )
        return advantages
