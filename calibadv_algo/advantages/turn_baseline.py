"""A turn's reward to go against that of the other episodes that came as far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.types import Group, group_rewards


def rewards_to_go(group: Group) -> Matrix:
    """Sum of the rewards from each turn to the end of its episode, 0 where there is no turn."""
    result = np.zeros((len(group), group.max_turns))
    for row, trajectory in enumerate(group.trajectories):
        rewards = [turn.reward for turn in trajectory.turns]
        result[row, : len(rewards)] = np.cumsum(rewards[::-1])[::-1]
    return result


def turn_relative(to_go: Matrix, counts: Matrix, returns: np.ndarray) -> Matrix:
    """Compares each reward to go with the mean of the others that have a turn of this index.

    ``G_ik - mean_{j != i, j has turn k} G_jk``; where no other episode came as far, the mean of
    the others' whole returns takes the place.

    The baseline of a turn is a function of the other episodes alone, and whether *this* episode
    has a turn k was settled before that turn. So the expected gradient is that of the expected
    return, whoever decides when an episode ends (``tests/algo/test_bias.py``, by enumeration).
    Comparisons by place in which episodes that ended count with 0, or that contain the turn
    itself, do not have this.

    Args:
        to_go: Reward from each turn to the end.
        counts: Tokens of every turn, 0 where there is none.
        returns: Return of each trajectory.

    Returns:
        One value a turn, 0 where there is none; a group of one keeps its rewards to go.
    """
    exists = counts > 0
    others = exists.sum(axis=0, keepdims=True) - exists
    sums = np.where(exists, to_go, 0.0).sum(axis=0, keepdims=True) - to_go
    rest = (returns.sum() - returns) / max(1, len(returns) - 1)
    baseline = np.where(others > 0, sums / np.maximum(others, 1), rest[:, None])
    return np.where(exists, to_go - baseline, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBaseline(AdvantageEstimator):
    """Rewards to go against the mean of the other episodes that have a turn of the same index.

    The comparison by place of MT-GRPO and its kin, without their bias: see
    :func:`turn_relative`. Nothing is divided by a deviation, which would weigh questions.

    **Source:** ours; leave-one-out baselines are RLOO's (arXiv 2402.14740), rewards to go
    REINFORCE's.
    """

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        return turn_relative(rewards_to_go(group), counts, group_rewards(group))
