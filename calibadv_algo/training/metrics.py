"""The numbers of one update, by name; every name is explained in ``docs/metrics.md``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.base import CreditRule, search_mask
from calibadv_algo.credit.labels import GoldCredit
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import UpdateResult
from calibadv_algo.losses.kl import divergence
from calibadv_algo.training.collection import Collection
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.diagnostics import (
    action_stats,
    advantage_mass,
    approximate_kl,
    collapse_alarm,
    garbled_share,
    mispenalized,
    perplexity_stats,
    repeated_token_share,
)
from calibadv_algo.training.estimation import Estimate, ScoredGroup
from calibadv_algo.types import Group, Trajectory, token_counts

_FINAL_MEANS = {
    "f1_mean": "f1",
    "em_mean": "em",
    "searches_mean": "num_searches",
    "format_valid_share": "is_format_valid",
}

_YARDSTICKS: Final[dict[str, CreditRule]] = {"silver": SilverCredit(), "gold": GoldCredit()}
"""Credits that tell which punished searches were correct; the later one has the last word."""

_GRPO: Final = Grpo()
"""The estimator that penalties are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFacts:
    """An update when it is done: settings, episodes, advantages, result, times.

    Attributes:
        config: Settings of the run.
        collection: What was played.
        scored: The groups that were left to learn from.
        estimate: Their advantages; None if there are no groups.
        result: What the learner did; None if there was nothing to learn from.
        lr: Learning rate.
        rollout_s: Seconds of collection and credit.
        total_s: Seconds of the whole update.
    """

    config: TrainConfig
    collection: Collection
    scored: Sequence[ScoredGroup]
    estimate: Estimate | None
    result: UpdateResult | None
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
    collection = facts.collection
    groups = [*collection.groups, *collection.left_out]
    trajectories = [each for group in groups for each in group.trajectories]
    advantages = () if facts.estimate is None else facts.estimate.turns
    metrics = rollout_metrics(trajectories) | text_metrics(trajectories)
    metrics |= credit_metrics(collection.groups, advantages)
    metrics |= learner_metrics(facts.result, facts.config.optim)
    metrics |= selection_metrics(facts)
    metrics["groups_with_signal_share"] = _mean(
        float(bool(np.any(values != 0))) for values in advantages
    )
    num_tokens = sum(each.num_tokens for each in trajectories)
    metrics |= {
        "episodes": float(collection.stats.num_episodes),
        "episodes_dropped": float(collection.stats.num_dropped),
        "groups_lost": float(collection.stats.num_groups_lost),
        "context_overflows": float(collection.stats.num_overflows),
        "tokens": float(num_tokens),
        "lr": facts.lr,
        "tokens_per_s": num_tokens / facts.total_s,
        "time_rollout_s": facts.rollout_s,
        "time_update_s": facts.total_s - facts.rollout_s,
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def selection_metrics(facts: UpdateFacts) -> dict[str, float]:
    """Counts of what was filtered, masked and shaped between the environment and the loss.

    Args:
        facts: The update.

    Returns:
        Numbers by name; {} for a run that does none of it.
    """
    config, collection = facts.config, facts.collection
    metrics = {f"question_share_{name}": share for name, share in collection.mix.items()}
    if config.rollout.bad_numbers == "drop":
        metrics["episodes_bad_number"] = float(collection.stats.num_bad_numbers)
    if config.filters:
        metrics |= {
            "batches_collected": float(collection.num_batches),
            "groups_filtered": float(collection.num_filtered_groups),
            "episodes_filtered": float(collection.num_filtered_episodes),
            "groups_surplus": float(collection.num_surplus_groups),
        }
    if config.loss_masks:
        metrics["episodes_masked"] = float(sum(int((~j.is_trained).sum()) for j in facts.scored))
    if config.shaping:
        metrics["shaped_reward_mean"] = _mean(
            each.reward for scored in facts.scored for each in scored.shaped.trajectories
        )
    if config.optim.kl_reward_coef > 0 and facts.estimate is not None:
        metrics["kl_reward_penalty"] = facts.estimate.kl_penalty
    return metrics


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
        # Where some episodes have a score, one that was cut off before its end scores 0.
        is_known = any(key in info for info in infos)
        metrics[name] = _mean(float(info.get(key, 0)) for info in infos if is_known)
    return metrics


def text_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Numbers of the written text: perplexity, repetition, garbled text, kinds of actions.

    Args:
        trajectories: Episodes of an update.

    Returns:
        Numbers by name; kinds of actions only where the environment tells them.
    """
    turns = [turn for each in trajectories for turn in each.turns]
    segment = np.repeat(np.arange(len(turns)), [len(turn.action_ids) for turn in turns])
    logprobs = np.array([value for turn in turns for value in turn.logprobs])
    token_ids = np.array([token for turn in turns for token in turn.action_ids], dtype=np.int64)
    perplexities = perplexity_stats(logprobs, segment)
    metrics = {
        "mean_perplexity": perplexities["mean_perplexity"],
        "max_perplexity": perplexities["max_perplexity"],
        "high_perplexity_share": perplexities["high_perplexity_share"],
        "repeated_token_share": repeated_token_share(token_ids, segment),
        "garbled_share": garbled_share(turn.action_text for turn in turns),
    }
    if turns and all("action" in turn.info for turn in turns):
        kinds = [[str(turn.info["action"]) for turn in each.turns] for each in trajectories]
        stats = action_stats(kinds)
        metrics["malformed_share"] = stats["malformed_share"]
        metrics["answered_share"] = stats["answered_share"]
    return metrics


def credit_metrics(
    groups: Sequence[Group], advantages: Sequence[Float[np.ndarray, "group turn"]]
) -> dict[str, float]:
    """Advantage mass, and how far correct searches are punished.

    Args:
        groups: Groups of an update.
        advantages: Advantages of their turns.

    Returns:
        Numbers by name. ``mispenalized_share`` and ``kept_penalty`` go by gold passages where
        the environment names them, else by silver ones; both are there with their own suffix.
    """
    if not groups:
        return {}
    counts = _flat([token_counts(group) for group in groups])
    mass = advantage_mass(_flat(advantages), counts)
    metrics = {
        "positive_mass": mass["positive_mass"],
        "negative_mass": mass["negative_mass"],
        "negative_to_positive_ratio": mass["negative_to_positive_ratio"],
    }
    for label, credit in _YARDSTICKS.items():
        found = _penalties(groups, advantages, credit)
        for name, value in found.items():
            metrics[f"{name}_{label}"] = value
            if not math.isnan(value):
                metrics[name] = value
    return metrics


def learner_metrics(result: UpdateResult | None, optim: OptimConfig) -> dict[str, float]:
    """Numbers of the update of the weights.

    Args:
        result: None if there was nothing to learn from.
        optim: Settings of the loss.

    Returns:
        Numbers by name; clip fraction and divergences are over the tokens that were trained on.
    """
    if result is None:
        return {"trained_tokens": 0.0}
    scores = result.scores
    metrics = {
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "optimizer_steps": float(result.num_steps),
        "skipped_steps": float(result.num_skipped_steps),
        "tokens_unscorable": float(result.num_unscorable),
        "trained_tokens": float(result.num_tokens),
        "entropy": _mean(scores.entropies.tolist()),
        "approximate_kl": approximate_kl(scores.logprobs.numpy(), scores.old_logprobs.numpy()),
        "clip_fraction": float(scores.is_clipped.sum()) / max(1, len(scores.is_clipped)),
        **result.mismatch,
    }
    if result.loss_scale is not None:
        metrics["loss_scale"] = result.loss_scale
    if result.critic is not None:
        metrics |= {
            "value_loss": result.critic.loss,
            "value_explained_variance": result.critic.explained_variance,
            "critic_grad_norm": result.critic.grad_norm,
        }
    if scores.ref_logprobs is not None:
        estimate = divergence(
            optim.kl_estimator, scores.logprobs, scores.ref_logprobs, scores.old_logprobs
        )
        metrics["ref_kl"] = _mean(estimate.tolist())
    return metrics


def alarm(history: Sequence[Mapping[str, float | None]]) -> bool:
    """Tells whether training has collapsed by the metrics of all updates so far.

    Args:
        history: Metrics of each update in order; None stands for a number that is not finite.

    Returns:
        The verdict of `diagnostics.collapse_alarm`.
    """
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in history
        if "reward_mean" in row
    ]
    return collapse_alarm(rows).is_collapsed


def _penalties(
    groups: Sequence[Group],
    advantages: Sequence[Float[np.ndarray, "group turn"]],
    credit: CreditRule,
) -> dict[str, float]:
    """Punishment of correct searches by one credit; {} if the environment lacks its facts."""
    known = set.intersection(
        *(
            {key for turn in each.turns for key in turn.info}
            for g in groups
            for each in g.trajectories
        )
    )
    if not credit.required_info_keys <= known:
        return {}
    correctness = [credit(group) for group in groups]
    is_search = [search_mask(group) for group in groups]
    base = [_GRPO(group, values) for group, values in zip(groups, correctness, strict=True)]
    found = mispenalized(
        _flat(advantages),
        _flat(base),
        _flat(correctness),
        np.concatenate([mask.ravel() for mask in is_search]),
        _flat([token_counts(group) for group in groups]),
    )
    return {
        "mispenalized_share": found["mispenalized_share"],
        "own_mispenalized_share": found["own_mispenalized_share"],
        "kept_penalty": found["kept_penalty"],
    }


def _flat(matrices: Sequence[Float[np.ndarray, "group turn"]]) -> Float[np.ndarray, " turn"]:
    """All turns of all groups, one after the other."""
    return np.concatenate([matrix.ravel() for matrix in matrices])


def _mean(values: Iterable[float]) -> float:
    """Mean, NaN of nothing."""
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else math.nan
