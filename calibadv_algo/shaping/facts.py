"""Facts of trajectories as shapings read them, with complaints that name what is missing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from calibadv_algo.shaping.base import with_rewards
from calibadv_algo.types import Group


def outcome_only(group: Group, outcomes: Float[np.ndarray, " group"]) -> Group:
    """The group with one reward a trajectory, on its last turn, and 0 on all others."""
    rewards = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards[row, len(trajectory.turns) - 1] = outcomes[row]
    return with_rewards(group, rewards)
