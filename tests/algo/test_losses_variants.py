"""The critic's loss and further surrogates: loops as oracles, and their gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibadv_algo.losses.balanced import BalancedSurrogate
from calibadv_algo.losses.base import LossTokens, PolicyObjective
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.covariance import ClipCov, KlCov
from calibadv_algo.losses.gmpo import GeometricMean
from calibadv_algo.losses.kl import divergence, kl_k3
from calibadv_algo.losses.mismatch import MaskedIs
from calibadv_algo.losses.off_policy import OffPolicyMasked
from calibadv_algo.losses.sapo import Sapo
from calibadv_algo.losses.value import value_loss
from tests.algo.loss_tokens import loss_tokens

NUMBERS = st.floats(-2, 2)
TOKENS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=8)


def vectors(tokens: list[tuple[float, ...]]) -> list[Tensor]:
    return list(torch.tensor(tokens, dtype=torch.float64).T)


# The critic


@given(TOKENS)
def test_value_loss_is_the_loop(tokens: list[tuple[float, float, float]]) -> None:
    values, old, returns = vectors(tokens)
    expected = [
        0.5 * max((v - r) ** 2, (min(max(v, o - 0.5), o + 0.5) - r) ** 2) for v, o, r in tokens
    ]
    torch.testing.assert_close(
        value_loss(values, old, returns), torch.tensor(expected, dtype=torch.float64)
    )
    plain = value_loss(values, old, returns, clip=None)
    torch.testing.assert_close(plain, 0.5 * (values - returns) ** 2)


def test_a_value_that_ran_ahead_of_its_target_gets_no_gradient() -> None:
    values = torch.tensor([1.0, 0.2], requires_grad=True)
    value_loss(values, torch.zeros(2), torch.tensor([2.0, 2.0])).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([0.0, -1.8]))


# Surrogates


@given(TOKENS)
def test_dual_clip_and_sapo_are_the_loops(
    tokens: list[tuple[float, float, float]],
) -> None:
    new, old, advantages = vectors(tokens)
    two_sided, smooth = [], []
    for n, o, a in tokens:
        r = math.exp(n - o)
        two_sided.append(max(-a * min(r, 3.0), -a * min(max(r, 0.8), 1.2)))
        tau = 1.0 if a > 0 else 1.05
        smooth.append(-a * 4 / tau / (1 + math.exp(-tau * (r - 1))))
    values = loss_tokens(new, old, advantages)
    torch.testing.assert_close(
        ClippedSurrogate(dual_clip=3.0)(values), torch.tensor(two_sided).double()
    )
    torch.testing.assert_close(Sapo()(values), torch.tensor(smooth).double())


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 2)), min_size=1, max_size=8))
def test_geometric_mean_is_the_loop(tokens: list[tuple[float, float, float, int]]) -> None:
    new, old, advantages, sequence = vectors(tokens)
    expected = []
    for *_, own in tokens:
        logs, values = [], []
        for n, o, a, s in tokens:
            if s == own:
                sign = (a > 0) - (a < 0)
                clipped = min(max(n - o, -0.4), 0.4)
                logs.append(sign * min(sign * (n - o), sign * clipped))
                values.append(a)
        mean = sum(values) / len(values)
        expected.append(-mean * math.exp(sum(logs) / len(logs)))
    torch.testing.assert_close(
        GeometricMean()(loss_tokens(new, old, advantages, sequence.long())),
        torch.tensor(expected, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    "objective",
    [Sapo(), ClippedSurrogate(dual_clip=4.0), KlCov(percent=0.0), GeometricMean()],
    ids=repr,
)
def test_at_the_old_policy_all_have_the_plain_gradient(objective: PolicyObjective) -> None:
    old, advantages = torch.tensor([-1.0, -2.0]), torch.tensor([1.5, -0.5])
    new = old.clone().requires_grad_()
    objective(loss_tokens(new, old, advantages)).sum().backward()
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantages)


def test_kl_cov_holds_back_the_tokens_with_the_largest_covariance() -> None:
    advantages = torch.tensor([2.0, -1.0, 0.0, -1.0])
    new = torch.tensor([-0.1, -1.0, -1.5, -3.0])
    old = new + torch.tensor([0.5, 0.0, 0.0, 0.0])
    plain = -advantages * (new - old).exp()
    tokens = loss_tokens(new, old, advantages)
    held = KlCov(percent=25.0, coef=3.0)(tokens)
    torch.testing.assert_close(held - plain, torch.tensor([1.5, 0.0, 0.0, 0.0]))
    assert torch.equal(KlCov(percent=0.0)(tokens), plain)
    assert KlCov()(loss_tokens(torch.zeros(0), torch.zeros(0), torch.zeros(0))).shape == (0,)


def test_clip_cov_draws_from_the_open_interval_and_spares_clipped_tokens() -> None:
    advantages = torch.tensor([3.0, 3.0, -1.0, -5.0])
    new = torch.tensor([0.0, 0.0, -1.0, -1.0])
    old = torch.tensor([0.0, -1.0, -1.0, -1.0])
    # Covariances 1.5, 1.5, 0.5, 2.5; the second token is clipped.
    tokens = loss_tokens(new, old, advantages)
    plain = ClippedSurrogate()
    counts = torch.zeros(4)
    for seed in range(40):
        drawn = ClipCov(seed=seed).is_clipped(tokens) & ~plain.is_clipped(tokens)
        assert int(drawn.sum()) == 1
        torch.testing.assert_close(ClipCov(seed=seed)(tokens), plain(tokens) * ~drawn)
        counts += drawn
    assert counts[0] > 0
    assert counts[3] > 0
    assert counts[1] == counts[2] == 0
    narrow = ClipCov(low=1.0, high=1.6, share=1.0)
    assert narrow.is_clipped(tokens).tolist() == [True, True, False, False]
    nothing = torch.zeros(0)
    assert ClipCov()(loss_tokens(nothing, nothing, nothing)).shape == (0,)


class Given(PolicyObjective):
    """An objective whose loss is the tokens' advantages."""

    def __call__(self, tokens: LossTokens) -> Tensor:
        return tokens.advantages


