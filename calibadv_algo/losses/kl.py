"""Estimators of the KL divergence from a reference policy, per sampled token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from jaxtyping import Float

from calibadv_algo.losses.ratios import MAX_LOG_RATIO, probability_ratio

if TYPE_CHECKING:
    from torch import Tensor

KlEstimator = Literal["k1", "abs", "k2", "k3", "k1+", "k3+", "k3-corrected"]
"""Usual names of the estimators; ``+`` marks the straight-through ones."""

_MAX_K3: Final = 10.0


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
    """Distance from the reference, ``|logprob - ref_logprob|``.

    **Source:** verl's ``kl_penalty``. **Differs:** nothing.
    """
    return (logprobs - ref_logprobs).abs()


def kl_k2(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence by ``(logprob - ref_logprob)**2 / 2``, not negative.

    Biased in value; its gradient is unbiased. **Source:** Schulman (2020).
    **Differs:** nothing.
    """
    return 0.5 * (logprobs - ref_logprobs).square()


def kl_k3(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence by ``exp(x) - x - 1`` with ``x = ref_logprob - logprob``.

    Unbiased, 0 to 10. **Source:** Schulman (2020); GRPO's KL term.
    **Differs:** ``x`` is clamped to +-20 and the result to 10, as in verl.
    """
    x = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (x.exp() - x - 1).clamp(-_MAX_K3, _MAX_K3)


def kl_k1_straight_through(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Value of :func:`kl_k1` with the gradient of :func:`kl_k2`.

    **Source:** verl's ``k1+``. **Differs:** nothing.
    """
    return _straight_through(kl_k1(logprobs, ref_logprobs), kl_k2(logprobs, ref_logprobs))


def kl_k3_straight_through(
    logprobs: Float[Tensor, " token"], ref_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Value of :func:`kl_k3` with the gradient of :func:`kl_k2`.

    **Source:** verl's ``k3+``. **Differs:** nothing.
    """
    return _straight_through(kl_k3(logprobs, ref_logprobs), kl_k2(logprobs, ref_logprobs))


_ESTIMATORS: Final[Mapping[KlEstimator, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "k1": kl_k1,
        "abs": kl_abs,
        "k2": kl_k2,
        "k3": kl_k3,
        "k1+": kl_k1_straight_through,
        "k3+": kl_k3_straight_through,
    }
)


def divergence(
    name: KlEstimator,
    logprobs: Float[Tensor, " token"],
    ref_logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """Estimates the KL divergence from the reference by an estimator of choice.

    ``k3-corrected`` is ``r * k3`` with ``r`` the ratio of the policy to the one that sampled: k3 is
    unbiased for tokens of the policy itself, and after the first step of an update they are not.

    **Source:** for ``k3-corrected`` DeepSeek-V3.2; TRL's ``use_bias_correction_kl``. For the others
    see their functions.

    **Differs:** exponents are clamped to +-20 and k3 to 10, as in :func:`kl_k3`.

    Args:
        name: The estimator.
        logprobs: Under the policy, with gradient.
        ref_logprobs: Under the reference.
        old_logprobs: Under the policy that sampled; only ``k3-corrected`` reads them.

    Returns:
        Estimate of each token.
    """
    if name == "k3-corrected":
        return probability_ratio(logprobs, old_logprobs) * kl_k3(logprobs, ref_logprobs)
    return _ESTIMATORS[name](logprobs, ref_logprobs)


def _straight_through(
    value: Float[Tensor, " token"], gradient: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """The first tensor's value with the second one's gradient."""
    return gradient - gradient.detach() + value.detach()
