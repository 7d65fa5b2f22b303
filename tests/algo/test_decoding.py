"""Inverse-CDF sampling: right frequencies, right log-probabilities, nothing impossible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.rollout.engines.decoding import (
    draw_uniforms,
    invert_cdf,
    keep_nucleus,
    sample_tokens,
)

LOGITS = torch.tensor([[1.0, -1.0, float("-inf"), 2.0, 0.5]])


def frequencies(temperature: float, top_p: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    uniforms = torch.from_numpy(draw_uniforms(3, 40_000))
    tokens, _ = sample_tokens(LOGITS.expand(40_000, -1), uniforms, temperature, top_p)
    return np.bincount(tokens.numpy(), minlength=5) / 40_000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_distribution(temperature: float) -> None:
    expected = torch.softmax(LOGITS[0] / temperature, dim=-1).numpy()
    np.testing.assert_allclose(frequencies(temperature, 1.0), expected, atol=0.01)


def test_top_p_keeps_the_smallest_set_with_the_mass() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.97, 0.01, 0.01, 0.01]])
    kept = keep_nucleus(probabilities, 0.6)
    assert kept.tolist() == [pytest.approx([0, 0.4, 0.3, 0]), pytest.approx([0.97, 0, 0, 0])]
    assert keep_nucleus(probabilities, 1.0) is probabilities
    weights = torch.softmax(LOGITS[0], dim=-1).numpy()
    expected = np.array([weights[0], 0, 0, weights[3], 0]) / (weights[0] + weights[3])
    np.testing.assert_allclose(frequencies(1.0, 0.7), expected, atol=0.01)


def test_logprobs_are_those_before_truncation() -> None:
    uniforms = torch.tensor([0.0], dtype=torch.float64)
    tokens, logprobs = sample_tokens(LOGITS, uniforms, 2.0, 0.3)
    assert tokens.tolist() == [3]
    assert logprobs[0] == pytest.approx(float(torch.log_softmax(LOGITS / 2.0, -1)[0, 3]))


def test_greedy_takes_the_likeliest_and_reports_the_untempered() -> None:
    uniforms = torch.zeros(1, dtype=torch.float64)
    tokens, logprobs = sample_tokens(LOGITS, uniforms, 0.0, 1.0)
    assert tokens.tolist() == [3]
    assert logprobs[0] == pytest.approx(float(torch.log_softmax(LOGITS, -1)[0, 3]))


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.3, 1.0]), min_size=1, max_size=30),
    uniform=st.sampled_from([0.0, 0.5, 1 - 2**-53, 1 - 2**-30]),
)
def test_a_token_of_weight_zero_is_never_drawn(weights: list[float], uniform: float) -> None:
    if not any(weights):
        weights[-1] = 1.0
    row = torch.tensor([weights], dtype=torch.float32)
    (token,) = invert_cdf(row, torch.tensor([uniform], dtype=torch.float64)).tolist()
    assert weights[token] > 0


def test_uniforms_are_a_function_of_the_seed_and_extend_each_other() -> None:
    assert draw_uniforms(7, 20)[:5].tolist() == draw_uniforms(7, 5).tolist()
    assert draw_uniforms(7, 5).tolist() != draw_uniforms(8, 5).tolist()
