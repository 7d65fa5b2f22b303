"""Arithmetic of memory and time, against numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.training_cost import (
    GIB,
    QWEN25_7B,
    Device,
    ModelShape,
    Workload,
    engine_cache_tokens,
    trainer_memory,
    update_times,
)

MODEL = ModelShape(
    name="toy",
    num_parameters=GIB,
    num_layers=4,
    hidden_size=8,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=16,
)
DEVICE = Device(
    name="toy",
    memory_gib=10.0,
    flops=1e12,
    bandwidth=1e12,
    link=1e11,
    train_utilization=0.5,
    prefill_utilization=0.5,
    decode_utilization=0.5,
    link_utilization=0.5,
)
WORK = Workload(
    num_episodes=8,
    num_searches=2.0,
    prompt_tokens=20,
    group_size=4,
    observation_tokens=30,
    action_tokens=10,
    search_s=0.5,
)


def test_an_episode_is_prompt_observations_and_one_turn_more_than_searches() -> None:
    assert WORK.tokens_per_episode == 20 + 2 * 30 + 3 * 10
    assert WORK.sampled_tokens == 8 * 3 * 10


def test_keys_and_values_of_a_token() -> None:
    assert MODEL.kv_bytes_per_token == 2 * 4 * 2 * 4 * 2
    assert QWEN25_7B.kv_bytes_per_token == 57_344  # 56 KiB a token, by the published shape


def test_sharded_states_take_sixteen_bytes_a_parameter() -> None:
    memory = trainer_memory(MODEL, num_devices=4, micro_batch_tokens=1, logit_chunk_tokens=1)
    assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(16 / 4)
    assert memory.total > 4.0
    alone = trainer_memory(MODEL, num_devices=1, micro_batch_tokens=1, logit_chunk_tokens=1)
    assert alone.weights == 4 * memory.weights
    assert alone.gathered == memory.gathered


def test_an_engine_holds_what_the_weights_leave() -> None:
    # 10 GiB x 0.5 - 2 GiB of weights = 3 GiB at 128 bytes a token
    tokens = engine_cache_tokens(MODEL, DEVICE, tensor_parallel=1, memory_share=0.5)
    assert tokens == 3 * GIB // 128
    assert engine_cache_tokens(MODEL, DEVICE, tensor_parallel=1, memory_share=0.1) == 0


def test_the_phases_of_an_update() -> None:
    times = update_times(MODEL, DEVICE, WORK, num_devices=2, tensor_parallel=1, cache_tokens=10**9)
    tokens = 8 * 110
    assert times.train == pytest.approx(8 * GIB * tokens / (2e12 * 0.5))
    assert times.old_logprobs == pytest.approx(times.train / 4)
    assert times.prefill == pytest.approx(2 * GIB * 8 * (20 / 4 + 60) / (2e12 * 0.5))
    assert times.search == pytest.approx(2 * 0.5)
    assert times.sync == pytest.approx(2 * GIB / 0.5e11)
    # 4 episodes an engine: 2 N x 4 operations take longer than reading 2 N bytes
    assert times.decode == pytest.approx(30 * 2 * GIB * 4 / (1e12 * 0.5))
    assert times.total == pytest.approx(
        times.prefill + times.decode + times.search + times.old_logprobs + times.train + times.sync
    )


def test_what_does_not_fit_comes_in_waves() -> None:
    whole = update_times(
        MODEL, DEVICE, WORK, num_devices=1, tensor_parallel=1, cache_tokens=8 * 110
    )
    half = update_times(MODEL, DEVICE, WORK, num_devices=1, tensor_parallel=1, cache_tokens=4 * 110)
    assert half.search == 2 * whole.search
    with pytest.raises(ValueError, match="must hold an episode of 110, got 109"):
        update_times(MODEL, DEVICE, WORK, num_devices=1, tensor_parallel=1, cache_tokens=109)


def test_sampled_log_probs_save_a_forward_pass() -> None:
    without = replace(WORK, has_old_logprobs=False)
    times = update_times(
        MODEL, DEVICE, without, num_devices=1, tensor_parallel=1, cache_tokens=10**6
    )
    assert times.old_logprobs == 0.0
