"""Rewards for finding gold passages: a control that must win, not a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.turn_baseline import rewards_to_go, turn_relative
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import POSITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldTurns(AdvantageEstimator):
    """Every good search is paid on its turn, beside the outcome; the labels are gold ones.

    It sees which passages lead to the answer, which no method may, so a comparison that does not
    find it better than GRPO is blind. It costs no more episodes than GRPO, unlike measured
    advantages (:class:`~calibadv_algo.advantages.vine.Vine`).

    **Source:** ours; the positive control of a comparison. Rewards to go are compared as in
    :func:`~calibadv_algo.advantages.turn_baseline.turn_relative`.

    **Differs:** nothing to differ from.
    """

    needs_correctness: ClassVar[bool] = True

    worth: Annotated[float, POSITIVE] = 0.25
    """Reward of a good search; the answer earns 0 to 1."""

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Rewards to go, of good searches too, against those of the others that came as far."""
        counts = fitting_counts(group, correctness)
        paid = self.worth * (np.nan_to_num(correctness, nan=0.0) > SCORED_BAD)
        to_go = rewards_to_go(group) + np.cumsum(paid[:, ::-1], axis=1)[:, ::-1]
        return turn_relative(to_go, counts, group_rewards(group) + paid.sum(axis=1))
