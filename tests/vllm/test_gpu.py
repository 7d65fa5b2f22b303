"""What needs a GPU. Nobody has run these yet: they say what to expect on one.

.venv-gpu/bin/python -m pytest -m gpu tests/vllm/test_gpu.py
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.making import make_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


def check_follows_the_trainer(kit: SimpleNamespace, config: VllmEngineConfig) -> None:
    """Log-probs of the engine are near those of the weights that it was sent last."""
    model, tokenizer = kit.policy()
    model = model.cuda()
    new = kit.changed(model.cpu(), scale=0.3).cuda()
    requests = kit.requests(tokenizer, 8)
    engine: Any = make_engine(config, model.cuda(), tokenizer, max_slots=8, max_context=512)
    try:
        for version, policy in enumerate((model, new), start=1):
            engine.sync_weights(policy, version)
            generations = engine.generate(requests, GREEDY)
            contexts = [request.token_ids for request in requests]
            ours, theirs = kit.recomputed(policy.cpu(), contexts, generations, 0.0)
            policy.cuda()
            assert np.abs(ours - theirs).mean() < 0.1
            engine.sleep()
    finally:
        engine.close()


@pytest.mark.parametrize(
    "config",
    [
        VllmEngineConfig(gpu_memory_utilization=0.2),
        VllmEngineConfig(gpu_memory_utilization=0.2, workers="separate"),
        VllmEngineConfig(gpu_memory_utilization=0.2, sleep="keep-weights"),
        VllmEngineConfig(gpu_memory_utilization=0.2, sleep="drop-weights"),
        VllmEngineConfig(gpu_memory_utilization=0.2, workers="separate", sleep="drop-weights"),
    ],
    ids=["memory", "ipc", "sleep, weights kept", "sleep, weights dropped", "ipc and sleep"],
)
def test_weights_reach_an_engine_on_the_same_gpu(
    kit: SimpleNamespace, config: VllmEngineConfig
) -> None:
    check_follows_the_trainer(kit, config)


@pytest.mark.skipif(torch.cuda.device_count() < 3, reason="needs three CUDA devices")
def test_weights_reach_engines_on_other_gpus_by_nccl(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer on device 0, the engine on 1 and 2."""
    model, tokenizer = kit.policy()
    model = model.to("cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    config = VllmEngineConfig(workers="separate", tensor_parallel_size=2, transfer="nccl")
    engine: Any = make_engine(config, model, tokenizer, max_slots=8, max_context=512)
    try:
        assert engine.version == 0
        assert len(engine.generate(kit.requests(tokenizer, 8), GREEDY)) == 8
    finally:
        engine.close()
