"""REINFORCE, REINFORCE++ and its form with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from calibadv_algo.advantages.base import (
    AdvantageEstimator,
    AnyMatrix,
    Matrix,
    fitting_counts,
    outcomes,
    spread,
)
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.advantages.rloo import OutcomeBaseline
from calibadv_algo.advantages.whitening import whiten_batch
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import NOT_NEGATIVE

Observations = Literal["skip", "reset"]
"""Effect of an observation on a return: none, or the return ends there (older verl)."""


def turn_returns(group: Group, observations: Observations = "skip") -> Matrix:
    """Sums up the turns' rewards from each turn on, without a discount.

    The return of all tokens of a turn, as its reward is paid on its last token.

    **Source:** REINFORCE++ (arXiv 2501.03262), ``gamma = 1``.

    **Differs:** nothing. verl 0.9.1 carries the running return over observations, as ``skip`` does;
    older versions multiplied it by the mask, so that no reward reached an earlier turn (``reset``).

    Args:
        group: Trajectories of one question.
        observations: Effect of an observation on a return.

    Returns:
        Return of every turn, 0 where there is none.
    """
    returns = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards = np.array([turn.reward for turn in trajectory.turns], dtype=np.float64)
        if observations == "skip":
            rewards = np.cumsum(rewards[::-1])[::-1]
        returns[row, : len(rewards)] = rewards
    return returns


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce(AdvantageEstimator):
    """Plain REINFORCE: the advantage is the reward, without a baseline (ZeroSearch)."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The reward of its trajectory for every turn; the correctness is not used."""
        return outcomes(group, correctness)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePlusPlus(AdvantageEstimator):
    """REINFORCE++: returns, whitened over the tokens of the whole batch.

    The discount is 1, as published.

    Attributes:
        observations: ``skip`` lets a reward reach the turns before it. ``reset`` stops it at
            the observation, as older versions of verl did: then turns without a reward of their own
            get the same advantage whatever the episode's outcome.
        ddof: What is subtracted from the number of tokens in the variance, 0 or 1.
        epsilon: Added to the variance.
    """

    name: ClassVar[str] = "reinforce-pp"

    observations: Observations = "skip"
    ddof: Literal[0, 1] = 1
    epsilon: Annotated[float, NOT_NEGATIVE] = 1e-8

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Returns of the turns, to be whitened by :meth:`finish`."""
        fitting_counts(group, correctness)
        return turn_returns(group, self.observations)

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Whitens over the tokens of the batch."""
        return whiten_batch(advantages, counts, ddof=self.ddof, epsilon=self.epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePlusPlusBaseline(OutcomeBaseline):
    """REINFORCE++ with the group's mean as baseline, whitened over the batch's tokens.

    R1-Searcher's ``reinforce_baseline`` is this with ``ddof=0`` and ``epsilon=0``.

    Attributes:
        ddof: What is subtracted from the number of tokens in the variance, 0 or 1.
        epsilon: Added to the variance.
    """

    name: ClassVar[str] = "reinforce-pp-baseline"

    ddof: Literal[0, 1] = 1
    epsilon: Annotated[float, NOT_NEGATIVE] = 1e-8

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Reward minus the group's mean, to be whitened by :meth:`finish`."""
        counts = fitting_counts(group, correctness)
        centred = group_normalized(
            group_rewards(group), normalization="none", singleton=self.singleton
        )
        return spread(centred, counts)

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Whitens over the tokens of the batch."""
        return whiten_batch(advantages, counts, ddof=self.ddof, epsilon=self.epsilon)
