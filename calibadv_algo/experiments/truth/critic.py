"""A critic's values of states, held against the measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from calibadv_algo.advantages.base import AnyVector
from calibadv_algo.advantages.vine import VALUE_KEY
from calibadv_algo.batching import build_token_batch
from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.truth.intervals import Weights, mean_score, score
from calibadv_algo.experiments.truth.metrics import (
    CORRECTED,
    CORRELATION,
    EXPLAINED,
    Judged,
    Mask,
)
from calibadv_algo.experiments.truth.turns import Column, Turns
from calibadv_algo.experiments.truth.values import MeasuredGroup
from calibadv_algo.learner.critic import Critic
from calibadv_algo.types import Group, Trajectory, group_rewards

NEEDS_CRITIC: Final = "needs the values of a critic: measure a checkpoint of a run that has one"
OTHER_REWARDS: Final = "the critic at hand learnt from other rewards"
_CHUNK: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticValues:
    """Values that a critic gives before every sampled token of some episodes.

    Attributes:
        episodes: The episodes.
        tokens: One vector an episode.
        shaping: Shaping of the rewards that it learnt, as plain JSON.
    """

    episodes: tuple[Trajectory, ...]
    tokens: tuple[AnyVector, ...]
    shaping: Any

    def fits(self, shaping: Any) -> bool:
        """True if rewards of this shaping, as plain JSON, are those that the critic learnt."""
        return list(shaping) == list(self.shaping)

    def of(self, trajectories: Sequence[Trajectory]) -> list[AnyVector]:
        """Values before the tokens of some of the episodes."""
        by_episode = {id(e): t for e, t in zip(self.episodes, self.tokens, strict=True)}
        return [by_episode[id(each)] for each in trajectories]

    def before_turns(self, trajectory: Trajectory) -> AnyVector:
        """Value of the state before every turn of an episode."""
        (tokens,) = self.of([trajectory])
        return tokens[_first_tokens(trajectory)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueScore:
    """Values of states against the measured ones, over some states.

    Attributes:
        what: Whose values, and of which states.
        count: Number of turns that begin in these states.
        correlation: With the measured values.
        corrected: With the values themselves, by split halves of the continuations.
        within: The same after each question's mean is taken off both.
        explained: Share of the variance of the values that they account for; below 0 if the mean
            of all values is nearer.
        bias: Mean of the values less that of the measured ones.
    """

    what: str
    count: int
    correlation: Interval
    corrected: Interval
    within: Interval
    explained: Interval
    bias: Interval


def critic_values(
    critic: Critic, trajectories: Sequence[Trajectory], shaping: Any = ()
) -> CriticValues:
    """Values of a critic before every sampled token.

    Args:
        critic: The critic.
        trajectories: The episodes.
        shaping: Of the rewards that it learnt, as plain JSON.
    """
    tokens: list[AnyVector] = []
    for first in range(0, len(trajectories), _CHUNK):
        batch = build_token_batch(trajectories[first : first + _CHUNK])
        tokens += batch.per_sequence(critic.frozen_values(batch))
    return CriticValues(
        episodes=tuple(trajectories),
        tokens=tuple(each.astype(np.float64) for each in tokens),
        shaping=shaping,
    )


def with_state_values(group: Group, values: CriticValues) -> Group:
    """The group with the critic's values where `Vine` looks for measured ones."""
    trajectories = []
    for each in group.trajectories:
        found = values.before_turns(each) + _past_rewards(each)
        turns = tuple(
            replace(turn, info={**turn.info, VALUE_KEY: float(value)})
            for turn, value in zip(each.turns, found, strict=True)
        )
        trajectories.append(replace(each, turns=turns))
    return Group(tuple(trajectories))


def value_scores(
    measured: Sequence[MeasuredGroup],
    turns: Turns,
    judged: Judged,
    critic: CriticValues,
    weights: Weights,
) -> tuple[ValueScore, ...]:
    """The critic's values of states, and the mean return of the other episodes, which needs none.

    Values are those of the rewards to come.
    """
    states = _states(measured, turns)
    place = np.concatenate(
        [np.arange(len(e.turns)) for g in measured for e in g.group.trajectories]
    )
    question = np.repeat(
        np.arange(len(measured)),
        [sum(len(e.turns) for e in g.group.trajectories) for g in measured],
    )
    sources = {"critic": _critic_column(measured, critic), "other episodes": _others(measured)}
    masks: dict[str, Mask] = {
        "all states": np.ones(len(place), dtype=np.bool_),
        "the start": place == 0,
        "later states": place > 0,
    }
    return tuple(
        _value_score(f"{source}, {where}", values, states, judged, mask, question, weights)
        for source, values in sources.items()
        for where, mask in masks.items()
        if mask.any()
    )


def _value_score(
    what: str,
    values: Column,
    states: Turns,
    judged: Judged,
    mask: Mask,
    question: np.ndarray,
    weights: Weights,
) -> ValueScore:
    def deviations(column: Column) -> Column:
        sums = np.bincount(question, column * mask)
        counts = np.maximum(np.bincount(question, mask.astype(np.float64)), 1)
        # Rounding must not look like a difference between states that are all the same.
        return np.asarray(np.round(column - (sums / counts)[question], 9))

    within = replace(
        states,
        truth=deviations(states.truth),
        halves=(deviations(states.halves[0]), deviations(states.halves[1])),
    )
    return ValueScore(
        what=what,
        count=int(mask.sum()),
        correlation=score(CORRELATION, states, judged, values, mask, weights).interval,
        corrected=score(CORRECTED, states, judged, values, mask, weights).interval,
        within=score(CORRECTED, within, judged, deviations(values), mask, weights).interval,
        explained=score(EXPLAINED, states, judged, values, mask, weights).interval,
        bias=mean_score(values - states.truth, states, mask, weights).interval,
    )


def _states(measured: Sequence[MeasuredGroup], turns: Turns) -> Turns:
    """The columns with values of the states before the turns in place of advantages."""
    rows = [
        (returns, past)
        for each in measured
        for trajectory, row in zip(each.group.trajectories, each.returns, strict=True)
        for returns, past in zip(row, _past_rewards(trajectory), strict=True)
    ]
    return replace(
        turns,
        truth=np.array([each.value - past for each, past in rows]),
        halves=(
            np.array([each.half(0) - past for each, past in rows]),
            np.array([each.half(1) - past for each, past in rows]),
        ),
    )


def _critic_column(measured: Sequence[MeasuredGroup], critic: CriticValues) -> Column:
    episodes = [each for group in measured for each in group.group.trajectories]
    return np.concatenate([critic.before_turns(each) for each in episodes])


def _others(measured: Sequence[MeasuredGroup]) -> Column:
    """Mean return of the other episodes of the group, less the rewards that are past."""
    parts = []
    for each in measured:
        rewards = group_rewards(each.group)
        others = (rewards.sum() - rewards) / max(1, len(rewards) - 1)
        for mean, trajectory in zip(others, each.group.trajectories, strict=True):
            parts.append(float(mean) - _past_rewards(trajectory))
    return np.concatenate(parts)


def _past_rewards(trajectory: Trajectory) -> AnyVector:
    """Rewards before every turn."""
    return np.cumsum([0.0, *(turn.reward for turn in trajectory.turns[:-1])])


def _first_tokens(trajectory: Trajectory) -> list[int]:
    """Place of every turn's first token among the action tokens."""
    counts = [len(turn.action_ids) for turn in trajectory.turns]
    return [int(each) for each in np.cumsum([0, *counts[:-1]])]
