"""Base class of credits: correctness of turns, from the facts that the environment reports.

Every credit maps a group to a ``[group, turn]`` matrix of *correctness*, 0 to 1. NaN means
that a turn has no score (it is not a search, or nothing is known about it);
:data:`SCORED_BAD` means that it was scored and found bad.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.credit.beliefs import AnswerBelief
from calibadv_algo.credit.facts import searches_of
from calibadv_algo.types import Group
from calibadv_env.common.checks import Checked

SCORED_BAD: Final = 1e-6
"""Correctness of a turn that was scored and found bad: no higher value counts as bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRule(Checked, ABC):
    """Base of credits: the correctness of every turn of a group.

    A subclass is a frozen dataclass whose fields are its settings and defines ``__call__``.
    """

    scores_turns: ClassVar[bool] = True
    """If false, no turn ever has a score."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset()

    @property
    def answer_belief(self) -> AnswerBelief | None:
        """The belief in the accepted answers that the turns' infos must hold; None for none."""
        return None

    @abstractmethod
    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Correctness of every turn, NaN where there is no score."""


def search_mask(group: Group, who: str = "search_mask") -> Bool[np.ndarray, "group turn"]:
    """Marks the search turns that something followed.

    The last turn of a trajectory is never marked, whatever it is: a search that was left
    dangling ends the episode like an answer and is treated as one.

    Raises:
        MissingInfoKeyError: if a turn lacks the info key ``action``; it names ``who`` asks.
    """
    mask = np.zeros((len(group), group.max_turns), dtype=np.bool_)
    for row, trajectory in enumerate(group.trajectories):
        for column, _ in searches_of(trajectory, who):
            mask[row, column] = True
    return mask
