"""Published settings are those of the papers' launch scripts (docs/presets.md)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calibadv_algo.experiments.baseline import find_baseline
from calibadv_algo.learner.config import CriticConfig, OptimConfig
from calibadv_algo.training.presets import ATLAS_TINY, SEARCH_R1_GRPO


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
