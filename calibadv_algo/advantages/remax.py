"""ReMax: an episode's reward against that of the greedy episode of the same question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.turn_baseline import rewards_to_go
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group

GREEDY_KEY: Final = "greedy_return"
"""Key of the reset info: return of the greedy episode of the same question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReMax(AdvantageEstimator):
    """ReMax's advantage: reward to go minus the return of the question's greedy episode.

    A player with ``rollout.greedy`` plays that episode beside every group; it is not trained on.
    The baseline depends on no sampled episode, so the gradient has no bias.

    **Source:** ReMax (arXiv 2310.10505); verl's ``compute_remax_outcome_advantage``.

    **Differs:** nothing.
    """

    name: ClassVar[str] = "remax"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used.

        Raises:
            MissingInfoKeyError: if no greedy episode was played.
        """
        counts = fitting_counts(group, correctness)
        baselines = []
        for trajectory in group.trajectories:
            if GREEDY_KEY not in trajectory.reset_info:
                raise MissingInfoKeyError(
                    f"ReMax needs {GREEDY_KEY!r} in the reset info of every episode: train with "
                    "--baseline remax, or with --part rollout.greedy=greedy-baseline"
                )
            baselines.append(float(trajectory.reset_info[GREEDY_KEY]))
        to_go = rewards_to_go(group)
        return np.where(counts > 0, to_go - np.array(baselines)[:, None], 0.0)
