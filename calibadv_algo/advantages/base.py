"""Base classes of advantage estimators, and the layout of a group as matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.credit.beliefs import AnswerBelief
from calibadv_algo.credit.hindsight import Hindsight
from calibadv_algo.types import Group, Trajectory, group_rewards, token_counts
from calibadv_env.common.checks import Checked

Matrix = Float[np.ndarray, "group turn"]
"""One number for each turn of a group's trajectories."""

AnyMatrix = Float[np.ndarray, "_ _"]
"""Such a matrix where several groups, each of another shape, stand side by side."""

Tokens = Float[np.ndarray, " token"]
"""One number for each action token of a trajectory."""

AnyVector = Float[np.ndarray, " _"]
"""A vector where several of other lengths stand beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageEstimator(Checked, ABC):
    """Base of advantage estimators: one advantage a turn, from rewards and correctness.

    A subclass is a frozen dataclass whose fields are its settings and defines ``__call__``. The
    other methods are hooks whose defaults do nothing.
    """

    needs_correctness: ClassVar[bool] = False
    """If true, the estimator is of no use with a credit that scores no turn."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold, beyond those that the credit needs."""
        return frozenset()

    @property
    def answer_belief(self) -> AnswerBelief | None:
        """The belief in the accepted answers that the turns' infos must hold; None for none."""
        return None

    @property
    def wanted_hindsight(self) -> Hindsight | None:
        """Words in which the policy is told the outcome to score the turns again; None for none."""
        return None

    @property
    def scales_clips(self) -> bool:
        """True if `clip_scales` gives factors of the objective's clip."""
        return False

    def clip_scales(self, group: Group) -> Matrix:
        """Factor of the objective's clip range at every turn; only asked for with `scales_clips`.

        Args:
            group: Trajectories of one question.
        """
        return np.ones((len(group), group.max_turns))

    @abstractmethod
    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Advantages of a group's turns, 0 beyond the last turn of a trajectory.

        Args:
            group: Trajectories of one question, with the rewards that are learnt from.
            correctness: Correctness of every turn, NaN without a score.
        """

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Final advantages of all groups, for a last step that looks at the whole batch.

        Args:
            advantages: One matrix a group, ``[group, turn]``.
            counts: Number of sampled tokens of each turn, 0 where there is none.
        """
        return advantages

    def reweight_tokens(
        self,
        advantages: list[AnyVector],
        trajectories: Sequence[Trajectory],
        update: int,
    ) -> list[AnyVector]:
        """Final advantages of the action tokens, one vector a trajectory.

        Args:
            advantages: One vector a trajectory.
            trajectories: Those of the whole batch, whole groups.
            update: Number of finished updates.

        Returns:
            A new list, or the given one if no token changes.
        """
        return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueAdvantage(AdvantageEstimator):
    """Base of estimators that give every token an advantage, from rewards and a critic's values."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Raises TypeError: turns have no advantages before their tokens have."""
        raise TypeError(f"{type(self).__name__} needs the values of a critic")

    @abstractmethod
    def token_advantages(
        self,
        trajectory: Trajectory,
        rewards: Tokens,
        values: Tokens,
    ) -> tuple[Tokens, Tokens]:
        """Advantages of a trajectory's action tokens and the critic's targets.

        Args:
            trajectory: For the places where its turns end.
            rewards: Reward of each token: a turn's on its last token, less what a divergence
                from the reference policy costs.
            values: The critic's value before each token.
        """

    def finish_tokens(self, advantages: list[AnyVector]) -> list[AnyVector]:
        """Final advantages of the batch, one vector a trajectory."""
        return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBaseline(AdvantageEstimator):
    """Base of estimators that give every token an advantage from the policy's distributions."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Raises TypeError: turns have no advantages before their tokens have."""
        raise TypeError(f"{type(self).__name__} needs the policy's distributions over tokens")

    @abstractmethod
    def token_advantages(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Sequence[AnyVector],
        logprobs: Sequence[AnyVector],
        squares: Sequence[AnyVector],
    ) -> list[AnyVector]:
        """Advantages of the action tokens of a group, one vector a trajectory.

        Args:
            trajectories: Those of one group, for the places of their turns.
            rewards: Reward of each token: a turn's on its last token, less what a divergence
                from the reference policy costs.
            logprobs: Log-probability of each token before the update.
            squares: Sum of the squared probabilities of all tokens at each place.
        """


def last_turns(counts: Matrix) -> Bool[np.ndarray, "group turn"]:
    """True at the last turn of every trajectory, nowhere in a row without tokens.

    A turn that exists has at least one token.
    """
    exists = counts > 0
    mask = exists.copy()
    mask[:, :-1] &= ~exists[:, 1:]
    return mask


def spread(values: Float[np.ndarray, " group"], counts: Matrix) -> Matrix:
    """Copies a trajectory's value to all of its turns, 0 where there is no turn."""
    return np.where(counts > 0, values[:, None], 0.0)


def fitting_counts(group: Group, correctness: AnyMatrix) -> Matrix:
    """Number of sampled tokens of every turn, 0 where there is none.

    Raises:
        ValueError: if the correctness has another shape than the group.
    """
    counts = token_counts(group)
    if correctness.shape != counts.shape:
        raise ValueError(
            f"correctness must have the group's shape {counts.shape} (trajectories, turns), "
            f"got {correctness.shape}"
        )
    return counts


def outcomes(group: Group, correctness: AnyMatrix) -> Matrix:
    """Return of its trajectory for every turn of a group, 0 where there is no turn.

    Raises:
        ValueError: if the correctness does not fit the group.
    """
    return spread(group_rewards(group), fitting_counts(group, correctness))
