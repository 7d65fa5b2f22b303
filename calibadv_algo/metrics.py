"""The numbers of one update, by name; every name is explained in ``docs/metrics.md``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from calibadv_algo.learner import UpdateResult
from calibadv_algo.rollout.driver import RolloutStats
from calibadv_algo.types import Group, Trajectory

_FINAL_MEANS = {
    "f1_mean": "f1",
    "em_mean": "em",
    "searches_mean": "num_searches",
    "format_valid_share": "is_format_valid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFacts:
    """What is known when an update is done.

    Attributes:
        groups: The episodes.
        advantages: Advantages of each group's turns.
        correctness: Correctness of each group's turns by the run's own credit.
        result: What the learner did; None if there was nothing to learn from.
        rollout: Counts and times of the collection.
        lr: Learning rate.
        rollout_s: Seconds of collection, credit and writing.
        total_s: Seconds of the whole update.
    """

    groups: Sequence[Group]
    advantages: Sequence[Float[np.ndarray, "group turn"]]
    correctness: Sequence[Float[np.ndarray, "group turn"]]
    result: UpdateResult | None
    rollout: RolloutStats
    lr: float
    rollout_s: float
    total_s: float


def update_metrics(facts: UpdateFacts) -> dict[str, float]:
    """All numbers of an update.

    Args:
        facts: The update.

    Returns:
        Numbers by name; those that the environment's facts do not allow are left out.
    """
    trajectories = [each for group in facts.groups for each in group.trajectories]
    metrics = rollout_metrics(trajectories) | learner_metrics(facts.result)
    metrics["groups_with_signal_share"] = _mean(
        float(bool(np.any(values != 0))) for values in facts.advantages
    )
    num_tokens = sum(each.num_tokens for each in trajectories)
    metrics |= {
        "episodes": float(facts.rollout.num_episodes),
        "episodes_dropped": float(facts.rollout.num_dropped),
        "groups_lost": float(facts.rollout.num_groups_lost),
        "context_overflows": float(facts.rollout.num_overflows),
        "tokens": float(num_tokens),
        "lr": facts.lr,
        "tokens_per_s": num_tokens / facts.total_s,
        "time_rollout_s": facts.rollout_s,
        "time_update_s": facts.total_s - facts.rollout_s,
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over episodes.

    Args:
        trajectories: Episodes of an update.

    Returns:
        Numbers by name, NaN for what the environment does not report.
    """
    rewards = [each.reward for each in trajectories]
    sampled = [lp for each in trajectories for turn in each.turns for lp in turn.logprobs]
    metrics = {
        "reward_mean": _mean(rewards),
        "reward_std": float(np.std(rewards)) if rewards else math.nan,
        "turns_mean": _mean(len(each.turns) for each in trajectories),
        "action_tokens_mean": _mean(each.num_action_tokens for each in trajectories),
        "truncated_share": _mean(each.is_truncated for each in trajectories),
        "cut_turn_share": _mean(turn.is_cut for each in trajectories for turn in each.turns),
        "sampled_nll": -_mean(sampled),
    }
    infos = [each.final_info for each in trajectories]
    for name, key in _FINAL_MEANS.items():
        metrics[name] = _mean(float(info[key]) for info in infos if key in info)
    return metrics


def learner_metrics(result: UpdateResult | None) -> dict[str, float]:
    """What the update of the weights looked like.

    Args:
        result: None if there was nothing to learn from.

    Returns:
        Numbers by name.
    """
    if result is None:
        return {"trained_tokens": 0.0}
    return {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "optimizer_steps": float(result.num_steps),
        "skipped_steps": float(result.num_skipped_steps),
        "trained_tokens": float(result.num_tokens),
        "entropy": _mean(result.scores.entropies.tolist()),
    }


def _mean(values: Iterable[float]) -> float:
    """Mean, NaN of nothing."""
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else math.nan
