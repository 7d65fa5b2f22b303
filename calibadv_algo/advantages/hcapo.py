"""HCAPO: turns that are likely in the light of the outcome get more of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from calibadv_algo.advantages.base import Matrix, fitting_counts
from calibadv_algo.advantages.grpo import GroupRelative
from calibadv_algo.credit.hindsight import Hindsight, hindsight_logprobs
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE


def hindsight_returns(
    logprobs: Matrix,
    returns: Matrix,
    *,
    temperature: float = 5.0,
    floor: float = 0.8,
    cap: float = 1.2,
    own_weight: float = 1.0,
) -> Matrix:
    """Returns of the turns, weighted by how likely each turn was in hindsight.

    ``Q_t = clip(h_t / mean_k h_k, floor, cap) G_t`` with ``h_t = exp(logprob_t / temperature)``
    and the mean over the turns of the same episode; then
    ``own_weight Q_t + (1 - own_weight) Q_{t+1}``, which leaves last turns as they are.

    **Source:** HCAPO (arXiv 2603.08754), eq. 5 to 7 and algorithm 1, lines 12 to 15.

    **Differs:** nothing.

    Args:
        logprobs: Mean log-probability of a token of each turn in hindsight, NaN where there is no
            turn.
        returns: ``G``, the discounted outcome at each turn.
        temperature: Brings likelihoods nearer to one another, positive.
        floor: Smallest weight.
        cap: Largest weight.
        own_weight: Share of a turn's own value, 0 to 1.

    Returns:
        One number a turn, 0 where there is none.
    """
    exists = ~np.isnan(logprobs)
    likelihoods = np.exp(np.where(exists, logprobs, -np.inf) / temperature)
    means = likelihoods.sum(axis=1) / np.maximum(exists.sum(axis=1), 1)
    # Where all turns of an episode underflow, none of them is likelier than another.
    ratios = np.divide(
        likelihoods, means[:, None], out=np.ones_like(likelihoods), where=means[:, None] > 0
    )
    values = np.where(exists, ratios.clip(floor, cap) * returns, 0.0)
    following = np.zeros_like(values)
    following[:, :-1] = values[:, 1:]
    is_last = exists.copy()
    is_last[:, :-1] &= ~exists[:, 1:]
    following[is_last] = values[is_last]
    return own_weight * values + (1 - own_weight) * following


@dataclass(frozen=True, slots=True, kw_only=True)
class Hcapo(GroupRelative):
    """HCAPO's advantage: GRPO's, and the compared returns in hindsight beside it.

    ``A_t = A_GRPO + omega (Q_t - mean) / std`` with the returns of :func:`hindsight_returns`,
    compared over all turns of the group. In a successful episode what the second term would take
    away stays.

    **Source:** HCAPO (arXiv 2603.08754), eq. 3 to 8 and algorithm 1, as the public transcription
    in RainyFields/Agentic-RL-CA gives them.

    **Differs:** the outcome that the policy is told is the episode's final answer, behind the
    prompt and in our words: the paper's prompt was not to be had. Means and deviations are those of
    the whole group (the paper's analysis and its algorithm), not of the turns of one number, which
    the text beside eq. 8 names.

    Attributes:
        hindsight: Words in which the outcome is told.
        omega: Weight of the second term.
        gamma: Discount from turn to turn.
        temperature: As for :func:`hindsight_returns`.
        floor: Smallest weight of a turn.
        cap: Largest weight of a turn.
        own_weight: 1 without smoothing; 0.5 in the paper's smoothed form.
        success: Reward above which an episode is a success.
    """

    name: ClassVar[str] = "hcapo"

    hindsight: Hindsight = field(default_factory=Hindsight)
    omega: Annotated[float, NOT_NEGATIVE] = 1.0
    gamma: Annotated[float, FRACTION] = 0.95
    temperature: Annotated[float, POSITIVE] = 5.0
    floor: Annotated[float, NOT_NEGATIVE] = 0.8
    cap: Annotated[float, POSITIVE] = 1.2
    own_weight: Annotated[float, FRACTION] = 1.0
    success: float = 0.5

    def __post_init__(self) -> None:
        """Checks the range of weights."""
        GroupRelative.__post_init__(self)
        if self.floor > self.cap:
            raise ValueError(f"floor must not be above cap ({self.cap:g}), got {self.floor:g}")

    @property
    def wanted_hindsight(self) -> Hindsight:
        """The words that the trainer is asked to score the turns behind."""
        return self.hindsight

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        exists = counts > 0
        rewards = group_rewards(group)
        left = exists.sum(axis=1, keepdims=True) - 1 - np.arange(counts.shape[1])
        returns = np.where(exists, self.gamma ** np.maximum(left, 0) * rewards[:, None], 0.0)
        values = hindsight_returns(
            hindsight_logprobs(group, "Hcapo"),
            returns,
            temperature=self.temperature,
            floor=self.floor,
            cap=self.cap,
            own_weight=self.own_weight,
        )
        pool = values[exists]
        compared = np.where(exists, (values - pool.mean()) / (pool.std() + self.epsilon), 0.0)
        is_success = (rewards > self.success)[:, None]
        compared = np.where(is_success, np.maximum(compared, 0.0), compared)
        return self.group_relative(group, counts) + self.omega * compared
