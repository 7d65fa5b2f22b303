"""GiGPO: episodes compared within the group, steps among all that began in the same state."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Float, Int

from calibadv_algo.advantages.anchors import AnchorKind, anchor_states
from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.advantages.grpo import Normalization, group_normalized
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE

Statistics = Literal["steps", "trajectories"]
"""Unit of the episode statistics: every step once, or every trajectory once."""


def step_returns(
    rewards: Float[np.ndarray, " turn"], gamma: float = 0.95
) -> Float[np.ndarray, " turn"]:
    """Sums up the discounted rewards from each turn on.

    ``G_t = r_t + gamma * G_{t+1}``, turns being the steps.

    **Source:** GiGPO (arXiv 2505.10978, eq. 5).

    **Differs:** nothing. The discount of the paper's runs is 0.95 to our knowledge.

    Args:
        rewards: Rewards of a trajectory's turns, in order.
        gamma: Discount from turn to turn, 0 to 1.

    Returns:
        Return of every turn.
    """
    returns = np.zeros(len(rewards))
    running = 0.0
    for step in reversed(range(len(rewards))):
        running = float(rewards[step]) + gamma * running
        returns[step] = running
    return returns


def cluster_states(
    anchors: Sequence[Hashable], similarity: float | None = None
) -> Int[np.ndarray, " step"]:
    """Numbers the states of a group, the same for the same state.

    With a ``similarity`` a text joins the first cluster whose first member it resembles by at
    least that much (:class:`difflib.SequenceMatcher`).

    **Source:** GiGPO (arXiv 2505.10978, eq. 6); ``build_step_group`` of its code.

    **Differs:** nothing.

    Args:
        anchors: One state a step; texts if ``similarity`` is given.
        similarity: Least ratio of two texts that count as the same, in (0, 1); None asks for
            equality.

    Returns:
        Number of each step's cluster, from 0 in order of appearance.
    """
    if similarity is None:
        numbers: dict[Hashable, int] = {}
        return np.array([numbers.setdefault(each, len(numbers)) for each in anchors], dtype=int)
    firsts: list[str] = []
    found: list[int] = []
    for each in anchors:
        text = str(each)
        for number, first in enumerate(firsts):
            if SequenceMatcher(None, text, first).ratio() >= similarity:
                found.append(number)
                break
        else:
            found.append(len(firsts))
            firsts.append(text)
    return np.array(found, dtype=int)


def step_relative(
    returns: Float[np.ndarray, " step"],
    clusters: Int[np.ndarray, " step"],
    *,
    epsilon: float = 1e-6,
    normalization: Normalization = "none",
) -> Float[np.ndarray, " step"]:
    """Compares each step's return with those of the steps that began in the same state.

    **Source:** GiGPO (arXiv 2505.10978, eq. 7).

    **Differs:** rounding counts as 0.

    Args:
        returns: Return of every step of the group.
        clusters: Number of each step's state.
        epsilon: Added to the standard deviation.
        normalization: Divide by it (``group``) or not (``none``).

    Returns:
        One value a step; 0 for a state that was met once.
    """
    result = np.zeros_like(returns)
    for cluster in np.unique(clusters):
        here = clusters == cluster
        result[here] = group_normalized(
            returns[here], epsilon=epsilon, normalization=normalization, singleton="zero"
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class GiGpo(AdvantageEstimator):
    """GiGPO's advantage: ``A_episode + step_coef * A_step``.

    **Bias:** the step's part is right wherever states recur, and adds to the episode's part, so
    turns in states that recur learn more than others: where each search pays 1, 1.50, 1.16 and
    0.94 times the true gradient for the first, second and third. With an observation as the
    anchor, states that differ in their past count as the same.

    Attributes:
        anchor: What makes two states the same: the whole ``history`` before the turn, the last
            ``observation``, or the ``passages`` seen so far.
        gamma: Discount from turn to turn in the step's return.
        step_coef: Weight of the step's part.
        normalization: ``none`` subtracts means alone (the default of its code); ``group``
            divides by deviations too (its script for search).
        epsilon: Added to the deviations.
        statistics: Unit that episode statistics count: every step, so that long trajectories
            weigh more (the default of its code), or every trajectory once.
        similarity: Least likeness of two anchors that count as one; None asks for equality.
            0.9 in its script for search.
    """

    name: ClassVar[str] = "gigpo"

    anchor: AnchorKind = "history"
    gamma: Annotated[float, FRACTION] = 0.95
    step_coef: Annotated[float, NOT_NEGATIVE] = 1.0
    normalization: Normalization = "none"
    epsilon: Annotated[float, POSITIVE] = 1e-6
    statistics: Statistics = "steps"
    similarity: Annotated[float | None, Interval(gt=0, lt=1)] = None

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The passages, if they are the anchors."""
        return frozenset({"passage_ids"} if self.anchor == "passages" else ())

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """Episode part plus weighted step part; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        exists = counts > 0
        anchors = [
            state for each in group.trajectories for state in anchor_states(each, self.anchor)
        ]
        returns = [
            step_returns(np.array([turn.reward for turn in each.turns]), self.gamma)
            for each in group.trajectories
        ]
        advantages = np.zeros_like(counts)
        # A boolean mask runs through the matrix row by row, as the lists above do.
        advantages[exists] = self._episode(group) + self.step_coef * step_relative(
            np.concatenate(returns),
            cluster_states(anchors, self.similarity),
            epsilon=self.epsilon,
            normalization=self.normalization,
        )
        return advantages

    def _episode(self, group: Group) -> Float[np.ndarray, " step"]:
        """Compares the trajectories' rewards, one value a step."""
        rewards = group_rewards(group)
        lengths = [len(each.turns) for each in group.trajectories]
        if self.statistics == "steps":
            rewards = np.repeat(rewards, lengths)
        compared = group_normalized(rewards, epsilon=self.epsilon, normalization=self.normalization)
        return compared if self.statistics == "steps" else np.repeat(compared, lengths)
