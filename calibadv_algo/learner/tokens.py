"""Tokens of a micro-batch as a loss sees them, and what is known of them after the step.

A token whose log-probability is not finite is counted and left out, so that it does not spoil the
step of all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibadv_algo.batching import TokenBatch
from calibadv_algo.losses.base import LossTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Log-probabilities and entropies of the trained tokens, in the order of training.

    Attributes:
        logprobs: Log-probabilities just before the step that used them.
        old_logprobs: Log-probabilities before the update.
        advantages: Advantages.
        is_clipped: Whether the objective's clip removed or bounded the gradient.
        entropies: Entropies of the tokens' distributions, in nats.
        ref_logprobs: Log-probabilities under the reference policy, if there is one.
    """

    logprobs: Float[Tensor, " token"]
    old_logprobs: Float[Tensor, " token"]
    advantages: Float[Tensor, " token"]
    is_clipped: Bool[Tensor, " token"]
    entropies: Float[Tensor, " token"]
    ref_logprobs: Float[Tensor, " token"] | None


def loss_tokens(batch: TokenBatch, logprobs: Float[Tensor, " token"]) -> LossTokens:
    """Per-token inputs of an objective.

    Args:
        batch: Whole sequences; without old log-probabilities those of the sampling stand for
            them, and returns that are not known are NaN.
        logprobs: Of its action tokens under the policy that learns, with gradient.
    """
    old, rewards = batch.old_logprobs, batch.sequence_rewards
    unknown = torch.full_like(batch.advantages, math.nan)
    return LossTokens(
        logprobs=logprobs,
        old_logprobs=batch.sampling_logprobs if old is None else old,
        sampling_logprobs=batch.sampling_logprobs,
        advantages=batch.advantages,
        sequence=batch.sequence,
        turn=batch.turn,
        is_last_turn=batch.is_last_turn,
        sequence_reward=unknown if rewards is None else rewards[batch.sequence],
        clip_scale=batch.clip_scale,
    )


def is_scorable(
    tokens: LossTokens, ref_logprobs: Float[Tensor, " token"] | None
) -> Bool[Tensor, " token"]:
    """Tokens with finite log-probabilities under everybody who is compared.

    A token that the policy cannot have sampled, or that lies outside of what a half-precision
    forward pass can tell, has -inf: left in, it would make the loss of the whole minibatch NaN.
    """
    found = tokens.logprobs.detach().isfinite() & tokens.old_logprobs.isfinite()
    found = found & tokens.sampling_logprobs.isfinite()
    return found if ref_logprobs is None else found & ref_logprobs.isfinite()


def without_unscorable(
    tokens: LossTokens,
    ref_logprobs: Float[Tensor, " token"] | None,
    is_scored: Bool[Tensor, " token"],
) -> tuple[LossTokens, Float[Tensor, " token"] | None]:
    """The tokens with 0 in the place of log-probabilities that are not finite."""
    if bool(is_scored.all()):
        return tokens, ref_logprobs
    names = ("logprobs", "old_logprobs", "sampling_logprobs")
    filled = {name: getattr(tokens, name).where(is_scored, 0.0) for name in names}
    reference = None if ref_logprobs is None else ref_logprobs.where(is_scored, 0.0)
    return replace(tokens, **filled), reference


def kept(
    values: Float[Tensor, " token"], is_scored: Bool[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Values of tokens, 0 where a token cannot be scored."""
    return values if bool(is_scored.all()) else values.where(is_scored, 0.0)


def chosen_scores(scores: TokenScores, chosen: Bool[Tensor, " token"]) -> TokenScores:
    """The scores of some tokens."""
    if bool(chosen.all()):
        return scores
    values: dict[str, Any] = {}
    for item in fields(TokenScores):
        each = getattr(scores, item.name)
        values[item.name] = None if each is None else each[chosen]
    return TokenScores(**values)


def token_scores(
    tokens: LossTokens,
    ref_logprobs: Float[Tensor, " token"] | None,
    entropies: Float[Tensor, " token"],
    is_clipped: Bool[Tensor, " token"],
) -> TokenScores:
    """Scores of a micro-batch, on the CPU and without gradients."""
    return TokenScores(
        logprobs=tokens.logprobs.detach().cpu(),
        old_logprobs=tokens.old_logprobs.cpu(),
        advantages=tokens.advantages.cpu(),
        is_clipped=is_clipped.cpu(),
        entropies=entropies.detach().cpu(),
        ref_logprobs=None if ref_logprobs is None else ref_logprobs.cpu(),
    )


def join_scores(scores: Sequence[TokenScores]) -> TokenScores:
    """The tokens of all micro-batches, one after the other."""
    empty = torch.zeros(0)
    refs = [item.ref_logprobs for item in scores if item.ref_logprobs is not None]
    return TokenScores(
        logprobs=torch.cat([empty, *(item.logprobs for item in scores)]),
        old_logprobs=torch.cat([empty, *(item.old_logprobs for item in scores)]),
        advantages=torch.cat([empty, *(item.advantages for item in scores)]),
        is_clipped=torch.cat([empty.bool(), *(item.is_clipped for item in scores)]),
        entropies=torch.cat([empty, *(item.entropies for item in scores)]),
        ref_logprobs=torch.cat(refs) if refs else None,
    )
