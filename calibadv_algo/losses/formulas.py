"""Policy losses, KL estimators, entropy and aggregation on flat vectors of action tokens.

There is no padding and no mask: a vector holds sampled tokens alone, and ``sequence`` says
which trajectory each belongs to. Losses come out per token and are reduced by
:func:`aggregate`, so that a minibatch may be cut into micro-batches in any way. Empty vectors
give 0, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Aggregation = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
"""How per-token losses become a number; see :func:`aggregate`."""

_MAX_LOG_RATIO: Final = 20.0
_MAX_GSPO_LOG_RATIO: Final = 10.0
_MAX_K3: Final = 10.0


def policy_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Float[Tensor, " token"]:
    """Computes PPO's clipped surrogate.

    ``max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))`` with
    ``r = exp(clamp(logprob - old_logprob, -20, 20))``; with a dual clip ``c``, where ``A < 0``,
    no more than ``-A c``.

    **Source:** PPO (arXiv 1707.06347, eq. 7); clip-higher: DAPO (arXiv 2503.14476, eq. 8);
    dual clip: arXiv 1912.09729, eq. 5.

    **Differs:** the log-ratio is clamped, as in verl.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        clip_low: How far the ratio may fall below 1, 0 to 1.
        clip_high: How far it may rise above 1; 0.28 in DAPO.
        dual_clip: Bound of the ratio for negative advantages, above 1 (3 in verl); None for
            none, as in CalibAdv.

    Returns:
        Loss of each token.
    """
    ratio = _ratio(logprobs, old_logprobs)
    loss = torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    )
    if dual_clip is None:
        return loss
    bounded = torch.minimum(loss, -advantages * dual_clip)
    return torch.where(advantages < 0, bounded, loss)


def gspo_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Float[Tensor, " token"]:
    """Computes GSPO's loss: the clipped surrogate with one ratio for a whole trajectory.

    The log-ratio is the mean of ``logprob - old_logprob`` over the trajectory's tokens. Its
    gradient reaches each token through that token's own log-prob.

    **Source:** GSPO (arXiv 2507.18071, eq. 5 and the token-level form, eq. 13).

    **Differs:** the log-ratio is at most 10, as in verl. To be used with
    ``seq-mean-token-mean``.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        sequence: Trajectory of each token, not negative.
        clip_low: How far the ratio may fall below 1.
        clip_high: How far it may rise above 1.

    Returns:
        Loss of each token.
    """
    log_ratio = (logprobs - old_logprobs).detach()
    counts = torch.bincount(sequence)
    sums = torch.zeros(len(counts), dtype=log_ratio.dtype, device=log_ratio.device)
    sums = sums.index_add(0, sequence, log_ratio)
    mean = (sums / counts.clamp(min=1))[sequence]
    exponent = (logprobs - logprobs.detach() + mean).clamp(max=_MAX_GSPO_LOG_RATIO)
    ratio = exponent.exp()
    return torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    )


def cispo_loss(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, " token"]:
    """Computes CISPO's loss: REINFORCE with a clipped, constant importance weight.

    ``-stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) * A * logprob``. No token loses its
    gradient. With ``clip_low=1`` the weight is bounded from above alone.

    **Source:** CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

    **Differs:** the log-ratio is clamped to +-20, as in verl. TRL's ``epsilon_high`` is the
    bound itself, ours is how far it lies above 1.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        clip_low: How far the weight may fall below 1.
        clip_high: How far it may rise above 1.

    Returns:
        Loss of each token.
    """
    weight = _ratio(logprobs, old_logprobs).clamp(1 - clip_low, 1 + clip_high).detach()
    return -weight * advantages * logprobs


def aggregate(
    loss: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    mode: Aggregation = "token-mean",
    *,
    denominator: float | None = None,
) -> Float[Tensor, ""]:
    """Reduces per-token losses to a number.

    - ``token-mean``: sum over tokens / number of tokens (DAPO, CalibAdv);
    - ``seq-mean-token-sum``: sum over tokens / number of sequences;
    - ``seq-mean-token-mean``: mean over each sequence, then over sequences (GRPO, GSPO);
    - ``seq-mean-token-sum-norm``: sum over tokens / a constant (Dr. GRPO).

    **Source:** verl's ``agg_loss``; Dr. GRPO (arXiv 2503.20783).

    **Differs:** the denominator is explicit. Given that of the whole minibatch, the results of
    its micro-batches add up to the minibatch's loss, however it is cut between sequences; the
    authors of CalibAdv average over micro-batches instead, which depends on the cut.

    Args:
        loss: Loss of each token.
        sequence: Trajectory of each token, not negative; the numbers may have gaps.
        mode: How to reduce.
        denominator: Number of tokens (first mode), of sequences with a token (second and
            third), or the constant (last) to divide by, positive. None counts the given
            tokens or sequences.

    Returns:
        The loss; 0 without tokens.

    Raises:
        ValueError: if the mode is unknown, the denominator is not positive, or it is missing
            for ``seq-mean-token-sum-norm``.
    """
    if denominator is not None and not denominator > 0:
        raise ValueError(f"denominator must be positive, got {denominator}")
    if mode == "token-mean":
        return loss.sum() / (denominator or max(loss.numel(), 1))
    if mode == "seq-mean-token-sum-norm":
        if denominator is None:
            raise ValueError("denominator must be given for seq-mean-token-sum-norm, got None")
        return loss.sum() / denominator
    if mode not in ("seq-mean-token-sum", "seq-mean-token-mean"):
        raise ValueError(f"mode must be one of {get_args(Aggregation)}, got {mode!r}")
    counts = torch.bincount(sequence)
    divisor = denominator or (counts > 0).sum().clamp(min=1)
    if mode == "seq-mean-token-mean":
        loss = loss / counts[sequence]
    return loss.sum() / divisor


def kl_k1(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence from the reference by ``logprob - ref_logprob``.

    Unbiased, of either sign. **Source:** Schulman, "Approximating KL divergence" (2020).
    **Differs:** nothing.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token.
    """
    return logprobs - ref_logprobs


