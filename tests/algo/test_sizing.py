"""The number of slots that is chosen where the settings leave it open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from calibadv_algo.cli.train import num_slots
from calibadv_algo.rollout.sizing import MAX_SLOTS, choose_num_slots, free_memory, token_bytes
from calibadv_algo.training.config import EvalConfig, RolloutConfig
from calibadv_algo.training.presets import ATLAS_TINY


@pytest.fixture(scope="module")
def model() -> Any:
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return AutoModelForCausalLM.from_config(config)


def test_a_token_takes_a_key_and_a_value_a_layer(model: Any) -> None:
    assert token_bytes(model) == 2 * 3 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("free", "episodes", "expected"),
    [
        (2**40, 300, 300),
        (2**40, 5000, MAX_SLOTS),
        (8 * 384 * 100 * 17, 300, 17),
        (0, 300, 1),
    ],
)
def test_as_many_episodes_as_fit_into_an_eighth(
    model: Any, free: int, episodes: int, expected: int
) -> None:
    assert choose_num_slots(model, 100, episodes, free) == expected


def test_the_machine_is_asked(model: Any) -> None:
    assert free_memory(torch.device("cpu")) > 2**20
    assert choose_num_slots(model, 10, 3) == 3


def test_a_run_has_slots_for_all_its_episodes(model: Any) -> None:
    open_config = replace(
        ATLAS_TINY,
        rollout=RolloutConfig(num_questions=3, group_size=4, max_context=50),
        evaluation=EvalConfig(every=5, episodes=30),
    )
    assert num_slots(open_config, model) == (12, 30)
    assert num_slots(open_config, model, world_size=2) == (6, 15)
    fixed = replace(open_config, rollout=replace(open_config.rollout, num_slots=7))
    assert num_slots(fixed, model) == (7, 7)
