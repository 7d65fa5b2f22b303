"""Further policy losses that the field tries, flat over action tokens as in ``losses.py``."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MAX_LOG_RATIO: Final = 20.0


def two_sided_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    delta: float,
) -> Float[Tensor, " token"]:
    """Computes the clipped surrogate whose unclipped ratio is bounded by ``delta``.

    ``max(-A min(r, delta), -A clip(r, 1 - clip_low, 1 + clip_high))``.

    **Source:** INTELLECT-2 (arXiv 2505.07291); TRL's ``delta``.

    **Differs:** the log-ratio is clamped to +-20.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        clip_low: How far the ratio may fall below 1.
        clip_high: How far it may rise above 1.
        delta: Bound of the ratio, above ``1 + clip_high``.

    Returns:
        Loss of each token. For negative advantages it is that of the dual clip.
    """
    ratio = _ratio(logprobs, old_logprobs)
    return torch.maximum(
        -advantages * ratio.clamp(max=delta),
        -advantages * ratio.clamp(1 - clip_low, 1 + clip_high),
    )


def sapo_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Float[Tensor, " token"]:
    """Computes SAPO's loss, in which a smooth gate takes the place of the clip.

    ``-A * sigmoid(tau (r - 1)) * 4 / tau`` with ``tau_positive`` where ``A > 0``.

    **Source:** SAPO (arXiv 2511.20347); verl's ``compute_policy_loss_sapo``.

    **Differs:** nothing. To be used with ``seq-mean-token-mean``.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        tau_positive: Steepness of the gate for positive advantages, positive.
        tau_negative: Steepness for all others, positive.

    Returns:
        Loss of each token; its gradient at a ratio of 1 is that of the plain surrogate.
    """
    tau = torch.where(advantages > 0, tau_positive, tau_negative)
    gate = torch.sigmoid(tau * (_ratio(logprobs, old_logprobs) - 1)) * (4 / tau)
    return -gate * advantages


def geometric_mean_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> Float[Tensor, " token"]:
    """Computes GMPO's loss: one ratio a trajectory, from log-ratios clipped token by token.

    With ``d`` the log-ratio and ``s`` the sign of ``A``: ``exp(mean of s * min(s d, s clip(d,
    -clip_low, clip_high)))`` over the trajectory, times minus the mean of ``A``.

    **Source:** GMPO (arXiv 2507.20673); verl's ``compute_policy_loss_geo_mean``.

    **Differs:** nothing. To be used with ``seq-mean-token-mean``, which gives the mean over
    trajectories back.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token; meant to be the same for all tokens of a trajectory.
        sequence: Trajectory of each token, not negative.
        clip_low: How far a log-ratio may fall below 0.
        clip_high: How far it may rise above 0.

    Returns:
        Loss of each token, the same for all tokens of a trajectory.
    """
    sign = advantages.sign()
    log_ratio = logprobs - old_logprobs
    clipped = sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-clip_low, clip_high))
    ratio = _sequence_mean(clipped, sequence).exp()
    return -_sequence_mean(advantages, sequence) * ratio


def kl_cov_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    percent: float = 0.2,
    coef: float = 1.0,
) -> Float[Tensor, " token"]:
    """Computes KL-Cov's loss: the tokens that cost the most entropy are held back.

    ``-A r``, plus ``coef * |logprob - old_logprob|`` for the ``percent`` of tokens with the
    largest ``(A - mean A)(logprob - mean logprob)``, at least one of them.

    **Source:** KL-Cov (arXiv 2505.22617); CalibAdv's code, ``compute_policy_loss_kl_cov``.

    **Differs:** the log-ratio is clamped to +-20. The share is taken of the tokens that are
    given, so micro-batches matter, as they do there.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        percent: Share of the tokens in percent, 0 to 100; 0 means none.
        coef: Weight of the distance.

    Returns:
        Loss of each token.
    """
    loss = -advantages * _ratio(logprobs, old_logprobs)
    if percent == 0 or not loss.numel():
        return loss
    covariance = _covariance(advantages, logprobs)
    number = max(1, int(loss.numel() * min(percent, float(loss.numel())) / 100))
    held = torch.zeros_like(loss, dtype=torch.bool)
    held[covariance.topk(number).indices] = True
    return torch.where(held, loss + coef * (logprobs - old_logprobs).abs(), loss)


def clip_cov_mask(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    generator: torch.Generator,
    *,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Bool[Tensor, " token"]:
    """Draws the tokens that Clip-Cov takes out of the clipped surrogate.

    At random ``share`` of all tokens, at least one, among those that the clip leaves alone and
    whose ``(A - mean A)(logprob - mean logprob)`` lies strictly between ``low`` and ``high``.

    **Source:** Clip-Cov (arXiv 2505.22617); CalibAdv's code, ``compute_policy_loss_clip_cov``.

    **Differs:** the draw comes from the generator that is given.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        generator: Source of the draw, on the device of the tokens.
        share: Share of the tokens, 0 to 1.
        low: Covariance above which a token can be drawn.
        high: Covariance below which it can.
        clip_low: How far the ratio may fall below 1 before the clip acts.
        clip_high: How far it may rise above 1.

    Returns:
        True at tokens whose loss is to be set to 0.
    """
    ratio = _ratio(logprobs, old_logprobs).detach()
    is_clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high) > -advantages * ratio
    drawn = torch.zeros_like(is_clipped)
    if not drawn.numel():
        return drawn
    covariance = _covariance(advantages, logprobs)
    candidates = ((covariance > low) & (covariance < high) & ~is_clipped).nonzero()[:, 0]
    number = min(max(int(share * drawn.numel()), 1), len(candidates))
    order = torch.randperm(len(candidates), generator=generator, device=generator.device)
    drawn[candidates[order[:number].to(candidates.device)]] = True
    return drawn


def balanced_loss(loss: Float[Tensor, " token"], *, ratio: float = 1.75) -> Float[Tensor, " token"]:
    """Balances the signs of a loss: its positive part is brought to a multiple of its negative.

    Positive entries times ``ratio * sum of |negative ones| / sum of positive ones``; without a
    positive entry the negative ones become 0.

    **Source:** CalibAdv's code, ``compute_policy_loss_balance``; by the signs of the loss, not
    of the advantage.

    **Differs:** the factor has no gradient; in the original it has one. It depends on all
    tokens that are given, so micro-batches matter, as they do there.

    Args:
        loss: Loss of each token, such as the clipped surrogate's.
        ratio: Positive over negative sum to reach, positive.

    Returns:
        Loss of each token.
    """
    positive = float(loss.detach().clamp(min=0).sum())
    negative = -float(loss.detach().clamp(max=0).sum())
    if positive == 0:
        return loss * (loss > 0)
    return torch.where(loss > 0, loss * (ratio * negative / positive), loss)


def off_policy_mask(
    logprobs: Float[Tensor, " token"],
    sampling_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    *,
    delta: float,
) -> Bool[Tensor, " token"]:
    """Marks tokens that may be trained on: those of good or of still likely trajectories.

    Kept where ``A >= 0`` or the trajectory's mean of ``sampling_logprob - logprob`` is at most
    ``delta``.

    **Source:** DeepSeek-V3.2; TRL's off-policy sequence mask. **Differs:** nothing.

    Args:
        logprobs: Under the policy that is trained.
        sampling_logprobs: As the engine reported them.
        advantages: One a token.
        sequence: Trajectory of each token, not negative.
        delta: Largest mean loss of likelihood of a poor trajectory, not negative.

    Returns:
        True at tokens that are kept.
    """
    gap = _sequence_mean((sampling_logprobs - logprobs).detach(), sequence)
    return (advantages >= 0) | (gap <= delta)


def rejection_weights(
    weights: Float[Tensor, " token"], *, low: float = 0.0, high: float = math.inf
) -> Float[Tensor, " token"]:
    """Drops tokens whose importance weight is out of bounds, and keeps the weights of the rest.

    **Source:** masked importance sampling, as in verl's rollout correction; TRL's
    ``sequence_mask`` with ``high=3`` on weights of whole trajectories. **Differs:** nothing.

    Args:
        weights: Importance weights, not truncated, of tokens or of whole trajectories.
        low: Least weight that is kept.
        high: Largest weight that is kept.

    Returns:
        The weights, 0 where they are out of bounds; without gradient.
    """
    kept = (weights >= low) & (weights <= high)
    return torch.where(kept, weights, torch.zeros_like(weights)).detach()


def corrected_k3(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    ref_logprobs: Float[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence by k3, weighted for the policy having moved on.

    ``r * (exp(x) - x - 1)`` with ``x = ref_logprob - logprob`` and ``r`` the ratio of the new
    to the sampling policy.

    **Source:** DeepSeek-V3.2; TRL's ``use_bias_correction_kl``.

    **Differs:** exponents are clamped to +-20 and k3 to 10, as in
    :func:`~calibadv_algo.losses.formulas.kl_k3`.

    Args:
        logprobs: Under the policy, with gradient.
        old_logprobs: Under the policy that sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token, not negative.
    """
    x = (ref_logprobs - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return _ratio(logprobs, old_logprobs) * (x.exp() - x - 1).clamp(max=10.0)


def _ratio(
    logprobs: Float[Tensor, " token"], old_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Computes the likelihood ratio with a clamped exponent."""
    return (logprobs - old_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _covariance(
    advantages: Float[Tensor, " token"], logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Each token's share in the covariance of advantage and log-prob."""
    likely = logprobs.detach()
    return (advantages - advantages.mean()) * (likely - likely.mean())


def _sequence_mean(
    values: Float[Tensor, " token"], sequence: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """The mean over its trajectory, for every token."""
    counts = torch.bincount(sequence)
    sums = values.new_zeros(len(counts)).index_add(0, sequence, values)
    return (sums / counts.clamp(min=1))[sequence]
