"""IGPO: each turn is paid by what it added to the policy's belief in the accepted answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts, last_turns
from calibadv_algo.credit.beliefs import AnswerBelief, Answers, GainForm, information_gains
from calibadv_algo.types import Group, group_rewards
from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, POSITIVE

Pool = Literal["joint", "separate"]
"""What a turn's reward is compared with: gains and outcomes of the group in one pool, or in two."""

_VARIANCE_FLOOR = 1e-8


def population_normalized(
    values: Float[np.ndarray, " item"], *, epsilon: float = 1e-6, is_scaled: bool = True
) -> Float[np.ndarray, " item"]:
    """Brings values to mean 0 and, if scaled, to deviation 1 of the population.

    ``(x - mean) / (sqrt(variance + 1e-8) + epsilon)``; a single value becomes 0.

    **Source:** the codes of IGPO and A2TGPO.

    **Differs:** nothing.
    """
    centred: Float[np.ndarray, " item"] = values - values.mean()
    if not is_scaled or len(values) < 2:
        return centred
    result: Float[np.ndarray, " item"] = centred / (
        math.sqrt(float(np.mean(centred**2)) + _VARIANCE_FLOOR) + epsilon
    )
    return result


def discounted_sums(
    rewards: Matrix, exists: Bool[np.ndarray, "group turn"], gamma: float
) -> Matrix:
    """``r_t + gamma r_{t+1} + ...`` over the turns that exist, 0 elsewhere."""
    sums = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    for column in reversed(range(rewards.shape[1])):
        here = exists[:, column]
        running = np.where(here, rewards[:, column] + gamma * running, running)
        sums[:, column] = np.where(here, running, 0.0)
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRelative(AdvantageEstimator):
    """Base of estimators that read the policy's belief in the accepted answer.

    Attributes:
        belief: Form in which the policy is asked.
        answers: Accepted answer that counts.
        gamma: Discount from turn to turn.
        epsilon: Added to the deviations.
    """

    belief: AnswerBelief = field(default_factory=AnswerBelief)
    answers: Answers = "first"
    gamma: Annotated[float, FRACTION] = 1.0
    epsilon: Annotated[float, POSITIVE] = 1e-6

    @property
    def answer_belief(self) -> AnswerBelief:
        """The belief that the trainer is asked for."""
        return self.belief


@dataclass(frozen=True, slots=True, kw_only=True)
class Igpo(GainRelative):
    """IGPO's advantage: compared gains in belief and the compared outcome, summed up to the end.

    A turn before the last earns the gain ``p_{t+1} - p_t`` in the geometric mean probability of
    the accepted answer's tokens, the last one the episode's outcome. The rewards are brought to
    mean 0 and deviation 1 within the group, and the advantage of a turn is their discounted sum
    from there on.

    **Source:** IGPO (arXiv 2510.14967); ``compute_grpo_outcome_advantage`` of its later code.

    **Differs:** the belief before the first turn is that of the bare question, as in the paper;
    the text that asks for it is ours. A gain or compared reward of exactly 0 counts like any
    other, where the code takes it for no end of a turn. The first public version of the code
    compares returns token by token and without deviation, which is neither here nor in the paper.

    Attributes:
        pool: Gains and outcomes compared together (``joint``) or each kind by itself.
        form: Gains in the probability, as in the paper, or in its logarithm.
        normalization: Divide by the deviation (``group``) or not (``none``).
    """

    name: ClassVar[str] = "igpo"

    pool: Pool = "joint"
    form: GainForm = "probability"
    normalization: Literal["group", "none"] = "group"

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        exists, last = counts > 0, last_turns(counts)
        inner = exists & ~last
        rewards = information_gains(group, "Igpo", form=self.form, answers=self.answers)
        rewards[last] = group_rewards(group)
        rewards[~exists] = 0.0
        pools: Sequence[Bool[np.ndarray, "group turn"]] = (
            (exists,) if self.pool == "joint" else (last, inner)
        )
        compared = np.zeros_like(counts)
        for here in pools:
            if here.any():
                compared[here] = population_normalized(
                    rewards[here],
                    epsilon=self.epsilon,
                    is_scaled=self.normalization == "group",
                )
        return discounted_sums(compared, exists, self.gamma)


@dataclass(frozen=True, slots=True, kw_only=True)
class A2Tgpo(GainRelative):
    """A2TGPO's advantage: gains compared turn by turn, summed and rescaled, beside the outcome.

    ``A_t = alpha * sum_{j>=t} gamma^(j-t) g_j / sqrt(n_t) + z``: ``g_j`` is the gain in belief of
    turn j, compared with those of the group's turns of the same number, ``n_t`` the number of terms
    and ``z`` the compared outcome, which last turns get alone. The range of the objective's clip is
    ``1 + clip_width (2 sigmoid(g_t) - 1)`` times as wide at turn t.

    **Source:** A2TGPO (arXiv 2605.06200); ``compute_igpo_step_advantage`` of its code, mode
    ``turn-group-v1d``.

    **Differs:** the first search has a gain too, against the bare question, as in the paper; the
    code begins with the second. A gain of exactly 0 counts. The text that asks for the belief is
    ours.

    Attributes:
        alpha: Weight of the gains; 0.3 in the published run.
        form: Gains in the logarithm of the probability, as in the code, or in the probability.
        clip_width: Largest share by which the clip's range grows or shrinks; 0 leaves it.
    """

    name: ClassVar[str] = "a2tgpo"

    alpha: Annotated[float, NOT_NEGATIVE] = 0.3
    form: GainForm = "log"
    clip_width: Annotated[float, FRACTION] = 0.3

    @property
    def scales_clips(self) -> bool:
        """True unless the width is 0."""
        return self.clip_width > 0

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used."""
        counts = fitting_counts(group, correctness)
        inner = (counts > 0) & ~last_turns(counts)
        sums = discounted_sums(self._compared_gains(group), inner, self.gamma)
        terms = np.flip(np.cumsum(np.flip(inner, axis=1), axis=1), axis=1)
        outcome = population_normalized(group_rewards(group), epsilon=self.epsilon)
        process = np.where(inner, self.alpha * sums / np.sqrt(np.maximum(terms, 1)), 0.0)
        return np.where(counts > 0, process + outcome[:, None], 0.0)

    def clip_scales(self, group: Group) -> Matrix:
        """Factors of the clip's range, 1 at last turns."""
        gains = self._compared_gains(group)
        return 1.0 + self.clip_width * np.tanh(gains / 2)

    def _compared_gains(self, group: Group) -> Matrix:
        """Gains compared with those of the turns of the same number, 0 where there is none."""
        gains = information_gains(group, "A2Tgpo", form=self.form, answers=self.answers)
        compared = np.zeros_like(gains)
        for column in range(gains.shape[1]):
            here = ~np.isnan(gains[:, column])
            if here.any():
                compared[here, column] = population_normalized(
                    gains[here, column], epsilon=self.epsilon
                )
        return compared
