"""MT-GRPO: a turn's own reward beside the outcome, each compared within the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.advantages.base import (
    AdvantageEstimator,
    Matrix,
    fitting_counts,
    last_turns,
    spread,
)
from calibadv_algo.advantages.grpo import Singleton, group_normalized
from calibadv_algo.types import Group
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE

Absent = Literal["zero", "skip"]
"""Count of a trajectory in an index that it has no turn of: reward 0, or not at all."""

Without = Literal["combined", "outcome"]
"""Advantage of a trajectory without an inner turn: of the sum of its rewards, or its outcome."""


def turn_normalized(
    rewards: Matrix,
    is_inner: Bool[np.ndarray, "group turn"],
    *,
    epsilon: float = 1e-4,
    absent: Absent = "zero",
    singleton: Singleton = "raw",
) -> Matrix:
    """Compares the rewards of the turns of one index with one another.

    ``(r_iq - mean_q) / (std_q + epsilon)`` with sample statistics over the group at index q.

    **Source:** turn-level reward design (MT-GRPO, arXiv 2505.11821), its code for one
    search turn.

    **Differs:** any number of turns, by index; the original has exactly one. There a
    trajectory that did not search counts with reward 0, hence ``absent="zero"``.

    Args:
        rewards: Rewards of the turns.
        is_inner: The turns that are compared: all but the last of each trajectory.
        epsilon: Added to the standard deviation.
        absent: How trajectories without a turn of an index count in its statistics.
        singleton: What the only member of an index gets: its ``raw`` reward, or ``zero``.

    Returns:
        One value an inner turn, 0 elsewhere; zeros where all compared rewards are equal.
    """
    result = np.zeros_like(rewards)
    for column in range(rewards.shape[1]):
        here = is_inner[:, column]
        if not here.any():
            continue
        values = np.where(here, rewards[:, column], 0.0)
        if absent == "skip":
            scores = np.zeros(len(values))
            scores[here] = group_normalized(values[here], epsilon=epsilon, singleton=singleton)
        else:
            scores = group_normalized(values, epsilon=epsilon, singleton=singleton)
        result[:, column] = np.where(here, scores, 0.0)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class MtGrpo(AdvantageEstimator):
    """MT-GRPO's advantage: ``A_outcome + coef * A_turn`` for turns with rewards of their own.

    The reward of a trajectory's last turn is its outcome, those of the turns before it are turn
    rewards. The published method has one search turn; with more of them each index is compared
    by itself, which is our generalisation.

    **Bias:** where the policy decides when an episode ends, a comparison by index favours late
    turns. In a world where each search pays 1, the expected gradient of the first, second and
    third search is 0.87, 1.20 and 1.46 times the true one (0.54, 0.77, 1.46 with
    ``absent="skip"``). Where only the outcome pays, it is right.
    :class:`~calibadv_algo.advantages.turn_baseline.TurnBaseline` is without this bias.

    Variants of the paper: GRPO on the sum of all rewards (GRPO-MR) is
    :class:`~calibadv_algo.advantages.grpo.Grpo`; on the outcome alone (GRPO-OR) it is
    ``MtGrpo(coef=0, without="outcome")``.

    Attributes:
        coef: Weight of the turn's own advantage.
        epsilon: Added to the standard deviations.
        absent: See :func:`turn_normalized`.
        without: What trajectories of a single turn get, which were shown no result: the
            comparison of the sums of all rewards (``combined``, as published), or of the
            outcomes.
        singleton: What a group of one gets: its ``raw`` reward, or ``zero``.
    """

    coef: Annotated[float, NOT_NEGATIVE] = 1.0
    epsilon: Annotated[float, POSITIVE] = 1e-4
    absent: Absent = "zero"
    without: Without = "combined"
    singleton: Singleton = "raw"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Outcome part plus weighted turn part; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        rewards = np.zeros_like(counts)
        for row, trajectory in enumerate(group.trajectories):
            rewards[row, : len(trajectory.turns)] = [turn.reward for turn in trajectory.turns]
        last = last_turns(counts)
        inner = (counts > 0) & ~last
        outcome = self._compared(rewards.sum(axis=1, where=last))
        advantages = spread(outcome, counts) + self.coef * turn_normalized(
            rewards, inner, epsilon=self.epsilon, absent=self.absent, singleton=self.singleton
        )
        if self.without == "outcome":
            return advantages
        combined = spread(self._compared(rewards.sum(axis=1)), counts)
        return np.where(inner.any(axis=1, keepdims=True), advantages, combined)

    def _compared(self, values: Float[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
        """Compares values within the group."""
        return group_normalized(values, epsilon=self.epsilon, singleton=self.singleton)
