"""Optimal token baseline: each token against the returns that matter most to its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.advantages.base import AnyVector, TokenBaseline
from calibadv_algo.types import Trajectory
from calibadv_env.common.checks import POSITIVE

Grid = Float[np.ndarray, "sequence place"]
"""One number for each place of a group's sequences."""


def energy_weighted(
    returns: Grid,
    energies: Grid,
    exists: Bool[np.ndarray, "sequence place"],
    *,
    epsilon: float = 1e-8,
) -> Grid:
    """Compares returns place by place with their mean weighted by the energy spent so far.

    ``G_t - sum(G_t W_t) / (sum(W_t) + epsilon)`` over the sequences that have place t, with
    ``W_t = sum_{j<=t} (1 - 2 pi_j + sum_v pi(v)^2)``, the squared norm of the gradient of the
    log-probabilities with respect to the logits.

    **Source:** optimal token baseline of verl; ``compute_optimal_token_baseline_advantage`` and
    ``compute_multi_turn_optimal_token_baseline_advantage``.

    **Differs:** nothing.

    Args:
        returns: Reward from each place to the end.
        energies: ``W``.
        exists: True where a sequence has a sampled token.
        epsilon: Added to the sum of the weights.

    Returns:
        One number a place, 0 where there is no token; a lone sequence keeps its returns.
    """
    if len(returns) == 1:
        return np.where(exists, returns, 0.0)
    weights = np.where(exists, energies, 0.0)
    baseline = (returns * weights).sum(axis=0) / (weights.sum(axis=0) + epsilon)
    return np.where(exists, returns - baseline, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyBaseline(TokenBaseline, ABC):
    """Base of the optimal token baseline's forms.

    Attributes:
        epsilon: Added to the sum of the weights.
    """

    epsilon: Annotated[float, POSITIVE] = 1e-8

    @abstractmethod
    def places(self, trajectory: Trajectory) -> list[int]:
        """Place of every action token in the row that is compared."""

    @property
    @abstractmethod
    def has_raw_tail(self) -> bool:
        """True if what lies beyond the second longest episode keeps its return."""

    def token_advantages(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Sequence[AnyVector],
        logprobs: Sequence[AnyVector],
        squares: Sequence[AnyVector],
    ) -> list[AnyVector]:
        """Applies :func:`energy_weighted` to the group."""
        places = [self.places(each) for each in trajectories]
        shape = (len(trajectories), 1 + max(own[-1] for own in places))
        exists = np.zeros(shape, dtype=np.bool_)
        returns, energies = np.zeros(shape), np.zeros(shape)
        for row, own in enumerate(places):
            exists[row, own] = True
            returns[row, own] = np.cumsum(rewards[row][::-1])[::-1]
            energies[row, own] = np.cumsum(1 - 2 * np.exp(logprobs[row]) + squares[row])
        advantages = energy_weighted(returns, energies, exists, epsilon=self.epsilon)
        if self.has_raw_tail:
            self._restore_tail(advantages, returns, exists)
        return [advantages[row, own] for row, own in enumerate(places)]

    @staticmethod
    def _restore_tail(
        advantages: Grid, returns: Grid, exists: Bool[np.ndarray, "sequence place"]
    ) -> None:
        """Puts the returns back where the longest sequence would be compared with itself alone."""
        lengths = exists.sum(axis=1)
        order = np.argsort(lengths)
        if len(lengths) < 2 or lengths[order[-1]] == lengths[order[-2]]:
            return
        row, start = order[-1], lengths[order[-2]]
        tail = exists[row].copy()
        tail[:start] = False
        advantages[row, tail] = returns[row, tail]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimalTokenBaseline(EnergyBaseline):
    """The optimal token baseline with tokens compared by their position in the response.

    Observed tokens count as positions, as in verl, so that tokens after observations of other
    lengths are compared with others than their counterparts; the form for turns is
    :class:`TurnOptimalTokenBaseline`.

    **Source:** verl, ``optimal_token_baseline``.

    **Differs:** nothing; importance weights of the rollout are not folded in.
    """

    name: ClassVar[str] = "optimal-token-baseline"

    @property
    def has_raw_tail(self) -> bool:
        """False, verl's default for this form."""
        return False

    def places(self, trajectory: Trajectory) -> list[int]:
        """Positions in the response, observations counted."""
        found: list[int] = []
        start = 0
        for turn in trajectory.turns:
            found.extend(range(start, start + len(turn.action_ids)))
            start += len(turn.action_ids) + len(turn.observation_ids)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptimalTokenBaseline(EnergyBaseline):
    """The optimal token baseline for episodes with turns: the n-th sampled token by the n-th.

    What the longest episode of a group has beyond the second longest keeps its return: compared
    with itself alone it would have nothing to learn from.

    **Source:** verl, ``tir_optimal_token_baseline``.

    **Differs:** nothing; importance weights of the rollout are not folded in.
    """

    name: ClassVar[str] = "turn-optimal-token-baseline"

    @property
    def has_raw_tail(self) -> bool:
        """True, verl's default for this form."""
        return True

    def places(self, trajectory: Trajectory) -> list[int]:
        """Numbers of the sampled tokens."""
        return list(range(trajectory.num_action_tokens))