def kl_abs(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Measures the distance from the reference by ``|logprob - ref_logprob|``.

    **Source:** verl's ``kl_penalty``. **Differs:** nothing.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Distance of each token.
    """
    return (logprobs - ref_logprobs).abs()


def kl_k2(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence by ``(logprob - ref_logprob)**2 / 2``.

    Biased in value; its gradient is unbiased. **Source:** Schulman (2020).
    **Differs:** nothing.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token, not negative.
    """
    return 0.5 * (logprobs - ref_logprobs).square()


def kl_k3(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence by ``exp(x) - x - 1`` with ``x = ref_logprob - logprob``.

    Unbiased and not negative. **Source:** Schulman (2020); GRPO's KL term.
    **Differs:** ``x`` is clamped to +-20 and the result to 10, as in verl.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token, 0 to 10.
    """
    x = (ref_logprobs - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return (x.exp() - x - 1).clamp(-_MAX_K3, _MAX_K3)


def kl_k1_straight_through(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Has the value of :func:`kl_k1` and the gradient of :func:`kl_k2`.

    **Source:** verl's ``k1+``. **Differs:** nothing.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token.
    """
    return _straight_through(kl_k1(logprobs, ref_logprobs), kl_k2(logprobs, ref_logprobs))


def kl_k3_straight_through(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Has the value of :func:`kl_k3` and the gradient of :func:`kl_k2`.

    **Source:** verl's ``k3+``. **Differs:** nothing.

    Args:
        logprobs: Under the policy, of tokens that it sampled.
        ref_logprobs: Under the reference.

    Returns:
        Estimate of each token, 0 to 10.
    """
    return _straight_through(kl_k3(logprobs, ref_logprobs), kl_k2(logprobs, ref_logprobs))


KL_ESTIMATORS: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "k1": kl_k1,
        "abs": kl_abs,
        "k2": kl_k2,
        "k3": kl_k3,
        "k1+": kl_k1_straight_through,
        "k3+": kl_k3_straight_through,
    }
)
"""The estimators by their usual names; ``+`` marks the straight-through ones."""


def entropy_from_logits(logits: Float[Tensor, "token vocabulary"]) -> Float[Tensor, " token"]:
    """Computes the entropy of the next-token distributions, in nats.

    ``logsumexp(z) - sum(softmax(z) * z)``. **Source:** definition. **Differs:** nothing; a
    vocabulary entry with logit ``-inf`` counts as probability 0.

    Args:
        logits: Unnormalised log-probabilities, tempered as when sampling.

    Returns:
        Entropy of each token, not negative up to rounding.
    """
    probabilities = logits.softmax(dim=-1)
    finite = torch.where(probabilities > 0, logits, torch.zeros_like(logits))
    return logits.logsumexp(dim=-1) - (probabilities * finite).sum(dim=-1)


def token_importance_weights(
    old_logprobs: Float[Tensor, " token"],
    sampling_logprobs: Float[Tensor, " token"],
    *,
    cap: float = 2.0,
) -> Float[Tensor, " token"]:
    """Weighs tokens for the mismatch between the engine that sampled and the trainer.

    ``min(exp(clamp(old_logprob - sampling_logprob, -20, 20)), cap)``, without gradient; it
    multiplies the per-token loss.

    **Source:** truncated importance sampling, as in verl's rollout correction.

    **Differs:** nothing. Where ``old_logprobs`` are the sampling ones, all weights are 1.

    Args:
        old_logprobs: Under the trainer's policy before the first update.
        sampling_logprobs: As the engine reported them.
        cap: Largest weight, positive.

    Returns:
        Weight of each token, in (0, cap].
    """
    return _ratio(old_logprobs, sampling_logprobs).clamp(max=cap).detach()


def sequence_importance_weights(
    old_logprobs: Float[Tensor, " token"],
    sampling_logprobs: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    *,
    cap: float = 2.0,
) -> Float[Tensor, " token"]:
    """Weighs whole trajectories for the mismatch between engine and trainer.

    As :func:`token_importance_weights`, with the log-ratios summed over the trajectory
    before they are clamped.

    **Source:** truncated importance sampling, as in verl's rollout correction.

    **Differs:** nothing.

    Args:
        old_logprobs: Under the trainer's policy before the first update.
        sampling_logprobs: As the engine reported them.
        sequence: Trajectory of each token, not negative.
        cap: Largest weight, positive.

    Returns:
        Weight of each token, the same for all tokens of a trajectory.
    """
    log_ratio = (old_logprobs - sampling_logprobs).detach()
    num_sequences = len(torch.bincount(sequence))
    sums = torch.zeros(num_sequences, dtype=log_ratio.dtype, device=log_ratio.device)
    sums = sums.index_add(0, sequence, log_ratio)
    return sums.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp().clamp(max=cap)[sequence]


def _ratio(
    logprobs: Float[Tensor, " token"], old_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Computes the likelihood ratio with a clamped exponent."""
    return (logprobs - old_logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _straight_through(
    value: Float[Tensor, " token"], gradient: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Returns the first tensor's value with the second one's gradient."""
    return gradient - gradient.detach() + value.detach()
