"""Measured values of states, and the true advantages of turns that follow from them.

The value of a state is the mean return of continuations from it. ``A*(t) = V(s_{t+1}) - V(s_t)``,
where the last state of an episode is worth the episode's return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from calibadv_algo.types import Group, group_rewards

PRIOR_WEIGHT = 2.0
"""Continuations that the mean variance of all states counts for in that of one state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """Returns of the continuations of one state.

    Attributes:
        pilot: Those of the first stage, whose number is the same for all states.
        rest: Those of the second stage, whose number depends on the pilot.
        pilot_weight: Weight of the pilot's mean in the value, set beforehand: were it to follow
            the numbers, states whose pilot happened to agree would be biased.
    """

    pilot: tuple[float, ...]
    rest: tuple[float, ...] = ()
    pilot_weight: float = 1.0

    @property
    def count(self) -> int:
        """Number of continuations."""
        return len(self.pilot) + len(self.rest)

    @property
    def value(self) -> float:
        """Estimate of the state's value, without bias."""
        return self._joined(self.pilot, self.rest)

    def half(self, which: int) -> float:
        """Estimate from every other continuation, beginning with 0 or 1; halves share none."""
        return self._joined(self.pilot[which::2], self.rest[which::2])

    def sample_variance(self) -> float:
        """Variance of a single return, 0 for fewer than two."""
        everything = (*self.pilot, *self.rest)
        return float(np.var(everything, ddof=1)) if len(everything) > 1 else 0.0

    def variance_factor(self) -> float:
        """Variance of the value over that of a single return."""
        if not self.rest:
            return 1.0 / len(self.pilot)
        weight = self.pilot_weight
        return weight**2 / len(self.pilot) + (1 - weight) ** 2 / len(self.rest)

    def _joined(self, pilot: Sequence[float], rest: Sequence[float]) -> float:
        if not rest:
            return float(np.mean(pilot)) if pilot else float("nan")
        if not pilot:
            return float(np.mean(rest))
        weight = self.pilot_weight
        return float(weight * np.mean(pilot) + (1 - weight) * np.mean(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredGroup:
    """A group with the returns of continuations from the states before its turns.

    Attributes:
        group: As it was played.
        returns: By trajectory and turn; equal states share the same object.
    """

    group: Group
    returns: tuple[tuple[Returns, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """True advantages of a group's turns, 0 where there is no turn.

    Attributes:
        advantages: From all continuations.
        halves: From each half of them; they share none.
        errors: Standard errors of the advantages.
        values: Values of the states before the turns.
    """

    advantages: Float[np.ndarray, "group turn"]
    halves: tuple[Float[np.ndarray, "group turn"], Float[np.ndarray, "group turn"]]
    errors: Float[np.ndarray, "group turn"]
    values: Float[np.ndarray, "group turn"]


def mean_variance(groups: Sequence[MeasuredGroup]) -> float:
    """Mean over all distinct states of the variance of a single return."""
    distinct = {id(each): each for group in groups for row in group.returns for each in row}
    variances = [each.sample_variance() for each in distinct.values() if each.count > 1]
    return float(np.mean(variances)) if variances else 0.0


def value_variance(returns: Returns, prior: float) -> float:
    """Variance of a state's value.

    The variance of a single return is drawn towards the mean over all states, so that a state
    whose continuations happened to agree is not taken for certain.
    """
    freedom = returns.count - 1
    own = freedom * returns.sample_variance() + PRIOR_WEIGHT * prior
    return own / (freedom + PRIOR_WEIGHT) * returns.variance_factor()


def true_advantages(measured: MeasuredGroup, prior: float) -> Truth:
    """Measured advantages of a group's turns.

    Args:
        measured: The group and the returns of its states.
        prior: Mean variance of a single return, of :func:`mean_variance`.

    Returns:
        The advantages; those of the two halves are independent given the group.
    """
    group = measured.group
    shape = (len(group), group.max_turns)
    rewards = group_rewards(group)
    results = [np.zeros(shape) for _ in range(5)]
    whole, first, second, errors, values = results
    for row, states in enumerate(measured.returns):
        last = len(states) - 1
        for column, state in enumerate(states):
            after = states[column + 1] if column < last else None
            end = float(rewards[row])
            whole[row, column] = (after.value if after else end) - state.value
            first[row, column] = (after.half(0) if after else end) - state.half(0)
            second[row, column] = (after.half(1) if after else end) - state.half(1)
            variance = value_variance(state, prior)
            variance += value_variance(after, prior) if after else 0.0
            errors[row, column] = np.sqrt(variance)
            values[row, column] = state.value
    return Truth(advantages=whole, halves=(first, second), errors=errors, values=values)


def allocate(
    pilots: Sequence[Sequence[float]], weights: Sequence[float], total: int, least: int = 2
) -> list[int]:
    """Numbers of further continuations that make the advantages as certain as possible.

    Proportional to ``sqrt(weight) * deviation`` (Neyman), where the variance of a state is drawn
    towards the mean; every state gets ``least``, since its second mean counts with a set weight.

    **Source:** Neyman 1934, On the two different aspects of the representative method.

    Args:
        pilots: Returns of each state's first continuations, at least one each.
        weights: Number of turns whose advantage a state's value enters.
        total: Continuations to share out; ``least`` a state if that is more.
        least: Fewest of a state, even so that both halves get as many.

    Returns:
        One number a state, even each.
    """
    variances = np.array([np.var(each, ddof=1) if len(each) > 1 else 0.0 for each in pilots])
    counts = np.array([len(each) for each in pilots])
    prior = float(variances.mean()) if len(variances) else 0.0
    shrunk = ((counts - 1) * variances + PRIOR_WEIGHT * prior) / (counts - 1 + PRIOR_WEIGHT)
    scores = np.sqrt(np.asarray(weights, dtype=np.float64) * shrunk)
    free = max(0, total - least * len(pilots))
    shares = scores / scores.sum() if scores.sum() > 0 else np.full(len(pilots), 1 / len(pilots))
    pairs = np.floor(shares * free / 2).astype(int)
    rest = free // 2 - int(pairs.sum())
    order = np.argsort(-(shares * free / 2 - pairs), kind="stable")
    pairs[order[:rest]] += 1
    return [least + 2 * int(each) for each in pairs]
