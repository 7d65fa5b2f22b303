"""STAMP: turns that first met evidence get more of a good advantage and less of a bad one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from calibadv_algo.advantages.base import Matrix, fitting_counts
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.facts import fact, searches_of
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import POSITIVE


def keep_sign(advantages: Matrix, credit: Matrix) -> Matrix:
    """``A (1 + sign(A) c)``: more where the advantage is positive, less of a loss where it is not.

    **Source:** STAMP (arXiv 2607.11172), eq. 9.

    **Differs:** nothing.

    Args:
        advantages: Advantages of the turns.
        credit: ``c`` of each turn, in [0, 1).

    Returns:
        Advantages of the same signs.
    """
    result: Matrix = advantages * (1.0 + np.sign(advantages) * credit)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp(GroupRelative):
    """STAMP's advantage: GRPO's, modulated by the evidence that a turn was the first to meet.

    A turn earns ``delta`` for every unit of evidence that it is the first of its episode to show,
    ``cap`` at most, and its advantage becomes ``A (1 + sign(A) c)``.

    **Source:** STAMP (arXiv 2607.11172), eq. 4 to 9 and its values 0.03 and 0.1, as a public
    reconstruction of the paper gives them; the authors' code and the paper's text were not to be
    had.

    **Differs:** there units are entities and relations of an evidence graph that a model builds and
    verifies, found again by the addresses of pages, and the passages that support a unit share its
    ``delta``; here a unit is a hop of the task, which the first of its gold passages earns whole.

    Attributes:
        delta: Credit of a unit of evidence.
        cap: Most credit of a turn.
    """

    name: ClassVar[str] = "stamp"

    delta: Annotated[float, POSITIVE] = 0.03
    cap: Annotated[float, Interval(ge=0, lt=1)] = 0.1

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Kind of the action, and the share of the evidence that was found by then."""
        return frozenset({"action", "gold_recall"})

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """GRPO's advantages, modulated; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        credit = np.zeros_like(counts)
        for row, trajectory in enumerate(group.trajectories):
            for column, share in self._exposures(trajectory):
                credit[row, column] = min(self.cap, self.delta * share)
        return keep_sign(self.group_relative(group, counts), credit)

    @staticmethod
    def _exposures(trajectory: Trajectory) -> list[tuple[int, float]]:
        """Units of evidence that each search is the first to meet, as far as recall tells."""
        hops = max(1, int(trajectory.reset_info.get("hops") or 1))
        before = 0.0
        found = []
        for column, turn in searches_of(trajectory, "Stamp"):
            recall = float(fact(turn, "gold_recall", "Stamp"))
            if np.isnan(recall):
                return []
            found.append((column, max(0.0, recall - before) * hops))
            before = recall
        return found
