"""Diagnostics: hand-worked numbers, and alarms that ring when they should and only then."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibadv_algo.training.diagnostics import (
    action_stats,
    advantage_mass,
    approximate_kl,
    collapse_alarm,
    garbled_share,
    is_garbled,
    mispenalized,
    perplexity_stats,
    repeated_token_share,
    segment_perplexities,
)

NAN = math.nan
BAD = 1e-6


def test_mass_is_weighted_by_tokens() -> None:
    advantages = np.array([[1.0, 2.0], [-1.0, -0.5]])
    counts = np.array([[10.0, 5.0], [8.0, 4.0]])
    mass = advantage_mass(advantages, counts)
    assert mass == {
        "positive_mass": 20.0,
        "negative_mass": 10.0,
        "negative_to_positive_ratio": 0.5,
    }


def test_mass_without_a_side() -> None:
    nothing = advantage_mass(np.zeros(3), np.ones(3))
    assert (nothing["positive_mass"], nothing["negative_mass"]) == (0.0, 0.0)
    assert math.isnan(nothing["negative_to_positive_ratio"])
    assert math.copysign(1.0, nothing["negative_mass"]) == 1.0


def test_mispenalized_share_and_kept_penalty() -> None:
    grpo = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, 0.0]])
    ours = np.array([[1.0, 1.0, 1.0], [-0.5, 0.0, -1.0], [-1.0, -1.0, 0.0]])
    scores = np.array([[1.0, 1.0, NAN], [0.5, 1.0, NAN], [BAD, NAN, NAN]])
    is_search = np.array([[True, True, False], [True, True, False], [True, False, False]])
    counts = np.array([[5.0, 5.0, 5.0], [10.0, 2.0, 4.0], [3.0, 3.0, 0.0]])
    result = mispenalized(ours, grpo, scores, is_search, counts)
    assert result["num_punished_searches"] == 3.0
    assert result["mispenalized_share"] == pytest.approx(2 / 3)
    assert result["own_mispenalized_share"] == pytest.approx(1 / 2)
    assert result["kept_penalty"] == pytest.approx(5.0 / 12.0)
    same = mispenalized(grpo, grpo, scores, is_search, counts)
    assert same["kept_penalty"] == 1.0
    assert same["own_mispenalized_share"] == same["mispenalized_share"]


def test_mispenalized_without_punished_searches() -> None:
    ones = np.ones((1, 2))
    result = mispenalized(ones, ones, ones, ones > 0, ones)
    assert result["mispenalized_share"] == 0.0
    assert math.isnan(result["kept_penalty"])


def test_kl_of_nothing() -> None:
    nothing = np.zeros(0)
    assert approximate_kl(nothing, nothing) == 0.0


def test_approximate_kl_estimates_the_divergence_from_the_sampler() -> None:
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    counts = (old * 10).astype(int)
    tokens = np.repeat(np.arange(3), counts)
    estimate = approximate_kl(np.log(new)[tokens], np.log(old)[tokens])
    assert estimate == pytest.approx(float((old * np.log(old / new)).sum()))
    assert approximate_kl(np.log(old), np.log(old)) == 0.0
    assert math.isfinite(approximate_kl(np.array([900.0]), np.array([0.0])))


def test_perplexity_of_segments() -> None:
    logprobs = np.log(np.array([0.5, 0.5, 0.01, 0.01, 1.0]))
    segment = np.array([0, 0, 3, 3, 5])
    np.testing.assert_allclose(segment_perplexities(logprobs, segment), [2.0, 100.0, 1.0])
    stats = perplexity_stats(logprobs, segment)
    assert stats["high_perplexity_share"] == pytest.approx(1 / 3)
    assert stats["max_perplexity"] == pytest.approx(100.0)
    assert stats["mean_perplexity"] == pytest.approx(200.0 ** (1 / 3))
    assert perplexity_stats(np.zeros(0), np.zeros(0, dtype=np.int64))["max_perplexity"] == 0.0


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([1, 2, 3, 4, 5, 6], 0.0),
        ([7, 7, 7, 7], 3 / 4),
        ([1, 2, 1, 2, 1, 2], 3 / 6),  # the rounds 2 and 3 of a loop of two
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 8),  # the first complete repetition of four
        ([1, 2, 3, 4, 5, 1, 2, 3, 4, 5], 0.0),  # too long a unit
        ([1, 2, 1, 3], 0.0),  # coming back is not repeating
        ([5], 0.0),
        ([], 0.0),
    ],
)
def test_repeated_tokens(tokens: list[int], share: float) -> None:
    ids = np.array(tokens, dtype=np.int64)
    assert repeated_token_share(ids, np.zeros_like(ids)) == pytest.approx(share)


def test_repetition_does_not_cross_segments() -> None:
    ids = np.array([4, 4, 9, 4, 9])
    assert repeated_token_share(ids, np.array([0, 1, 1, 2, 2])) == 0.0


def test_repetition_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, 3, size=40)
        segment = np.sort(rng.integers(0, 4, size=40))
        count = 0
        for end in range(40):
            count += any(
                end - 2 * p + 1 >= 0
                and segment[end] == segment[end - 2 * p + 1]
                and list(ids[end - p + 1 : end + 1]) == list(ids[end - 2 * p + 1 : end - p + 1])
                for p in range(1, 5)
            )
        assert repeated_token_share(ids, segment) == pytest.approx(count / 40)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", False),
        ("   \n", False),
        ("<think>Where is Zürich?</think><search>Zürich canton</search>", False),
        ("<answer>Москва (Moscow)</answer>", False),
        ("東京タワーはどこですか", False),
        ("नमस्ते दुनिया", False),
        ("β decay in the α phase", False),
        ("<think> broken \ufffd bytes", True),
        ("bell \x07", True),
        ("private \ue000", True),
        ("@@{}|~~^^ a @@", True),
        ("the река 川 שלום", True),
    ],
)
def test_garbled_text(text: str, verdict: bool) -> None:
    assert is_garbled(text) is verdict


def test_garbled_share() -> None:
    assert garbled_share(["fine", "\ufffd", "also fine", "bad \x00"]) == 0.5
    assert garbled_share([]) == 0.0


def test_action_stats() -> None:
    stats = action_stats([["search", "search", "answer"], ["malformed"], ["search", "malformed"]])
    assert stats == {
        "malformed_share": pytest.approx(2 / 6),
        "mean_searches": 1.0,
        "answered_share": pytest.approx(1 / 3),
    }
    assert action_stats([]) == {"malformed_share": 0.0, "mean_searches": 0.0, "answered_share": 0.0}


def entry(reward: float, perplexity: float = 0.0, malformed: float = 0.02) -> dict[str, float]:
    return {
        "reward_mean": reward,
        "high_perplexity_share": perplexity,
        "malformed_share": malformed,
    }


def test_alarm_rings_when_the_reward_falls_and_the_text_breaks() -> None:
    history = [entry(0.4)] * 10 + [entry(0.05, perplexity=0.3)] * 5
    alarm = collapse_alarm(history)
    assert alarm.is_collapsed
    assert alarm.reasons == (
        "reward 0.05 is below 0.5 of its best 0.4",
        "high_perplexity_share 0.3 is above 0.05",
    )


def test_alarm_needs_a_second_sign() -> None:
    fallen = collapse_alarm([entry(0.4)] * 10 + [entry(0.05)] * 5)
    assert not fallen.is_collapsed
    assert len(fallen.reasons) == 1
    assert not collapse_alarm([entry(0.4, perplexity=0.3)] * 10).is_collapsed
    both = collapse_alarm([entry(0.4, perplexity=0.3, malformed=0.9)] * 10)
    assert both.is_collapsed


def test_alarm_ignores_short_or_healthy_histories() -> None:
    assert not collapse_alarm([]).is_collapsed
    assert not collapse_alarm([entry(0.0, 1.0, 1.0)] * 4).is_collapsed
    assert collapse_alarm([entry(0.0, 1.0, 1.0)] * 5).is_collapsed
    rising = [entry(0.1 + 0.02 * step) for step in range(20)]
    assert collapse_alarm(rising).reasons == ()
    assert collapse_alarm([{"reward_mean": NAN}] * 9).reasons == ()
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        collapse_alarm(rising, window=0)
