"""Temporal differences of what the other episodes of the group earned from the same states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from calibadv_algo.advantages.anchors import AnchorKind, anchor_states
from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.turn_baseline import rewards_to_go, turn_relative
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE


def sibling_values(
    states: Sequence[Sequence[str]], to_go: Matrix, prior_means: Matrix, prior: float
) -> Matrix:
    """Value of the state before each turn, by the other episodes alone.

    ``(sum_j G_j + prior * b) / (m + prior)`` over the ``m`` other episodes that came through the
    state, with ``G_j`` their reward from there on and ``b`` what is expected without them. The
    fewer have been there, the more the value is drawn to ``b``.

    Args:
        states: State before each turn of each episode.
        to_go: Reward from each turn to the end.
        prior_means: ``b`` of each turn; it must not depend on the turn's own episode.
        prior: Number of episodes that ``b`` counts for, positive.

    Returns:
        One value a turn, 0 where there is no turn.
    """
    met: dict[str, dict[int, float]] = {}
    for row, own in enumerate(states):
        for column, state in enumerate(own):
            # An episode that comes back to a state counts with its first visit.
            met.setdefault(state, {}).setdefault(row, float(to_go[row, column]))
    values = np.zeros_like(to_go)
    for row, own in enumerate(states):
        for column, state in enumerate(own):
            others = [value for other, value in met[state].items() if other != row]
            weighted = sum(others) + prior * prior_means[row, column]
            values[row, column] = weighted / (len(others) + prior)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class SiblingTd(AdvantageEstimator):
    """What a turn did to the value of the state, by what the other episodes earned from there.

    ``delta_t = r_t + V(s_{t+1}) - V(s_t)`` and ``A_t = delta_t + lam A_{t+1}`` with the values of
    :func:`sibling_values`; the state after the last turn is worth nothing more. Episodes of a
    question often come to the same state, since the same passages answer many queries: their
    returns tell a good search from the luck of what followed it. What is expected of a state that
    nobody else has met is the mean of the others' rewards from a turn of that number on, as for
    :class:`~calibadv_algo.advantages.turn_baseline.TurnBaseline`.

    **Source:** ours. States are compared as in GiGPO (arXiv 2505.10978), differences summed up as
    in TD(lambda); leaving the episode itself out and drawing rare states to the mean is new here.

    **Bias:** none with ``lam = 1`` (by enumeration); below, luck is traded for it, as with every
    temporal difference.

    Attributes:
        anchor: What makes two states the same, as for `GiGpo`.
        lam: Weight of what followed the next state in this very episode.
        prior: Number of episodes that the expected value counts for.
    """

    name: ClassVar[str] = "sibling-td"

    anchor: AnchorKind = "history"
    lam: Annotated[float, FRACTION] = 0.5
    prior: Annotated[float, POSITIVE] = 1.0

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The passages, if they are the anchors."""
        return frozenset({"passage_ids"} if self.anchor == "passages" else ())

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        to_go = rewards_to_go(group)
        if len(group) == 1:
            return np.where(counts > 0, to_go, 0.0)
        # A turn's reward to go less its comparison with the others is what they expect of it.
        expected = to_go - turn_relative(to_go, counts, group_rewards(group))
        states = [anchor_states(each, self.anchor) for each in group.trajectories]
        values = sibling_values(states, to_go, expected, self.prior)
        advantages = np.zeros_like(counts)
        for row, trajectory in enumerate(group.trajectories):
            following, running = 0.0, 0.0
            for column in reversed(range(len(trajectory.turns))):
                value = float(values[row, column])
                reward = trajectory.turns[column].reward
                running = reward + following - value + self.lam * running
                advantages[row, column] = running
                following = value
        return advantages


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSiblingTd(SiblingTd):
    """`SiblingTd`, and a little for searches that their labels call better than the group's mean.

    ``A + label_weight (c - mean c)`` at turns with a label.

    **Source:** ours.

    **Bias:** whatever the labels are wrong about; they pay for searches that look good.

    Attributes:
        label_weight: Weight of the labels.
    """

    name: ClassVar[str] = "labelled-sibling-td"
    needs_correctness: ClassVar[bool] = True

    label_weight: Annotated[float, NOT_NEGATIVE] = 0.2

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages with the compared labels."""
        advantages = SiblingTd.__call__(self, group, correctness)
        has_label = ~np.isnan(correctness)
        if not has_label.any():
            return advantages
        compared = correctness - correctness[has_label].mean()
        return advantages + self.label_weight * np.where(has_label, compared, 0.0)
