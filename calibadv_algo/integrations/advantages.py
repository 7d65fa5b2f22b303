"""Advantages for groups that somebody else's trainer collected.

A trainer hands over rows: each is one trajectory and belongs to a group. What comes back is one
advantage a turn for each row; putting them onto that trainer's tokens is its adapter's part.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import AdvantageEstimator, ValueAdvantage
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.facts import check_info_keys
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.types import Group, Trajectory, token_counts

MIN_GROUP = 2
"""Trajectories that an advantage needs to compare; smaller groups get zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAdvantages:
    """CreditRule and estimator, applied to the rows of another trainer's batch.

    Attributes:
        estimator: Maps groups and the correctness of their turns to advantages.
        credit: Scores the turns.
    """

    estimator: AdvantageEstimator = field(default_factory=CalibAdv)
    credit: CreditRule = field(default_factory=SilverCredit)

    def __post_init__(self) -> None:
        """Refuses estimators that need what another trainer does not have.

        Raises:
            ValueError: if the estimator needs a critic or works on tokens.
        """
        if isinstance(self.estimator, ValueAdvantage) or self._defines("reweight_tokens"):
            raise ValueError(
                "estimator must give one advantage a turn and need no critic, got "
                f"{type(self.estimator).__name__}"
            )

    @property
    def looks_at_whole_batch(self) -> bool:
        """If true, the estimator's last step needs every group of the batch."""
        return self._defines("finish")

    def _defines(self, hook: str) -> bool:
        """True if the estimator replaces the default of a hook."""
        return getattr(type(self.estimator), hook) is not getattr(AdvantageEstimator, hook)

    def __call__(
        self, rows: Sequence[Trajectory | None], groups: Sequence[Hashable]
    ) -> list[Float[np.ndarray, " turn"]]:
        """For each row of a batch one advantage a turn.

        Lost rows get no turns, rows of groups with fewer than two trajectories get zeros.

        Args:
            rows: One trajectory a row; None where the episode was lost.
            groups: Name of each row's group; trajectories are compared within it.

        Raises:
            ValueError: if the lengths differ or an advantage is not finite.
            MissingInfoKeyError: if the environment does not report what the credit needs.
        """
        if len(rows) != len(groups):
            raise ValueError(f"groups must name all {len(rows)} rows, got {len(groups)}")
        result = [np.zeros(0 if row is None else len(row.turns)) for row in rows]
        places = _places(rows, groups)
        members = [_group(name, [rows[place] for place in where]) for name, where in places]
        self._check_keys(members)
        matrices = [self.estimator(group, self.credit(group)) for group in members]
        matrices = self.estimator.finish(matrices, [token_counts(group) for group in members])
        for (_, where), matrix in zip(places, matrices, strict=True):
            for place, row in zip(where, matrix, strict=True):
                result[place] = np.asarray(row, dtype=np.float64)[: len(result[place])]
        if not all(np.isfinite(row).all() for row in result):
            raise ValueError("advantages must be finite, got NaN or infinity for a turn")
        return result

    def _check_keys(self, groups: Sequence[Group]) -> None:
        """Names every missing info key at once."""
        required = self.credit.required_info_keys | self.estimator.required_info_keys
        who = f"{type(self.credit).__name__} and {type(self.estimator).__name__}"
        for group in groups:
            for trajectory in group.trajectories:
                keys = {key for turn in trajectory.turns for key in turn.info}
                check_info_keys(required, keys, who)


def with_total_reward(trajectory: Trajectory, reward: float) -> Trajectory:
    """Changes the return of a trajectory; the difference stands at its last turn."""
    last = trajectory.turns[-1]
    earlier = sum(turn.reward for turn in trajectory.turns[:-1])
    turns = (*trajectory.turns[:-1], replace(last, reward=float(reward) - earlier))
    return replace(trajectory, turns=turns)


def _places(
    rows: Sequence[Trajectory | None], groups: Sequence[Hashable]
) -> list[tuple[Hashable, list[int]]]:
    """Rows of every group that is large enough."""
    found: dict[Hashable, list[int]] = {}
    for place, (row, name) in enumerate(zip(rows, groups, strict=True)):
        if row is not None:
            found.setdefault(name, []).append(place)
    return [(name, where) for name, where in found.items() if len(where) >= MIN_GROUP]


def _group(name: Hashable, rows: Sequence[Trajectory | None]) -> Group:
    """The trajectories of one group, under one id."""
    return Group(tuple(replace(row, group_id=str(name)) for row in rows if row is not None))
