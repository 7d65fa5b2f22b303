"""Rewards of searches by what they did to the belief in the accepted answers: TIPS, PiCA."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.beliefs import (
    TAGGED_LOGPROBS,
    AnswerBelief,
    answer_logprobs,
    total_potential,
)
from calibadv_algo.shaping.base import RewardShaping, turn_rewards, with_rewards
from calibadv_algo.shaping.facts import outcome_only
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE

_TIPS: Final = "TipsRewards"
_PICA: Final = "PicaRewards"


@dataclass(frozen=True, slots=True, kw_only=True)
class TipsRewards(RewardShaping):
    """TIPS: a turn before the last also earns what it added to the answers' potential.

    ``scale * (gamma * Phi_{t+1} - Phi_t)`` with ``Phi = log sum_k exp(l_k)``, ``l_k`` the mean
    log-probability of a token of accepted answer k with its tags, after the turn's result.

    **Source:** TIPS (arXiv 2603.22293); ``_compute_info_reward_for_sample`` of its code.

    **Differs:** the teacher is the starting policy; the paper also refreshes it. The text that asks
    is ours, and nothing is cut. As in the code the last turn pays nothing back, so an episode earns
    ``Phi`` before its last turn less that of the bare question, which depends on the policy: the
    invariance that the paper names needs a potential of 0 at the end.

    Attributes:
        scale: Factor; 0.02 in the published script.
        gamma: Discount, that of the return.
        belief: Form in which the teacher is asked.
    """

    scale: Annotated[float, NOT_NEGATIVE] = 0.02
    gamma: Annotated[float, FRACTION] = 1.0
    belief: AnswerBelief = field(default_factory=lambda: AnswerBelief(scorer="start"))

    @property
    def answer_belief(self) -> AnswerBelief:
        """The belief that the trainer is asked for."""
        return self.belief

    def __call__(self, group: Group) -> Group:
        """The group with the potential's growth added to the rewards."""
        rewards = turn_rewards(group)
        for row, trajectory in enumerate(group.trajectories):
            scores = answer_logprobs(trajectory, _TIPS, TAGGED_LOGPROBS)
            levels = np.array([total_potential(each) for each in scores])
            growth = self.gamma * levels[1:] - levels[:-1]
            rewards[row, : len(growth)] += self.scale * growth
        return with_rewards(group, rewards)


def search_surcharges(
    count: int, factor: float = 0.3, base: float = 1.5
) -> Float[np.ndarray, " _"]:
    """What each search costs: nothing for the first three, then ``factor * base^(i - 2)``.

    **Source:** ``_compute_step_reward_tensor`` of PiCA's code (arXiv 2605.09287), searches counted
    from 0.

    **Differs:** nothing.
    """
    places = np.arange(count)
    return np.where(places < 3, 0.0, factor * base ** (places - 2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class PicaRewards(RewardShaping):
    """PiCA's step rewards: how near the answer a search has brought the episode.

    A turn before the last earns ``step_scale * (p - baseline - surcharge)``, where ``p`` is the
    probability of success after its result; the last one ``outcome_scale`` times the outcome.

    **Source:** PiCA (arXiv 2605.09287); ``RewardManager`` of its code.

    **Differs:** there ``p`` is one less what a reward model says, which was trained on the authors'
    labels of pivot steps and whose weights are not public; here it is the policy's belief in the
    likeliest accepted answer, the geometric mean of its tokens' probabilities. The code adds the
    step rewards to a row that holds them already, so that its script's scale 0.3 works as 1.3,
    which is the default here.

    Attributes:
        step_scale: Factor of step rewards.
        baseline: What a probability has to exceed to be paid; 0.55 in the script.
        surcharge: Factor of the price of searches after the third; see :func:`search_surcharges`.
        outcome_scale: Factor of the outcome; 1.5 in the script.
        belief: Form in which the policy is asked.
    """

    step_scale: Annotated[float, NOT_NEGATIVE] = 1.3
    baseline: Annotated[float, FRACTION] = 0.55
    surcharge: Annotated[float, NOT_NEGATIVE] = 0.3
    outcome_scale: Annotated[float, NOT_NEGATIVE] = 1.5
    belief: AnswerBelief = field(default_factory=AnswerBelief)

    @property
    def answer_belief(self) -> AnswerBelief:
        """The belief that the trainer is asked for."""
        return self.belief

    def __call__(self, group: Group) -> Group:
        """The group with step rewards and the scaled outcome."""
        rewards = turn_rewards(outcome_only(group, group_rewards(group) * self.outcome_scale))
        for row, trajectory in enumerate(group.trajectories):
            after = answer_logprobs(trajectory, _PICA)[1:]
            chances = np.array([math.exp(each.max()) for each in after])
            cost = search_surcharges(len(chances), self.surcharge)
            rewards[row, : len(chances)] = self.step_scale * (chances - self.baseline - cost)
        return with_rewards(group, rewards)
