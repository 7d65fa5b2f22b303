"""LLDS: a penalty on tokens of good trajectories that become less likely.

Everything is flat over action tokens, like the losses of ``losses.py``. Turns are known, so no
chunk is recovered from masks.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Gate = Literal["token", "response", "action"]
"""Over what a drop in likelihood must be a net one to count: nothing, the trajectory, the turn."""

Preserve = Literal["not-negative", "positive"]
"""Advantages of the tokens that are protected: at least 0, or above 0."""

Norm = Literal["code", "paper", "preserved"]
"""What the penalties are averaged over.

``code``: all action tokens, as the authors' code has it. ``paper``: the protected tokens of each
trajectory, then the trajectories that have some. ``preserved``: all protected tokens.
"""

AnswerForm = Literal["paper", "code"]
"""How the weight of answer tokens follows the number of searches; see :func:`answer_coef`."""


def llds_penalty(
    logprobs: Float[Tensor, " token"],
    old_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    turn: Int[Tensor, " token"],
    *,
    coef: float = 0.2,
    gate: Gate = "action",
    preserve: Preserve = "not-negative",
    norm: Norm = "code",
    is_answer: Bool[Tensor, " token"] | None = None,
    answer_coef: float | None = None,
) -> Float[Tensor, " token"]:
    """Penalises protected tokens for what they have lost in likelihood.

    ``coef * gate * max(0, old_logprob - logprob)`` on protected tokens, 0 on others. The gate is
    1 if the sum of ``old_logprob - logprob`` over the protected tokens of the trajectory
    (``response``) or of the turn (``action``) is above 0, and has no gradient. The loss is the
    sum divided by :func:`llds_denominator`.

    **Source:** LLDS (arXiv 2512.04220); its code's ``update_policy`` for ``action`` (best) and
    ``code``.

    **Differs:** turns are known, where the original takes runs of protected model tokens for
    them: two turns with nothing in between count as two. With ``norm="paper"`` the tokens of
    a trajectory that are not protected count neither in its mean; with one advantage a
    trajectory that is the paper's mean over its tokens.

    Args:
        logprobs: Under the policy that is trained, with gradient.
        old_logprobs: Under the policy before the first update of the batch.
        advantages: One a token.
        sequence: Trajectory of each token, not negative; whole trajectories.
        turn: Turn of each token within its trajectory.
        coef: Weight; 0.2 in the paper, 0.3 for Qwen2.5-7B-Instruct.
        gate: Over what a drop must be a net one.
        preserve: Which tokens are protected. ``positive`` with ``gate="token"``,
            ``norm="preserved"`` and weight 0.1 is CalibAdv's version, whose gate never closes.
        norm: What the penalties are averaged over.
        is_answer: Tokens of the answer; for ``answer_coef`` alone.
        answer_coef: Weight of answer tokens in place of ``coef`` (LLDS-MA); None for no
            difference.

    Returns:
        Penalty of each token, not negative; all 0 where the policies are the same.

    Raises:
        ValueError: if a choice is unknown, or ``answer_coef`` is given without ``is_answer``.
    """
    _check("gate", gate, Gate)
    _check("norm", norm, Norm)
    protected = protected_tokens(advantages, preserve)
    drop = old_logprobs.detach() - logprobs
    penalty = drop.clamp(min=0) * protected * _open(drop.detach() * protected, sequence, turn, gate)
    weight: float | Tensor = coef
    if answer_coef is not None:
        if is_answer is None:
            raise ValueError("is_answer must be given with answer_coef")
        weight = torch.where(is_answer, answer_coef, coef)
    penalty = penalty * weight
    if norm == "paper":
        counts = _sums(protected.to(drop.dtype), sequence)
        penalty = penalty / counts.clamp(min=1)[sequence]
    return penalty


def llds_denominator(
    advantages: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    *,
    preserve: Preserve = "not-negative",
    norm: Norm = "code",
) -> float:
    """Counts what the sum of the penalties of a minibatch is divided by.

    **Source:** LLDS (arXiv 2512.04220), see :data:`Norm`.

    **Differs:** never 0, so that a minibatch without protected tokens has no penalty.

    Args:
        advantages: One a token, of the whole minibatch.
        sequence: Trajectory of each token, not negative.
        preserve: Which tokens are protected.
        norm: What the penalties are averaged over.

    Returns:
        A positive number.

    Raises:
        ValueError: if a choice is unknown.
    """
    _check("norm", norm, Norm)
    if norm == "code":
        return float(max(advantages.numel(), 1))
    protected = protected_tokens(advantages, preserve)
    if norm == "preserved":
        return float(max(int(protected.sum()), 1))
    return float(max(len(torch.unique(sequence[protected])), 1))


def protected_tokens(
    advantages: Float[Tensor, " token"], preserve: Preserve = "not-negative"
) -> Bool[Tensor, " token"]:
    """Marks the tokens whose likelihood is to be kept up.

    **Source:** LLDS: advantage at least 0, trajectories of undecided groups included;
    CalibAdv's version: above 0. **Differs:** nothing.

    Args:
        advantages: One a token.
        preserve: Which of the two.

    Returns:
        True at protected tokens.

    Raises:
        ValueError: if the choice is unknown.
    """
    _check("preserve", preserve, Preserve)
    return advantages > 0 if preserve == "positive" else advantages >= 0


def answer_coef(
    mean_searches: float, coef: float, *, form: AnswerForm = "paper", answer_lambda: float = 0.0
) -> float:
    """Computes the weight of answer tokens in LLDS-MA.

    - ``paper``: ``coef * min(V / 2, 1)``;
    - ``code``: ``min(answer_lambda * max(V - 1, 0), coef)``,

    with ``V`` the mean number of valid searches.

    **Source:** LLDS (arXiv 2512.04220), the answer-masked form, and its code's
    ``mask_adaptive``.

    **Differs:** nothing; the two forms disagree with one another.

    Args:
        mean_searches: Mean number of searches of the batch's trajectories, not negative.
        coef: Weight of other tokens.
        form: Which form.
        answer_lambda: Factor of the second form.

    Returns:
        The weight, in [0, coef].

    Raises:
        ValueError: if the form is unknown.
    """
    _check("form", form, AnswerForm)
    if form == "paper":
        return coef * min(mean_searches / 2, 1.0)
    return min(answer_lambda * max(mean_searches - 1, 0.0), coef)


def _open(
    drop: Float[Tensor, " token"],
    sequence: Int[Tensor, " token"],
    turn: Int[Tensor, " token"],
    gate: Gate,
) -> Float[Tensor, " token"]:
    """Tells for every token whether its gate is open, 1 or 0."""
    if gate == "token" or not drop.numel():
        return torch.ones_like(drop)
    part = sequence if gate == "response" else sequence * (int(turn.max()) + 1) + turn
    return (_sums(drop, part)[part] > 0).to(drop.dtype)


def _sums(values: Float[Tensor, " token"], part: Int[Tensor, " token"]) -> Float[Tensor, " part"]:
    """Sums values by part."""
    size = int(part.max()) + 1 if part.numel() else 0
    return values.new_zeros(size).index_add(0, part, values)


def _check(name: str, value: str, choices: object) -> None:
    """Raises ValueError for an unknown choice."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
