"""LLDS: a loop over tokens as oracle, its gates and norms, and the objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibadv_algo.batching import TokenBatch
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.llds_formulas import (
    answer_coef,
    llds_denominator,
    llds_penalty,
    protected_tokens,
)
from calibadv_algo.losses.objectives import ClippedSurrogate, Gspo, LossTokens, PenalisedObjective

Token = tuple[float, float, int, int]
"""Drop in likelihood, advantage, sequence, turn."""

TOKENS = st.lists(
    st.tuples(
        st.sampled_from([-1.0, -0.25, 0.0, 0.5, 0.75]),
        st.sampled_from([-1.0, 0.0, 1.0]),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=10,
)


def columns(tokens: list[Token]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log-probs that are trained, old ones, advantages, sequence, turn."""
    tokens = sorted(tokens, key=lambda token: token[2:])
    drops = torch.tensor([token[0] for token in tokens], dtype=torch.float64)
    old = torch.full_like(drops, -1.0)
    advantages = torch.tensor([token[1] for token in tokens], dtype=torch.float64)
    sequence = torch.tensor([token[2] for token in tokens], dtype=torch.int64)
    turn = torch.tensor([token[3] for token in tokens], dtype=torch.int64)
    return (old - drops).requires_grad_(), old, advantages, sequence, turn


def by_loop(tokens: list[Token], gate: str, preserve: str, norm: str) -> float:
    """The loss, one token at a time."""
    kept = [t for t in tokens if (t[1] > 0 if preserve == "positive" else t[1] >= 0)]
    part = {"token": lambda t: None, "response": lambda t: t[2], "action": lambda t: t[2:]}[gate]
    total = 0.0
    for token in kept:
        is_open = gate == "token" or sum(t[0] for t in kept if part(t) == part(token)) > 0
        value = 0.2 * max(0.0, token[0]) * is_open
        total += value / sum(t[2] == token[2] for t in kept) if norm == "paper" else value
    divisor = {
        "code": len(tokens),
        "paper": len({t[2] for t in kept}),
        "preserved": len(kept),
    }[norm]
    return total / max(divisor, 1)


@given(
    TOKENS,
    st.sampled_from(["token", "response", "action"]),
    st.sampled_from(["not-negative", "positive"]),
    st.sampled_from(["code", "paper", "preserved"]),
)
def test_llds_is_the_loop(tokens: list[Token], gate: Any, preserve: Any, norm: Any) -> None:
    logprobs, old, advantages, sequence, turn = columns(tokens)
    penalty = llds_penalty(
        logprobs, old, advantages, sequence, turn, gate=gate, preserve=preserve, norm=norm
    )
    loss = penalty.sum() / llds_denominator(advantages, sequence, preserve=preserve, norm=norm)
    assert loss.item() == pytest.approx(by_loop(tokens, gate, preserve, norm), abs=1e-12)


def test_gates_by_hand() -> None:
    # One trajectory: the first turn falls by 0.25 in all, the second one rises by 0.5.
    tokens = [(0.5, 1.0, 0, 0), (-0.25, 1.0, 0, 0), (0.5, 1.0, 0, 1), (-1.0, 1.0, 0, 1)]
    arguments = columns(tokens)
    assert llds_penalty(*arguments, coef=1.0).tolist() == [0.5, 0.0, 0.0, 0.0]
    assert llds_penalty(*arguments, coef=1.0, gate="token").tolist() == [0.5, 0.0, 0.5, 0.0]
    assert not llds_penalty(*arguments, coef=1.0, gate="response").any()


def test_a_gate_needs_a_net_drop_of_protected_tokens() -> None:
    even = columns([(0.5, 1.0, 0, 0), (-0.5, 1.0, 0, 0)])
    assert not llds_penalty(*even).any()
    mixed = columns([(0.25, 1.0, 0, 0), (-1.0, 1.0, 0, 0), (5.0, -1.0, 0, 0)])
    for gate in ("action", "response"):
        assert not llds_penalty(*mixed, gate=gate).any()


def test_only_tokens_that_fell_behind_an_open_gate_have_a_gradient() -> None:
    tokens = [(0.5, 1.0, 0, 0), (-0.25, 1.0, 0, 0), (0.5, -1.0, 1, 0), (0.5, 0.0, 2, 0)]
    logprobs, *others = columns(tokens)
    llds_penalty(logprobs, *others, coef=0.2).sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(
        logprobs.grad, torch.tensor([-0.2, 0.0, 0.0, -0.2], dtype=torch.float64)
    )


def test_the_same_policy_has_no_penalty() -> None:
    logprobs, _, advantages, sequence, turn = columns([(0.0, 1.0, 0, 0), (0.0, 0.0, 1, 0)])
    assert not llds_penalty(logprobs, logprobs, advantages, sequence, turn).any()


def test_answer_tokens_have_a_weight_of_their_own() -> None:
    arguments = columns([(0.5, 1.0, 0, 0), (0.5, 1.0, 0, 1)])
    answers = torch.tensor([False, True])
    penalty = llds_penalty(*arguments, coef=0.2, is_answer=answers, answer_coef=0.1)
    torch.testing.assert_close(penalty, torch.tensor([0.1, 0.05], dtype=torch.float64))
    with pytest.raises(ValueError, match="is_answer must be given"):
        llds_penalty(*arguments, answer_coef=0.1)


