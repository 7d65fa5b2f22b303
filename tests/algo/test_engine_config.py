"""Settings of the engines, and what is said when vLLM is not there."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from calibadv_algo.rollout.engines.config import (
    HfEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)
from calibadv_algo.rollout.engines.making import find_engine, make_engine
from calibadv_algo.rollout.engines.vllm.turns import check_sampling, reports_raw_logprobs


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (HfEngineConfig, {"max_prefill_tokens": 0}, "max_prefill_tokens must be positive, got 0"),
        (VllmEngineConfig, {"max_model_len": -1}, "max_model_len must be positive, got -1"),
        (VllmEngineConfig, {"kv_cache_bytes": 0}, "kv_cache_bytes must be positive, got 0"),
        (VllmEngineConfig, {"gpu_memory_utilization": 1.5}, r"in \(0, 1\], got 1\.5"),
        (VllmEngineConfig, {"max_rebuilds": -1}, "max_rebuilds must not be negative, got -1"),
        (VllmEngineConfig, {"workers": "separate", "transfer": "memory"}, "transfer must not be"),
        (VllmEngineConfig, {"tensor_parallel_size": 2}, "workers must be separate"),
        (VllmEngineConfig, {"lora": "adapter", "sleep": "drop-weights"}, "lora must be merged"),
        (VllmServerEngineConfig, {"url": "localhost:1"}, "url must begin with http"),
        (VllmServerEngineConfig, {"timeout_s": 0.0}, "timeout_s must be positive"),
        (VllmServerEngineConfig, {"master_port": 70000}, r"master_port must be in \[1, 65535\]"),
        (VllmServerEngineConfig, {"max_retries": -1}, "max_retries must not be negative"),
        (VllmServerEngineConfig, {"backoff_s": -1.0}, "backoff_s must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_engines_are_found_by_name() -> None:
    assert find_engine("hf") == HfEngineConfig()
    assert find_engine("vllm") == VllmEngineConfig()
    assert find_engine("vllm-server=http://a:1") == VllmServerEngineConfig(url="http://a:1")
    for name in ("vlm", "vllm=http://a:1", ""):
        with pytest.raises(ValueError, match="engine must be one of hf, vllm, vllm-server"):
            find_engine(name)
    with pytest.raises(ValueError, match="url must begin with"):
        find_engine("vllm-server=a:1")


@pytest.mark.parametrize(
    ("given", "on_cpu", "expected"),
    [
        ({}, True, "memory"),
        ({}, False, "memory"),
        ({"workers": "separate"}, True, "file"),
        ({"workers": "separate"}, False, "ipc"),
        ({"workers": "separate", "transfer": "nccl"}, False, "nccl"),
    ],
)
def test_how_weights_are_sent(given: dict[str, Any], on_cpu: bool, expected: str) -> None:
    assert VllmEngineConfig(**given).chosen_transfer(on_cpu) == expected


def test_sampling_for_which_log_probs_would_be_wrong_is_refused() -> None:
    for temperature, top_p in ((0.7, 0.9), (0.001, 1.0), (2.5, 1.0)):
        with pytest.raises(ValueError, match="with vLLM"):
            check_sampling(temperature, top_p)
    for temperature, top_p in ((1.0, 0.9), (0.7, 1.0), (0.0, 1.0)):
        check_sampling(temperature, top_p)
    assert reports_raw_logprobs(1.0, 0.9)
    assert not reports_raw_logprobs(0.7, 1.0)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_named() -> None:
    with pytest.raises(ImportError, match=r"pip install 'calibadv\[vllm\]'"):
        make_engine(VllmEngineConfig(), None, None)  # type: ignore[arg-type]
