"""TRIAGE: a fixed surcharge for the role that a search had, on top of the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from calibadv_algo.advantages.base import AnyMatrix, Matrix, fitting_counts
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.types import Group
from calibadv_env.common.checks import NOT_NEGATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage(GroupRelative):
    """TRIAGE's advantage: ``A_i + weight * r(role)`` for searches, brought to deviation 1.

    The role is read off the correctness of the search: `RoleCredit` gives one for each of the
    four roles; of other labels good is progress and bad is regression. Turns without a label keep
    the outcome's advantage. All turns of the batch together are then brought to mean 0 and
    deviation 1.

    **Source:** TRIAGE (arXiv 2606.32017); the four rewards, the sum and the whitening as a public
    reimplementation states them.

    **Differs:** the weight could not be found and is ours. Neither the paper's text nor its code
    was to be had, so nothing beyond these formulas is claimed.

    Attributes:
        weight: Weight of the roles' rewards.
        progress: Reward of decisive progress.
        exploration: Reward of useful exploration.
        no_progress: Reward of a turn that changed nothing.
        regression: Reward of a step back.
        whitens: Whether the batch is brought to mean 0 and deviation 1.
    """

    needs_correctness: ClassVar[bool] = True

    weight: Annotated[float, NOT_NEGATIVE] = 0.5
    progress: float = 1.0
    exploration: float = 0.5
    no_progress: float = -0.1
    regression: float = -0.5
    whitens: bool = True

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Outcome and roles, before the whitening."""
        counts = fitting_counts(group, correctness)
        base = self.group_relative(group, counts)
        rewards = np.select(
            [correctness > 0.75, correctness > 0.375, correctness > SCORED_BAD],
            [self.progress, self.exploration, self.no_progress],
            self.regression,
        )
        return np.where(np.isnan(correctness), base, base + self.weight * rewards)

    def finish(self, advantages: list[AnyMatrix], counts: Sequence[AnyMatrix]) -> list[AnyMatrix]:
        """Brings all turns of the batch to mean 0 and deviation 1; equal ones become 0."""
        if not self.whitens or not advantages:
            return advantages
        exists = [each > 0 for each in counts]
        pool = np.concatenate([own[here] for own, here in zip(advantages, exists, strict=True)])
        mean, std = float(pool.mean()), float(pool.std())
        if std <= 1e-12:
            return [np.zeros_like(own) for own in advantages]
        return [
            np.where(here, (own - mean) / (std + 1e-8), 0.0)
            for own, here in zip(advantages, exists, strict=True)
        ]
