"""From episodes to advantages: shaping, credit, divergence in the rewards, estimator, masks.

The parts come from the settings; what is here is their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from calibadv_algo.advantages.base import AdvantageEstimator, TokenBaseline, ValueAdvantage
from calibadv_algo.batching import (
    TokenBatch,
    build_token_batch,
    last_token_rewards,
    select_sequences,
    tokens_to_turns,
    turns_to_tokens,
)
from calibadv_algo.learner.ranks import Ranks, own_share
from calibadv_algo.losses.kl import kl_k1
from calibadv_algo.shaping.base import turn_rewards, with_rewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.types import Group, Trajectory, token_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with shaped rewards and the correctness of its turns.

    Attributes:
        played: The group with the environment's rewards.
        shaped: The same trajectories with the rewards that are learnt from.
        correctness: Correctness of the turns.
        is_trained: Which of the trajectories are trained on.
    """

    played: Group
    shaped: Group
    correctness: Float[np.ndarray, "group turn"]
    is_trained: Bool[np.ndarray, " group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Advantages of all groups.

    Attributes:
        turns: One matrix a group; where tokens have advantages of their own, their means.
        batch: The tokens of the trajectories that are trained on, with advantages and, if there
            is a critic, returns; None if there are none.
        kl_penalty: Mean over the episodes of what the divergence took off their rewards.
    """

    turns: tuple[Float[np.ndarray, "_ _"], ...]
    batch: TokenBatch | None
    kl_penalty: float


def score_group(group: Group, config: TrainConfig) -> ScoredGroup:
    """Shapes the rewards of a group and scores its turns.

    Args:
        group: As it was played.
        config: Shaping, credit and masks.

    Returns:
        The group with all that is known of it before the trainer looks at its tokens.

    Raises:
        ValueError: if a shaping changed more than rewards, or a mask has another length.
    """
    shaped = group
    for shaping in config.shaping:
        shaped = shaping(shaped)
    if config.shaping:
        _check_same_episodes(group, shaped)
    is_trained = np.ones(len(group), dtype=np.bool_)
    for mask in config.loss_masks:
        chosen = np.asarray(mask(group), dtype=np.bool_)
        if chosen.shape != is_trained.shape:
            raise ValueError(
                f"{type(mask).__name__} must give one value for each of {len(group)} "
                f"trajectories, got shape {chosen.shape}"
            )
        is_trained &= chosen
    return ScoredGroup(
        played=group, shaped=shaped, correctness=config.credit(shaped), is_trained=is_trained
    )


def score_groups(groups: Sequence[Group], config: TrainConfig, ranks: Ranks) -> list[ScoredGroup]:
    """Shapes and scores all groups, each on one rank: a judge may be slow, or of two minds.

    Args:
        groups: The same ones on every rank.
        config: Shaping, credit and masks.
        ranks: Who shares the work.

    Returns:
        One for each group, the same on every rank.

    Raises:
        ValueError: if a shaping changed more than rewards, or a mask has another length.
    """
    if ranks.world_size == 1:
        return [score_group(group, config) for group in groups]
    own = [score_group(group, config) for group in own_share(groups, ranks)]
    verdicts = [_Verdict(turn_rewards(j.shaped), j.correctness, j.is_trained) for j in own]
    everyones = [each for part in ranks.gather(verdicts) for each in part]
    return [
        ScoredGroup(
            played=group,
            shaped=with_rewards(group, verdict.rewards) if config.shaping else group,
            correctness=verdict.correctness,
            is_trained=verdict.is_trained,
        )
        for group, verdict in zip(groups, everyones, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The part of a scored group that another rank does not know."""

    rewards: Float[np.ndarray, "group turn"]
    correctness: Float[np.ndarray, "group turn"]
    is_trained: Bool[np.ndarray, " group"]


def draft_batch(scored: Sequence[ScoredGroup]) -> TokenBatch:
    """The tokens of all groups in order, without advantages."""
    return build_token_batch(_trajectories(scored))


def estimate(
    scored: Sequence[ScoredGroup], prepared: TokenBatch, config: TrainConfig, update: int
) -> Estimate:
    """Computes advantages, and puts them on the tokens that are trained on.

    Args:
        scored: The groups of an update, at least one.
        prepared: Their tokens, with old log-probabilities and whatever else the settings need.
        config: Estimator and divergence.
        update: Number of finished updates.

    Returns:
        The advantages by turn and by token.

    Raises:
        ValueError: if an advantage is not finite or does not fit its group.
    """
    trajectories = _trajectories(scored)
    penalties = _kl_penalties(prepared, config.optim.kl_reward_coef)
    advantage = config.advantage
    if isinstance(advantage, ValueAdvantage):
        tokens, returns = _value_advantages(advantage, trajectories, prepared, penalties)
        prepared = replace(prepared, returns=_tensor(returns))
        turns = _turn_means(scored, tokens)
    elif isinstance(advantage, TokenBaseline):
        tokens = _distribution_advantages(advantage, scored, prepared, penalties)
        turns = _turn_means(scored, tokens)
    else:
        turns = _group_advantages(advantage, scored, penalties)
        rows = [row for matrix in turns for row in matrix]
        tokens = turns_to_tokens(trajectories, rows)
    reweighted = advantage.reweight_tokens(tokens, trajectories, update)
    if reweighted is not tokens:
        # Left out where no token changed: a mean of equal numbers is not always that number.
        tokens, turns = reweighted, _turn_means(scored, reweighted)
    _check_finite(tokens)
    batch = replace(prepared, advantages=_tensor(tokens))
    if advantage.scales_clips:
        scales = [row for each in scored for row in advantage.clip_scales(each.shaped)]
        batch = replace(batch, clip_scale=_tensor(turns_to_tokens(trajectories, scales)))
    cost = [float(each.sum()) for each in penalties] if penalties is not None else [0.0]
    return Estimate(
        turns=tuple(turns), batch=_without_masked(batch, scored), kl_penalty=float(np.mean(cost))
    )


def _group_advantages(
    advantage: AdvantageEstimator,
    scored: Sequence[ScoredGroup],
    penalties: Sequence[Float[np.ndarray, " _"]] | None,
) -> list[Float[np.ndarray, "_ _"]]:
    """One matrix of turns a group."""
    groups = [each.shaped for each in scored]
    if penalties is not None:
        groups = _penalised(groups, penalties)
    matrices = [
        advantage(group, each.correctness) for group, each in zip(groups, scored, strict=True)
    ]
    return advantage.finish(matrices, [token_counts(group) for group in groups])


def _value_advantages(
    advantage: ValueAdvantage,
    trajectories: Sequence[Trajectory],
    prepared: TokenBatch,
    penalties: Sequence[Float[np.ndarray, " _"]] | None,
) -> tuple[list[Float[np.ndarray, " _"]], list[Float[np.ndarray, " _"]]]:
    """Advantages and returns, one vector a trajectory."""
    if prepared.values is None:
        raise ValueError(f"{type(advantage).__name__} needs the values of a critic")
    values = [each.astype(np.float64) for each in prepared.per_sequence(prepared.values)]
    rewards = [last_token_rewards(each) for each in trajectories]
    if penalties is not None:
        rewards = [have - cost for have, cost in zip(rewards, penalties, strict=True)]
    pairs = [
        advantage.token_advantages(*facts)
        for facts in zip(trajectories, rewards, values, strict=True)
    ]
    return advantage.finish_tokens([pair[0] for pair in pairs]), [pair[1] for pair in pairs]


def _distribution_advantages(
    advantage: TokenBaseline,
    scored: Sequence[ScoredGroup],
    prepared: TokenBatch,
    penalties: Sequence[Float[np.ndarray, " _"]] | None,
) -> list[Float[np.ndarray, " _"]]:
    """Advantages of the tokens of every trajectory, group by group."""
    if prepared.squared_probs is None or prepared.old_logprobs is None:
        raise ValueError(f"{type(advantage).__name__} needs the policy's distributions over tokens")
    vectors = [
        [each.astype(np.float64) for each in prepared.per_sequence(values)]
        for values in (prepared.old_logprobs, prepared.squared_probs)
    ]
    tokens: list[Float[np.ndarray, " _"]] = []
    for each in scored:
        own = slice(len(tokens), len(tokens) + len(each.shaped))
        rewards = [last_token_rewards(item) for item in each.shaped.trajectories]
        if penalties is not None:
            rewards = [r - cost for r, cost in zip(rewards, penalties[own], strict=True)]
        logprobs, squares = (part[own] for part in vectors)
        tokens += advantage.token_advantages(each.shaped.trajectories, rewards, logprobs, squares)
    return tokens


def _kl_penalties(prepared: TokenBatch, coef: float) -> list[Float[np.ndarray, " _"]] | None:
    """Cost of each token by ``coef (old_logprob - ref_logprob)``, one vector a trajectory."""
    if coef == 0:
        return None
    if prepared.old_logprobs is None or prepared.ref_logprobs is None:
        raise ValueError("kl_reward_coef needs a batch with old and reference log-probabilities")
    cost = coef * kl_k1(prepared.old_logprobs, prepared.ref_logprobs)
    return [each.astype(np.float64) for each in prepared.per_sequence(cost)]


def _penalised(
    groups: Sequence[Group], penalties: Sequence[Float[np.ndarray, " _"]]
) -> list[Group]:
    """The groups with each turn's cost taken off its reward."""
    remaining = iter(penalties)
    changed = []
    for group in groups:
        rewards = turn_rewards(group)
        for row, trajectory in enumerate(group.trajectories):
            cost = tokens_to_turns(trajectory, next(remaining))
            rewards[row, : len(cost)] -= cost
        changed.append(with_rewards(group, rewards))
    return changed


def _turn_means(
    scored: Sequence[ScoredGroup], tokens: Sequence[Float[np.ndarray, " _"]]
) -> list[Float[np.ndarray, "_ _"]]:
    """The mean of every turn's tokens, in matrices."""
    remaining = iter(tokens)
    matrices = []
    for each in scored:
        counts = token_counts(each.shaped)
        matrix = np.zeros_like(counts)
        for row, trajectory in enumerate(each.shaped.trajectories):
            sums = tokens_to_turns(trajectory, np.asarray(next(remaining), dtype=np.float64))
            matrix[row, : len(sums)] = sums / counts[row, : len(sums)]
        matrices.append(matrix)
    return matrices


def _without_masked(batch: TokenBatch, scored: Sequence[ScoredGroup]) -> TokenBatch | None:
    """The batch without the trajectories that masks take out, None if none is left."""
    is_trained = np.concatenate([each.is_trained for each in scored])
    if is_trained.all():
        return batch
    chosen = np.flatnonzero(is_trained).tolist()
    return select_sequences(batch, chosen) if chosen else None


def _trajectories(scored: Sequence[ScoredGroup]) -> list[Trajectory]:
    """All of them, as shaped."""
    return [item for each in scored for item in each.shaped.trajectories]


def _tensor(vectors: Sequence[Float[np.ndarray, " _"]]) -> Float[torch.Tensor, " token"]:
    """All vectors, one after the other."""
    return torch.from_numpy(np.concatenate(vectors).astype(np.float32))


def _check_finite(tokens: Sequence[Float[np.ndarray, " _"]]) -> None:
    """Raises ValueError for an advantage that is not finite."""
    if not all(np.isfinite(each).all() for each in tokens):
        raise ValueError("advantages must be finite, got NaN or infinity for a token")


def _check_same_episodes(played: Group, shaped: Group) -> None:
    """Raises ValueError if a shaping did more than change rewards."""
    before = [[turn.action_ids for turn in each.turns] for each in played.trajectories]
    after = [[turn.action_ids for turn in each.turns] for each in shaped.trajectories]
    if before != after:
        raise ValueError("shaping must keep the trajectories of a group and their order")
