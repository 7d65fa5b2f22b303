"""REINFORCE, REINFORCE++ and its form with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import check_correctness, spread
from calibadv_algo.advantages.grpo import Singleton, group_normalized
from calibadv_algo.advantages.rloo import OutcomeBaseline
from calibadv_algo.advantages.whitening import whiten_batch
from calibadv_algo.types import Group, Trajectory, group_rewards, token_counts

Observations = Literal["skip", "reset"]
"""What an observation does to a return: nothing, or it ends it there (verl)."""


def discounted_returns(
    rewards: Float[np.ndarray, " token"],
    gamma: float = 1.0,
    turn_lengths: Sequence[int] | None = None,
) -> Float[np.ndarray, " token"]:
    """Sums up the rewards of a trajectory from each action token on.

    ``G_t = r_t + gamma * G_{t+1}`` over action tokens; with ``turn_lengths`` every turn is
    summed up by itself.

    **Source:** REINFORCE++ (arXiv 2501.03262); verl's
    ``compute_reinforce_plus_plus_outcome_advantage`` with ``turn_lengths``.

    **Differs:** nothing. verl multiplies the running return by the mask, so that with
    observations in between no reward reaches an earlier turn; without ``turn_lengths`` they
    are skipped instead, which is what a method for several turns needs.

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


def turn_returns(
    group: Group, observations: Observations = "skip"
) -> Float[np.ndarray, "group turn"]:
    """Sums up the turns' rewards from each turn on, without a discount.

    The return of all tokens of a turn, as its reward is paid on its last token.

    **Source:** REINFORCE++ (arXiv 2501.03262), ``gamma = 1``.

    **Differs:** nothing, see :func:`discounted_returns`.

    Args:
        group: Trajectories of one question.
        observations: Whether a return reaches back over observations.

    Returns:
        Return of every turn, 0 where there is none.
    """
    returns = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards = _rewards(trajectory)
        if observations == "skip":
            rewards = np.cumsum(rewards[::-1])[::-1]
        returns[row, : len(rewards)] = rewards
    return returns


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """Plain REINFORCE: the advantage is the reward, without a baseline (ZeroSearch)."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """No key is needed: rewards are enough."""
        return frozenset()

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns the advantages; the correctness is not used."""
        counts = token_counts(group)
        check_correctness(correctness, counts)
        return spread(group_rewards(group), counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePlusPlus:
    """REINFORCE++: returns, whitened over the tokens of the whole batch.

    The discount is 1, as published; :func:`discounted_returns` has any other.

    Attributes:
        observations: ``skip`` lets a reward reach the turns before it. ``reset`` stops it at
            the observation, as verl's code does: then turns without a reward of their own
            get the same advantage whatever the episode's outcome.
        ddof: What is subtracted from the number of tokens in the variance, 0 or 1.
        epsilon: Added to the variance.
    """

    observations: Observations = "skip"
    ddof: int = 1
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        if self.observations not in ("skip", "reset"):
            raise ValueError(f"observations must be skip or reset, got {self.observations!r}")
        _check_whitening(self.ddof, self.epsilon)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """No key is needed: rewards are enough."""
        return frozenset()

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns the returns, to be whitened by :meth:`finish`."""
        check_correctness(correctness, token_counts(group))
        return turn_returns(group, self.observations)

    def finish(
        self,
        advantages: Sequence[Float[np.ndarray, "_ _"]],
        counts: Sequence[Float[np.ndarray, "_ _"]],
    ) -> list[Float[np.ndarray, "_ _"]]:
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

    ddof: int = 1
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        OutcomeBaseline.__post_init__(self)
        _check_whitening(self.ddof, self.epsilon)

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns reward minus mean, to be whitened by :meth:`finish`."""
        counts = token_counts(group)
        check_correctness(correctness, counts)
        return spread(_centred(group_rewards(group), self.singleton), counts)

    def finish(
        self,
        advantages: Sequence[Float[np.ndarray, "_ _"]],
        counts: Sequence[Float[np.ndarray, "_ _"]],
    ) -> list[Float[np.ndarray, "_ _"]]:
        """Whitens over the tokens of the batch."""
        return whiten_batch(advantages, counts, ddof=self.ddof, epsilon=self.epsilon)


def _centred(
    rewards: Float[np.ndarray, " group"], singleton: Singleton
) -> Float[np.ndarray, " group"]:
    """Subtracts the group's mean."""
    return group_normalized(rewards, normalization="none", singleton=singleton)


def _rewards(trajectory: Trajectory) -> Float[np.ndarray, " turn"]:
    """Reads the turns' rewards."""
    return np.array([turn.reward for turn in trajectory.turns], dtype=np.float64)


def _ends(turn_lengths: Sequence[int] | None, num_tokens: int) -> frozenset[int]:
    """Finds the last token of every turn; none without turn lengths."""
    if turn_lengths is None:
        return frozenset()
    ends = np.cumsum(turn_lengths) - 1
    if int(sum(turn_lengths)) != num_tokens:
        raise ValueError(f"turn_lengths must add up to {num_tokens}, got {list(turn_lengths)}")
    return frozenset(ends.tolist())


def _check_whitening(ddof: int, epsilon: float) -> None:
    """Raises ValueError for settings that no variance can have."""
    if ddof not in (0, 1):
        raise ValueError(f"ddof must be 0 or 1, got {ddof}")
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
