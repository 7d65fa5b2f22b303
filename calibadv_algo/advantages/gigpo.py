"""GiGPO: episodes compared within the group, steps among all that began in the same state."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.advantages.anchors import AnchorKind, anchor_states
from calibadv_algo.advantages.base import check_correctness
from calibadv_algo.advantages.grpo import Normalization, group_normalized
from calibadv_algo.types import Group, group_rewards, token_counts

Statistics = Literal["steps", "trajectories"]
"""What episode statistics count: every step once, or every trajectory once."""


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
        normalization: Whether to divide by it (``group``) or not (``none``).

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
class GiGpo:
    """GiGPO's advantage: ``A_episode + step_coef * A_step``.

    Attributes:
        anchor: What makes two states the same: the whole ``history`` before the turn, the last
            ``observation``, or the ``passages`` seen so far.
        gamma: Discount from turn to turn in the step's return.
        step_coef: Weight of the step's part.
        normalization: ``none`` subtracts means alone (the default of its code); ``group``
            divides by deviations too (its script for search).
        epsilon: Added to the deviations.
        statistics: Whether episode statistics count every step, so that long trajectories
            weigh more (the default of its code), or every trajectory once.
        similarity: Least likeness of two anchors that count as one; None asks for equality.
            0.9 in its script for search.
    """

    anchor: AnchorKind = "history"
    gamma: float = 0.95
    step_coef: float = 1.0
    normalization: Normalization = "none"
    epsilon: float = 1e-6
    statistics: Statistics = "steps"
    similarity: float | None = None

    def __post_init__(self) -> None:
        """Checks ranges and choices."""
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}")
        if self.step_coef < 0:
            raise ValueError(f"step_coef must not be negative, got {self.step_coef}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if self.similarity is not None and not 0 < self.similarity < 1:
            raise ValueError(f"similarity must be in (0, 1), got {self.similarity}")
        if self.normalization not in ("group", "none"):
            raise ValueError(f"normalization must be group or none, got {self.normalization!r}")
        if self.statistics not in ("steps", "trajectories"):
            raise ValueError(f"statistics must be steps or trajectories, got {self.statistics!r}")

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The passages, if they are the anchors."""
        return frozenset({"passage_ids"} if self.anchor == "passages" else ())

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Returns the advantages; the correctness is not used."""
        counts = token_counts(group)
        check_correctness(correctness, counts)
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
