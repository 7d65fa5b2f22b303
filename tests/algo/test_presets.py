"""Published settings are those of the papers' launch scripts (docs/presets.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.experiments.baseline import find_baseline
from calibadv_algo.learner.config import CriticConfig, OptimConfig
from calibadv_algo.learner.optimizer import lr_factor
from calibadv_algo.training.presets import (
    ATLAS_TINY,
    CALIBADV_LLAMA32_3B,
    CALIBADV_QWEN25_3B,
    CALIBADV_QWEN25_7B,
    SEARCH_R1_GRPO,
)
from tests.algo.test_advantages_ablations import counts_of, make_group


@pytest.mark.parametrize("name", ["starpo-s", "ragen-bilevel"])
def test_ragen_s_critic_has_verl_s_rate(name: str) -> None:
    assert find_baseline(name).published.optim.critic_lr == 1e-5


@pytest.mark.parametrize("name", ["search-r1-ppo", "starpo-s", "stepsearch", "mt-ppo"])
def test_a_critic_on_other_settings_has_the_policy_s_rate(name: str) -> None:
    """A system put on a preset takes that preset's rate: 1e-6 of a large model, 3e-4 of a tiny."""
    for given in (SEARCH_R1_GRPO, ATLAS_TINY):
        optim = find_baseline(name).apply(given).optim
        assert optim.critic_lr == optim.lr == given.optim.lr


def test_a_critic_may_have_a_rate_of_its_own() -> None:
    optim = OptimConfig(lr=1e-6, critic=CriticConfig(lr=1e-5))
    assert optim.critic_lr == 1e-5
    assert replace(optim, critic=CriticConfig()).critic_lr == 1e-6


def test_turn_pools_are_those_of_the_whole_batch() -> None:
    """The code's switch with ``in_group=False``; with ``in_group=True`` it skips the answers."""
    estimator = find_baseline("calibadv-turn-pools").published.advantage
    groups = [make_group([1.0, 0.0], [[2], [6]]), make_group([1.0, 0.0, 0.0], [[4], [1], [5]])]
    scores = [np.full((2, 1), np.nan), np.full((3, 1), np.nan)]
    counts = [counts_of(group) for group in groups]
    raw = [Grpo()(group, score) for group, score in zip(groups, scores, strict=True)]
    result = estimator.finish(
        [estimator(group, score) for group, score in zip(groups, scores, strict=True)], counts
    )
    positive, negative = (
        sum((np.clip(sign * each, 0, None) * n).sum() for each, n in zip(raw, counts, strict=True))
        for sign in (1, -1)
    )
    for ours, before in zip(result, raw, strict=True):
        expected = np.where(before > 0, before * negative / positive, before)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_calibadv_trains_one_epoch_at_half_of_its_cosine() -> None:
    """105,447 questions in batches of 512 are 205 updates; the cosine is laid out for 410."""
    for preset in (CALIBADV_QWEN25_3B, CALIBADV_QWEN25_7B, CALIBADV_LLAMA32_3B):
        assert preset.optim.num_updates == (90_447 + 15_000) // preset.rollout.num_questions == 205
        assert lr_factor(0, preset.optim) == 1.0
        assert lr_factor(204, preset.optim) == pytest.approx(0.5, abs=0.01)
