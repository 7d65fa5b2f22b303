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
    Tokens,
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


def discounted_returns(
    rewards: Tokens,
    gamma: float = 1.0,
    turn_lengths: Sequence[int] | None = None,
) -> Tokens:
    """Sums up the rewards of a trajectory from each action token on.

    ``G_t = r_t + gamma * G_{t+1}`` over action tokens; with ``turn_lengths`` every turn is
    summed up by itself.

    **Source:** REINFORCE++ (arXiv 2501.03262); verl's
    ``compute_reinforce_plus_plus_outcome_advantage``.

    **Differs:** nothing. verl 0.9.1 carries the running return over observations, as is done
    here without ``turn_lengths``; older versions multiplied it by the mask, so that no reward
    reached an earlier turn, which is what ``turn_lengths`` repeats.

    Args:
        rewards: Reward of every action token, in order.
        gamma: Discount from token to token, 0 to 1.
        turn_lengths: Number of action tokens of each turn; None skips observations.

    Returns:
        Return of every action token.

    Raises:
        ValueError: if the turn lengths do not add up to the tokens.
    """
    ends = _ends(turn_lengths, len(rewards))
    returns = np.zeros_like(rewards)
    running = 0.0
    for token in reversed(range(len(rewards))):
        running = float(rewards[token]) + (0.0 if token in ends else gamma * running)
        returns[token] = running
    return returns


def turn_returns(group: Group, observations: Observations = "skip") -> Matrix:
    """Sums up the turns' rewards from each turn on, without a discount.

    The return of all tokens of a turn, as its reward is paid on its last token.

    **Source:** REINFORCE++ (arXiv 2501.03262), ``gamma = 1``.

    **Differs:** nothing, see :func:`discounted_returns`.

    Args:
        group: Trajectories of one question.
        observations: Effect of an observation on a return.

    Returns:
        Return of every turn, 0 where there is none.
    """
    returns = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards = np.array([turn.reward for turn in trajectory.turns], dtype=np.float64)
        each_alone = [1] * len(rewards) if observations == "reset" else None
        returns[row, : len(rewards)] = discounted_returns(rewards, 1.0, each_alone)
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

    The discount is 1, as published; :func:`discounted_returns` has any other.

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


def _ends(turn_lengths: Sequence[int] | None, num_tokens: int) -> frozenset[int]:
    """Finds the last token of every turn; none without turn lengths."""
    if turn_lengths is None:
        return frozenset()
    ends = np.cumsum(turn_lengths) - 1
    if int(sum(turn_lengths)) != num_tokens:
        raise ValueError(f"turn_lengths must add up to {num_tokens}, got {list(turn_lengths)}")
    return frozenset(ends.tolist())
