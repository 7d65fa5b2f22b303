"""A real language model from the package index, trained on nothing here: SmolLM2-135M-Instruct."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.learner.smollm2 import find_gguf, smollm2_folder
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.making import make_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_gguf()
    except ImportError as error:
        pytest.skip(str(error))
    return smollm2_folder(tmp_path_factory.mktemp("cache"))


def test_the_converted_model_answers_and_vllm_agrees(kit: SimpleNamespace, folder: Path) -> None:
    model, tokenizer = load_policy(str(folder))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    requests = [GenerationRequest(str(i), tuple(tokenizer.encode(text)), i) for i in range(4)]
    engine = make_engine(
        VllmEngineConfig(), model, tokenizer, max_slots=4, max_context=128, temperature=1.0
    )
    greedy = engine.generate(requests[:1], SamplingParams(temperature=0.0, max_tokens=24))[0]
    sampled = engine.generate(requests, SamplingParams(max_tokens=24))
    engine.close()  # type: ignore[attr-defined]
    assert "Paris" in greedy.text
    assert greedy.finish_reason == "eos"
    contexts = [request.token_ids for request in requests]
    ours, theirs = kit.recomputed(model, contexts, sampled, 1.0)
    assert np.abs(ours - theirs).max() < 1e-3


def test_the_model_is_converted_once(folder: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2_folder(folder.parents[1]) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
