"""What an advantage estimator is, and how a group is laid out as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.types import Group, Trajectory


class AdvantageEstimator(Protocol):
    """Maps a group and the correctness of its turns to one advantage a turn."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold, beyond those that the credit needs."""
        ...

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns the advantages, 0 beyond the last turn of a trajectory."""
        ...


@runtime_checkable
class FinishingEstimator(Protocol):
    """An estimator whose last step looks at the whole batch."""

    def finish(
        self,
        advantages: Sequence[Float[np.ndarray, "_ _"]],
        counts: Sequence[Float[np.ndarray, "_ _"]],
    ) -> list[Float[np.ndarray, "_ _"]]:
        """Returns the final advantages of all groups.

        Args:
            advantages: One matrix a group, ``[group, turn]``.
            counts: Number of sampled tokens of each turn, 0 where there is none.
        """
        ...


@runtime_checkable
class TokenReweighting(Protocol):
    """An estimator that goes on where turns have become tokens."""

    def reweight_tokens(
        self,
        advantages: Sequence[Float[np.ndarray, " _"]],
        trajectories: Sequence[Trajectory],
        update: int,
    ) -> list[Float[np.ndarray, " _"]]:
        """Returns the final advantages of the action tokens, one vector a trajectory.

        Args:
            advantages: One vector a trajectory.
            trajectories: Those of the whole batch.
            update: Number of finished updates.
        """
        ...


@runtime_checkable
class ValueAdvantage(Protocol):
    """Gives every token an advantage, from rewards and a critic's values."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold, beyond those that the credit needs."""
        ...

    def token_advantages(
        self,
        trajectory: Trajectory,
        rewards: Float[np.ndarray, " token"],
        values: Float[np.ndarray, " token"],
    ) -> tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]:
        """Returns the advantages of a trajectory's action tokens and the critic's targets.

        Args:
            trajectory: For the places where its turns end.
            rewards: Reward of each token: a turn's on its last token, less what a divergence
                from the reference policy costs.
            values: The critic's value before each token.
        """
        ...


@runtime_checkable
class FinishingValueAdvantage(Protocol):
    """A token-level estimator whose last step looks at the whole batch."""

    def finish_tokens(
        self, advantages: Sequence[Float[np.ndarray, " _"]]
    ) -> list[Float[np.ndarray, " _"]]:
        """Returns the final advantages, one vector a trajectory."""
        ...


def last_turns(counts: Float[np.ndarray, "group turn"]) -> Bool[np.ndarray, "group turn"]:
    """Marks the last turn of every trajectory.

    Args:
        counts: Tokens of every turn; a turn that exists has at least one.

    Returns:
        True at exactly one turn of each row; nowhere in a row without tokens.
    """
    exists = counts > 0
    mask = exists.copy()
    mask[:, :-1] &= ~exists[:, 1:]
    return mask


def spread(
    values: Float[np.ndarray, " group"], counts: Float[np.ndarray, "group turn"]
) -> Float[np.ndarray, "group turn"]:
    """Gives every turn of a trajectory the trajectory's value, 0 where there is no turn."""
    return np.where(counts > 0, values[:, None], 0.0)


def check_correctness(
    correctness: Float[np.ndarray, "group turn"], counts: Float[np.ndarray, "group turn"]
) -> None:
    """Checks that a correctness matrix fits a group.

    Raises:
        ValueError: if the shapes differ.
    """
    if correctness.shape != counts.shape:
        raise ValueError(
            f"correctness must have the group's shape {counts.shape} (trajectories, turns), "
            f"got {correctness.shape}"
        )
