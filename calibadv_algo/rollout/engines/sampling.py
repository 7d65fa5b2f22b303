"""Turning logits into tokens, one random number per token, drawn before the turn begins.

A request's random numbers come from its own generator, and each token is the inverse of the
cumulative distribution at one of them. So what shares the batch with a request cannot change
its tokens, up to the rounding of the logits themselves.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Uniforms = NDArray[np.float64]


def draw_uniforms(seed: int, count: int) -> Uniforms:
    """Draws the random numbers of one turn.

    Args:
        seed: Seed of the turn, not negative.
        count: How many; a longer draw begins with the shorter one.

    Returns:
        ``[count]`` numbers in ``[0, 1)``.
    """
    return np.random.Generator(np.random.Philox(seed)).random(count)


def sample_tokens(
    logits: Tensor, uniforms: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Picks one token for each row.

    The log-probability is that of the tempered distribution over the whole vocabulary, before
    top-p cuts it: this is what a trainer computes from logits, and with ``top_p=1`` it is the
    distribution that was sampled from. Greedy choice reports the untempered one.

    Args:
        logits: ``[row, vocabulary]``, any floating type; computed in float32.
        uniforms: ``[row]`` float64 in ``[0, 1)``; unused when greedy.
        temperature: 0 for greedy, else the divisor of the logits.
        top_p: Mass of the nucleus in ``(0, 1]``; 1 keeps everything.

    Returns:
        Tokens ``[row]`` int64 and their log-probabilities ``[row]`` float32.
    """
    scaled = logits.float()
    if temperature not in (0.0, 1.0):
        scaled = scaled / temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    if temperature == 0.0:
        tokens = logprobs.argmax(dim=-1)
    else:
        tokens = invert_cdf(keep_nucleus(logprobs.exp(), top_p), uniforms)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Sets to zero what lies outside the smallest set of tokens with mass ``top_p``.

    Args:
        probabilities: ``[row, vocabulary]``.
        top_p: In ``(0, 1]``; the likeliest token always stays, ties go to the lower id.

    Returns:
        ``[row, vocabulary]``, not renormalised; the input itself for ``top_p=1``.
    """
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.double().cumsum(dim=-1) - ordered
    kept = torch.where(mass_before < top_p, ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter(1, order, kept)


def invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Finds the first token whose cumulative weight exceeds ``uniform * total``.

    Args:
        weights: ``[row, vocabulary]``, not negative, positive somewhere in each row.
        uniforms: ``[row]`` float64 in ``[0, 1)``.

    Returns:
        ``[row]`` token ids; never one of weight zero.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    points = torch.minimum(uniforms * total, below_total)
    return torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]
