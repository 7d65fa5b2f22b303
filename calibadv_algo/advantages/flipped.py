"""GRPO with the sign turned round on searches: a control that must lose, not a method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from calibadv_algo.advantages.base import Matrix, fitting_counts
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.base import search_mask
from calibadv_algo.types import Group


def flip(advantages: Matrix, is_flipped: Bool[np.ndarray, "group turn"]) -> Matrix:
    """Advantages with the opposite sign where the mask says so.

    **Source:** ours; the negative control of a comparison.

    **Differs:** nothing to differ from.
    """
    return np.where(is_flipped, -advantages, advantages)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlippedSearches(GroupRelative):
    """GRPO's advantages, those of searches with the opposite sign: what helped is punished.

    A comparison that does not find it worse than GRPO is blind to how searches are rewarded.
    """

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every turn."""
        return frozenset({"action"})

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used.

        Raises:
            MissingInfoKeyError: if a turn lacks the info key ``action``.
        """
        counts = fitting_counts(group, correctness)
        return flip(self.group_relative(group, counts), search_mask(group, type(self).__name__))