def test_the_two_forms_of_the_answers_weight() -> None:
    assert [answer_coef(v, 0.2) for v in (0.0, 1.0, 2.0, 5.0)] == [0.0, 0.1, 0.2, 0.2]
    weights = [answer_coef(v, 0.2, form="code", answer_lambda=0.1) for v in (0.5, 1.5, 2.0, 9.0)]
    assert weights == pytest.approx([0.0, 0.05, 0.1, 0.2])
    assert answer_coef(9.0, 0.2, form="code") == 0.0


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gate", lambda a: llds_penalty(*a, gate="turn")),
        ("norm", lambda a: llds_penalty(*a, norm="mean")),
        ("norm", lambda a: llds_denominator(a[2], a[3], norm="mean")),
        ("preserve", lambda a: protected_tokens(a[2], "all")),
        ("form", lambda a: answer_coef(1.0, 0.2, form="x")),
        ("gate", lambda a: Llds(gate="turn")),
        ("answer", lambda a: Llds(answer="half")),
        ("coef", lambda a: Llds(coef=-1)),
    ],
)
def test_bad_choices_are_named(name: str, make: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(columns([(0.5, 1.0, 0, 0)]))


# The objective


def loss_tokens(tokens: list[Token]) -> LossTokens:
    logprobs, old, advantages, sequence, turn = columns(tokens)
    pairs = list(zip(sequence.tolist(), turn.tolist(), strict=True))
    is_last = [turn == max(t for s, t in pairs if s == own) for own, turn in pairs]
    return LossTokens(
        logprobs=logprobs,
        old_logprobs=old,
        sampling_logprobs=old,
        advantages=advantages,
        sequence=sequence,
        turn=turn,
        is_last_turn=torch.tensor(is_last, dtype=torch.bool),
        sequence_reward=torch.zeros_like(advantages),
    )


def batch_of(tokens: LossTokens) -> TokenBatch:
    """The same tokens as a batch without prompts and observations."""
    count = len(tokens.advantages)
    lengths = torch.bincount(tokens.sequence)
    return TokenBatch(
        input_ids=torch.zeros(count, dtype=torch.int64),
        sequence_starts=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        action_mask=torch.ones(count, dtype=torch.bool),
        advantages=tokens.advantages.float(),
        sampling_logprobs=tokens.old_logprobs.float(),
        sequence=tokens.sequence,
        turn=tokens.turn,
    )


EXAMPLE: list[Token] = [
    (0.5, 1.0, 0, 0),
    (0.25, 1.0, 0, 1),
    (0.5, -1.0, 1, 0),
    (0.75, 0.0, 2, 0),
    (0.25, 0.0, 2, 1),
]


@pytest.mark.parametrize("base", [ClippedSurrogate(), Gspo()])
def test_the_objective_is_its_base_and_a_penalty(base: ClippedSurrogate | Gspo) -> None:
    tokens = loss_tokens(EXAMPLE)
    objective = Llds(base=base, coef=0.3, gate="response")
    assert isinstance(objective, PenalisedObjective)
    torch.testing.assert_close(objective(tokens), base(tokens))
    assert torch.equal(objective.is_clipped(tokens), base.is_clipped(tokens))
    expected = llds_penalty(
        tokens.logprobs,
        tokens.old_logprobs,
        tokens.advantages,
        tokens.sequence,
        tokens.turn,
        coef=0.3,
        gate="response",
    )
    torch.testing.assert_close(objective.penalty(tokens, batch_of(tokens)), expected)
    assert objective.penalty_denominator(batch_of(tokens)) == 5.0
    assert Llds(norm="paper").penalty_denominator(batch_of(tokens)) == 2.0
    assert Llds(norm="preserved").penalty_denominator(batch_of(tokens)) == 4.0


@pytest.mark.parametrize("norm", ["code", "paper", "preserved"])
@pytest.mark.parametrize("answer", ["full", "paper"])
def test_micro_batches_add_up(norm: Any, answer: Any) -> None:
    objective = Llds(norm=norm, answer=answer)
    whole = loss_tokens(EXAMPLE)
    batch = batch_of(whole)
    denominator = objective.penalty_denominator(batch)
    parts = [loss_tokens(EXAMPLE[:2]), loss_tokens([(d, a, 0, t) for d, a, _, t in EXAMPLE[3:]])]
    total = (
        sum(float(objective.penalty(part, batch).detach().sum()) for part in parts) / denominator
    )
    assert total == pytest.approx(
        float(objective.penalty(whole, batch).detach().sum()) / denominator
    )


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({}, 0.2),
        ({"answer": "fixed", "answer_lambda": 0.05}, 0.05),
        ({"answer": "paper"}, 0.2 * (2 / 3) / 2),
        ({"answer": "code", "answer_lambda": 5.0}, 0.0),
    ],
)
def test_answer_masked_forms(settings: dict[str, Any], weight: float) -> None:
    # Trajectories 0 and 2 have one turn before the last, trajectory 1 has none.
    tokens = loss_tokens(EXAMPLE)
    penalty = Llds(**settings).penalty(tokens, batch_of(tokens))
    expected = torch.tensor([0.1, 0.25 * weight, 0.0, 0.15, 0.25 * weight], dtype=torch.float64)
    torch.testing.assert_close(penalty, expected)


def test_no_tokens() -> None:
    empty = loss_tokens([])
    assert Llds().penalty(empty, batch_of(loss_tokens(EXAMPLE))).shape == (0,)
