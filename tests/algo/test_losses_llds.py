"""LLDS: a loop over tokens as oracle, its gates and norms, and the objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.llds import Llds
from tests.algo.loss_tokens import batch_of, loss_tokens

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


def made(tokens: list[Token]) -> LossTokens:
    tokens = sorted(tokens, key=lambda token: token[2:])
    drops = torch.tensor([token[0] for token in tokens], dtype=torch.float64)
    old = torch.full_like(drops, -1.0)
    return loss_tokens(
        (old - drops).requires_grad_(),
        old,
        torch.tensor([token[1] for token in tokens], dtype=torch.float64),
        torch.tensor([token[2] for token in tokens], dtype=torch.int64),
        torch.tensor([token[3] for token in tokens], dtype=torch.int64),
    )


def penalty(objective: Llds, tokens: list[Token]) -> list[float]:
    values = made(tokens)
    found: list[float] = objective.penalty(values, batch_of(values)).tolist()
    return found


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
    objective = Llds(gate=gate, preserve=preserve, norm=norm)
    values = made(tokens)
    loss = objective.penalty(values, batch_of(values)).sum()
    loss = loss / objective.penalty_denominator(batch_of(values))
    assert loss.item() == pytest.approx(by_loop(tokens, gate, preserve, norm), abs=1e-12)


def test_gates_by_hand() -> None:
    # One trajectory: the first turn falls by 0.25 in all, the second one rises by 0.5.
    tokens = [(0.5, 1.0, 0, 0), (-0.25, 1.0, 0, 0), (0.5, 1.0, 0, 1), (-1.0, 1.0, 0, 1)]
    assert penalty(Llds(coef=1.0), tokens) == [0.5, 0.0, 0.0, 0.0]
    assert penalty(Llds(coef=1.0, gate="token"), tokens) == [0.5, 0.0, 0.5, 0.0]
    assert penalty(Llds(coef=1.0, gate="response"), tokens) == [0.0] * 4


def test_a_gate_needs_a_net_drop_of_protected_tokens() -> None:
    assert penalty(Llds(), [(0.5, 1.0, 0, 0), (-0.5, 1.0, 0, 0)]) == [0.0] * 2
    mixed = [(0.25, 1.0, 0, 0), (-1.0, 1.0, 0, 0), (5.0, -1.0, 0, 0)]
    for gate in ("action", "response"):
        assert penalty(Llds(gate=gate), mixed) == [0.0] * 3  # type: ignore[arg-type]


def test_only_tokens_that_fell_behind_an_open_gate_have_a_gradient() -> None:
    tokens = made([(0.5, 1.0, 0, 0), (-0.25, 1.0, 0, 0), (0.5, -1.0, 1, 0), (0.5, 0.0, 2, 0)])
    Llds(coef=0.2).penalty(tokens, batch_of(tokens)).sum().backward()
    assert tokens.logprobs.grad is not None
    torch.testing.assert_close(
        tokens.logprobs.grad, torch.tensor([-0.2, 0.0, 0.0, -0.2], dtype=torch.float64)
    )


def test_the_same_policy_has_no_penalty() -> None:
    assert penalty(Llds(), [(0.0, 1.0, 0, 0), (0.0, 0.0, 1, 0)]) == [0.0] * 2


def test_answer_tokens_have_a_weight_of_their_own() -> None:
    objective = Llds(coef=0.2, answer="fixed", answer_lambda=0.1)
    assert penalty(objective, [(0.5, 1.0, 0, 0), (0.5, 1.0, 0, 1)]) == [0.1, 0.05]


def test_the_two_forms_of_the_answers_weight() -> None:
    paper = Llds(answer="paper")
    assert [paper.answer_coef(v) for v in (0.0, 1.0, 2.0, 5.0)] == [0.0, 0.1, 0.2, 0.2]
    code = Llds(answer="code", answer_lambda=0.1)
    weights = [code.answer_coef(v) for v in (0.5, 1.5, 2.0, 9.0)]
    assert weights == pytest.approx([0.0, 0.05, 0.1, 0.2])
    assert Llds(answer="code").answer_coef(9.0) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "turn"}, "gate must be token, response or action, got 'turn'"),
        ({"norm": "mean"}, "norm must be code, paper or preserved, got 'mean'"),
        ({"preserve": "all"}, "preserve must be not-negative or positive, got 'all'"),
        ({"answer": "half"}, "answer must be full, fixed, paper or code, got 'half'"),
        ({"coef": -1}, "coef must not be negative, got -1"),
        ({"answer_lambda": -1}, "answer_lambda must not be negative, got -1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Llds(**settings)


# The objective


EXAMPLE: list[Token] = [
    (0.5, 1.0, 0, 0),
    (0.25, 1.0, 0, 1),
    (0.5, -1.0, 1, 0),
    (0.75, 0.0, 2, 0),
    (0.25, 0.0, 2, 1),
]


@pytest.mark.parametrize("base", [ClippedSurrogate(), Gspo()])
def test_the_objective_is_its_base_and_a_penalty(base: PolicyObjective) -> None:
    tokens = made(EXAMPLE)
    objective = Llds(base=base, coef=0.3, gate="response")
    torch.testing.assert_close(objective(tokens), base(tokens))
    assert torch.equal(objective.is_clipped(tokens), base.is_clipped(tokens))
    assert objective.penalty_denominator(batch_of(tokens)) == 5.0
    assert Llds(norm="paper").penalty_denominator(batch_of(tokens)) == 2.0
    assert Llds(norm="preserved").penalty_denominator(batch_of(tokens)) == 4.0


@pytest.mark.parametrize("norm", ["code", "paper", "preserved"])
@pytest.mark.parametrize("answer", ["full", "paper"])
def test_micro_batches_add_up(norm: Any, answer: Any) -> None:
    objective = Llds(norm=norm, answer=answer)
    whole = made(EXAMPLE)
    batch = batch_of(whole)
    denominator = objective.penalty_denominator(batch)
    parts = [made(EXAMPLE[:2]), made([(d, a, 0, t) for d, a, _, t in EXAMPLE[3:]])]
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
    tokens = made(EXAMPLE)
    penalty = Llds(**settings).penalty(tokens, batch_of(tokens))
    expected = torch.tensor([0.1, 0.25 * weight, 0.0, 0.15, 0.25 * weight], dtype=torch.float64)
    torch.testing.assert_close(penalty, expected)


def test_no_tokens() -> None:
    empty = made([])
    assert Llds().penalty(empty, batch_of(made(EXAMPLE))).shape == (0,)
