"""What an advantage estimator is, and how a group is laid out as matrices."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.types import Group


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


def group_rewards(group: Group) -> Float[np.ndarray, " group"]:
    """Returns the undiscounted return of each trajectory."""
    return np.array([trajectory.reward for trajectory in group.trajectories], dtype=np.float64)


def token_counts(group: Group) -> Float[np.ndarray, "group turn"]:
    """Returns the number of sampled tokens of every turn, 0 where there is no turn."""
    rows = [[len(turn.action_ids) for turn in each.turns] for each in group.trajectories]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.float64)


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
