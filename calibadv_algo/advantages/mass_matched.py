"""GRPO with the step size of CalibAdv: a control, not a method.

CalibAdv shrinks advantages. If it does better than GRPO, a smaller step might be all that it
takes. This estimator keeps GRPO's shape, one number a trajectory, and takes CalibAdv's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from calibadv_algo.advantages.base import Matrix, fitting_counts
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.types import Group


def match_mass(advantages: Matrix, target: Matrix, token_counts: Matrix) -> Matrix:
    """Scales advantages to the total mass of other advantages.

    ``A * sum(n |T|) / sum(n |A|)`` with ``n`` the tokens of each turn and ``T`` the target.

    **Source:** ours; a control for the size of the step.

    **Differs:** nothing to differ from.

    Args:
        advantages: Advantages of the turns; their shape is kept.
        target: Advantages whose mass is wanted.
        token_counts: Number of sampled tokens of each turn.

    Returns:
        The scaled advantages; the given ones where they have no mass, zeros where the target
        has none.
    """
    mass = float((np.abs(advantages) * token_counts).sum())
    if mass == 0:
        return advantages
    wanted = float((np.abs(target) * token_counts).sum())
    return advantages * (wanted / mass)


@dataclass(frozen=True, slots=True, kw_only=True)
class MassMatchedGrpo(GroupRelative):
    """GRPO's advantages, scaled in every group to the total mass that CalibAdv would give.

    Attributes:
        target: Estimator whose mass is taken.
    """

    needs_correctness: ClassVar[bool] = True

    target: CalibAdv = field(default_factory=CalibAdv)

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages in the size of the target's."""
        counts = fitting_counts(group, correctness)
        return match_mass(
            self.group_relative(group, counts), self.target(group, correctness), counts
        )