def test_balanced_loss_by_hand() -> None:
    def balanced(*loss: float) -> list[float]:
        values = torch.tensor(loss)
        found: list[float] = BalancedSurrogate(base=Given())(
            loss_tokens(values, values, values)
        ).tolist()
        return found

    assert balanced(1.0, 3.0, -2.0, 0.0) == [1.75 * 2 / 4, 1.75 * 3 * 2 / 4, -2.0, 0.0]
    assert balanced(-1.0, -2.0) == [0.0, 0.0]
    assert balanced(1.0, 2.0) == [0.0, 0.0]
    assert balanced() == []


# Masks and weights


def test_poor_trajectories_that_became_unlikely_are_left_out() -> None:
    new = torch.tensor([-0.5, -0.1, -0.1, 0.1, -9.0])
    tokens = loss_tokens(
        new, torch.zeros(5), torch.tensor([-1.0, -1, -1, -1, 1]), torch.tensor([0, 0, 1, 1, 2])
    )
    kept = torch.tensor([False, False, True, True, True])
    plain, masked = ClippedSurrogate(), OffPolicyMasked(delta=0.2)
    assert torch.equal(masked(tokens), plain(tokens) * kept)
    assert torch.equal(masked.is_clipped(tokens), plain.is_clipped(tokens) | ~kept)
    assert masked.is_clipped(tokens).tolist() == [True, True, False, False, False]


def test_weights_out_of_bounds_are_dropped_not_truncated() -> None:
    new, old = torch.log(torch.tensor([0.1, 1.0, 3.0, 3.1])), torch.zeros(4)
    correction = MaskedIs(level="token", low=0.5, high=3.001)
    weights = correction.weights(new, old, torch.arange(4))
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 3.0, 0.0]))
    assert correction.is_truncated(weights).tolist() == [True, False, False, True]
    whole = MaskedIs().weights(
        torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3), torch.tensor([0, 0, 1])
    )
    assert whole.tolist() == [0.0, 0.0, 1.0]


def test_corrected_k3_is_k3_times_the_ratio() -> None:
    new, old, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]), torch.zeros(2)
    torch.testing.assert_close(
        divergence("k3-corrected", new, ref, old),
        kl_k3(new, ref) * torch.tensor([math.exp(0.5), 1.0]),
    )


# What counts as clipped, and settings


def test_clipped_tokens() -> None:
    new = torch.tensor([0.0, 2.0, -1.0, 0.5])
    tokens = loss_tokens(new, torch.zeros(4), torch.tensor([1.0, -1.0, -1.0, 1.0]))
    assert GeometricMean().is_clipped(tokens).tolist() == [False, False, True, True]
    assert Sapo().is_clipped(tokens).tolist() == [False] * 4
    assert KlCov().is_clipped(tokens).tolist() == [False] * 4
    assert torch.equal(
        BalancedSurrogate().is_clipped(tokens), ClippedSurrogate().is_clipped(tokens)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sapo(tau_negative=0), "tau_negative must be positive"),
        (lambda: GeometricMean(clip_low=-1), "clip_low must not be negative"),
        (lambda: KlCov(percent=200), "percent must be in"),
        (lambda: KlCov(coef=-1), "coef must not be negative"),
        (lambda: BalancedSurrogate(ratio=0), "ratio must be positive"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
