"""Objectives as settings: the right formula with the right numbers, and what counts as clipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from calibadv_algo.losses.formulas import cispo_loss, gspo_loss, policy_loss
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.objectives import (
    Cispo,
    ClippedSurrogate,
    Gspo,
    LossTokens,
    PenalisedObjective,
)

SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 2])


def make_tokens(log_ratios: list[float], advantages: list[float]) -> LossTokens:
    """Six tokens of three sequences; the ratios are those to the old policy."""
    logprobs = torch.tensor(log_ratios) - 1.0
    return LossTokens(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=torch.full((6,), -1.0),
        sampling_logprobs=torch.full((6,), -1.0),
        advantages=torch.tensor(advantages),
        sequence=SEQUENCE,
        turn=torch.tensor([0, 0, 1, 0, 0, 0]),
        is_last_turn=torch.tensor([False, False, True, True, True, True]),
        sequence_reward=torch.zeros(6),
    )


TOKENS = ([0.5, -0.5, 0.01, 0.5, -0.5, 0.0], [1.0, 1.0, 1.0, -1.0, -1.0, 2.0])


@pytest.mark.parametrize(
    ("objective", "function", "numbers"),
    [
        (ClippedSurrogate(clip_low=0.1, clip_high=0.3), policy_loss, (0.1, 0.3)),
        (Gspo(clip_low=0.01, clip_high=0.02), gspo_loss, (0.01, 0.02)),
        (Cispo(clip_low=1.0, clip_high=0.3), cispo_loss, (1.0, 0.3)),
    ],
)
def test_an_objective_is_its_formula(objective: Any, function: Any, numbers: Any) -> None:
    tokens = make_tokens(*TOKENS)
    values = [tokens.logprobs, tokens.old_logprobs, tokens.advantages]
    if function is gspo_loss:
        values.append(tokens.sequence)
    expected = function(*values, clip_low=numbers[0], clip_high=numbers[1])
    assert torch.equal(objective(tokens), expected)


def test_dual_clip_reaches_the_formula() -> None:
    tokens = make_tokens([2.0] * 6, [-1.0] * 6)
    assert ClippedSurrogate(dual_clip=3.0)(tokens).tolist() == [3.0] * 6
    assert float(ClippedSurrogate()(tokens)[0].detach()) == pytest.approx(2.718281828**2, rel=1e-5)


@pytest.mark.parametrize("objective", [ClippedSurrogate(), ClippedSurrogate(clip_low=0.5), Gspo()])
def test_clipped_tokens_are_those_without_gradient(objective: Any) -> None:
    for signs in (1.0, -1.0):
        tokens = make_tokens(TOKENS[0], [signs * value for value in TOKENS[1]])
        (gradient,) = torch.autograd.grad(objective(tokens).sum(), tokens.logprobs)
        assert torch.equal(objective.is_clipped(tokens), gradient == 0)
    assert bool(objective.is_clipped(make_tokens([0.9] * 6, [1.0] * 6)).all())


def test_cispo_keeps_every_gradient() -> None:
    tokens = make_tokens(*TOKENS)
    (gradient,) = torch.autograd.grad(Cispo()(tokens).sum(), tokens.logprobs)
    assert bool((gradient != 0).all())
    assert Cispo().is_clipped(tokens).tolist() == [True, True, False, True, True, False]


def test_penalties_are_told_from_plain_objectives() -> None:
    assert isinstance(Llds(), PenalisedObjective)
    assert not isinstance(ClippedSurrogate(), PenalisedObjective)
