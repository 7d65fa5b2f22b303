"""vLLM in processes of its own: weights by file, and processes that die."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
SEPARATE = VllmEngineConfig(workers="separate")


def tokens(engine: Any, requests: list[GenerationRequest]) -> list[tuple[int, ...]]:
    return [each.token_ids for each in engine.generate(requests, GREEDY)]


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if each.status() != "zombie" and is_vllm(each)]


def scratch() -> list[Path]:
    """Files of this process."""
    pattern = f"calibadv-vllm-{socket.gethostname()}-{os.getpid()}-*"
    return list(Path("/dev/shm").glob(pattern))


def is_vllm(process: psutil.Process) -> bool:
    return "vllm" in process.name().lower() or "spawn_main" in " ".join(process.cmdline())


def test_workers_take_weights_over_and_may_die(
    kit: SimpleNamespace, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    new = kit.changed(model, scale=0.3)
    requests = [
        GenerationRequest(each.episode_id, each.token_ids * 6, each.seed)
        for each in kit.requests(tokenizer, 8)
    ]
    left = Path(f"/dev/shm/calibadv-vllm-{socket.gethostname()}-{2**22 + 1}-abc.safetensors")
    left.write_text("of a process that was killed")
    engine = make_engine(SEPARATE, model, tokenizer, max_slots=8)
    try:
        assert workers(), "nothing runs in another process"
        assert tokens(engine, requests) == tokens(HfEngine(model, tokenizer), requests)
        engine.sync_weights(new, 1)
        assert tokens(engine, requests) == tokens(HfEngine(new, tokenizer), requests)
        assert not left.exists()
        assert not [path for path in scratch() if path.suffix == ".safetensors"]

        params = SamplingParams(max_tokens=40, stop=kit.STOP)
        expected = [each.token_ids for each in engine.generate(requests, params)]
        engine.submit(requests, params)
        engine.step()
        for process in workers():
            os.kill(process.pid, signal.SIGKILL)
        found: dict[str, Any] = {}
        while engine.num_running:
            found.update(engine.step())
        assert engine.num_rebuilds == 1
        assert engine.version == 1
        assert [found[each.episode_id].token_ids for each in requests] == expected

        for process in workers():
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(1)
        engine.sync_weights(model, 2)
        assert engine.num_rebuilds == 2
        assert tokens(engine, requests) == tokens(HfEngine(model, tokenizer), requests)
    finally:
        engine.close()
    deadline = time.monotonic() + 20
    while workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers()
    assert not scratch()


def test_settings_that_do_not_fit_are_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_model_len must be in \[2, 1024\], got 4096"):
        make_engine(VllmEngineConfig(max_model_len=4096), *loaded)
    with pytest.raises(ValueError, match="top_p must be 1 with vLLM"):
        make_engine(VllmEngineConfig(), *loaded, temperature=0.7, top_p=0.9)
    with pytest.raises(ValueError, match="temperature must be 0 or in"):
        make_engine(VllmEngineConfig(), *loaded, temperature=2.5)


def test_an_engine_that_does_not_start_says_why(loaded: tuple[Any, Any]) -> None:
    config = VllmEngineConfig(kv_cache_bytes=2**50, max_rebuilds=0)
    with pytest.raises(EngineError, match="vLLM did not start"):
        make_engine(config, *loaded)
