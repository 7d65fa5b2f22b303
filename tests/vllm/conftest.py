"""Tests with a real vLLM: `make test-vllm` sets up its environment and runs each file by itself.

vLLM changes the process that it runs in (threads, seeds, memory binding), so every file here is
meant for a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

STOP = ("</search>", "</answer>")
QUESTIONS = (
    "Which country is Paris in?",
    "What is the capital of Peru?",
    "What is the currency of the country where the airport of Mombasa lies?",
    "Which countries share a border with Chad?",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is not None:
        return
    skip = pytest.mark.skip(reason="vLLM is not installed here: run `make test-vllm`")
    for item in items:
        if "tests/vllm" in item.path.as_posix():
            item.add_marker(skip)


def policy() -> tuple[Any, Any]:
    from calibadv_algo.learner.pretrained import load_policy

    torch.set_num_threads(1)
    return load_policy("atlas-tiny")


def changed(model: Any, seed: int = 7, scale: float = 0.05) -> Any:
    """A copy of a policy with other weights, as after some updates."""
    import copy

    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * scale * parameter.abs().mean())
    return other


def prompts(tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    """Prompts of different lengths that begin alike."""
    texts = [f"Question: {QUESTIONS[i % 4]} Case {i}.\n" for i in range(count)]
    return [tuple(tokenizer.encode(text)) for text in texts]


def requests(tokenizer: Any, count: int, *, seed: int = 0) -> list[Any]:
    from calibadv_algo.rollout.engines.base import GenerationRequest

    seeds = np.random.SeedSequence(seed).generate_state(count, np.uint64) >> np.uint64(1)
    return [
        GenerationRequest(f"e{i}", ids, int(seeds[i]))
        for i, ids in enumerate(prompts(tokenizer, count))
    ]


def recomputed(
    model: Any, contexts: Sequence[Sequence[int]], generations: Sequence[Any], temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities as sampled, and as one forward pass of the model gives them."""
    ours, theirs = [], []
    for context, generation in zip(contexts, generations, strict=True):
        ids = torch.tensor([[*context, *generation.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].float() / (temperature or 1.0)
        logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]
        new = ids[0, len(context) :]
        theirs.extend(logprobs.gather(1, new[:, None])[:, 0].tolist())
        ours.extend(generation.logprobs)
    return np.array(ours), np.array(theirs)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return policy()


@pytest.fixture(scope="module")
def engine(loaded: tuple[Any, Any]) -> Iterator[Any]:
    from calibadv_algo.rollout.engines.config import VllmEngineConfig
    from calibadv_algo.rollout.engines.vllm.engine import VllmEngine

    built = VllmEngine(*loaded, VllmEngineConfig(), max_slots=64)
    built.sync_weights(loaded[0], 0)
    yield built
    built.close()


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file: files of this folder cannot import each other."""
    return SimpleNamespace(
        STOP=STOP,
        policy=policy,
        changed=changed,
        prompts=prompts,
        requests=requests,
        recomputed=recomputed,
    )
