"""Is it right on this device? Engine against trainer, packed against padded, device against CPU."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_stages.common import (
    DTYPES,
    REHEARSAL_EPISODES,
    EpisodeShape,
    Stage,
    random_batch,
)
from calibadv_algo.batching import TokenBatch, build_token_batch
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine
from calibadv_algo.types import Trajectory, Turn

ROOT = Path(__file__).parents[2]
QUESTIONS = ("Which country is Paris in?", "What is the capital of Peru?", "Who borders Chad?")


def gap(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> dict[str, float]:
    """Absolute differences of log-probabilities, in nats."""
    difference = np.abs(ours - theirs)
    return {
        "tokens": len(difference),
        "mean": float(difference.mean()),
        "p99": float(np.quantile(difference, 0.99)),
        "max": float(difference.max()),
    }


def as_batch(prompts: Sequence[tuple[int, ...]], turns: Sequence[Generation]) -> TokenBatch:
    """One-turn episodes of what an engine sampled."""
    episodes = [
        Trajectory(
            group_id=str(index),
            task_id=str(index),
            prompt_ids=prompt,
            prompt_text="",
            turns=(Turn(action_ids=turn.token_ids, action_text=turn.text, logprobs=turn.logprobs),),
        )
        for index, (prompt, turn) in enumerate(zip(prompts, turns, strict=True))
    ]
    return build_token_batch(episodes, [np.ones(1) for _ in episodes])


def engine_gaps(stage: Stage, kind: str, engine_dtype: str) -> dict[str, Any]:
    """Log-probabilities of an engine against those of the trainer's forward pass.

    The trainer keeps fp32 weights and computes in fp32, and in the engine's type by autocast.
    """
    model, tokenizer = load_policy("atlas-tiny")
    model = model.to(stage.device)
    prompts = [
        tuple(tokenizer.encode(f"Question: {QUESTIONS[i % len(QUESTIONS)]} {i}\n"))
        for i in range(64)
    ]
    requests = [GenerationRequest(str(i), ids, i) for i, ids in enumerate(prompts)]
    if kind == "vllm":
        config = VllmEngineConfig(dtype=engine_dtype)  # type: ignore[arg-type]
        engine: Any = make_engine(config, model, tokenizer, max_slots=64, max_context=512)
    else:
        own = copy.deepcopy(model).to(DTYPES[engine_dtype])
        engine = HfEngine(own, tokenizer, max_slots=64, max_context=512)
    turns = engine.generate(requests, SamplingParams(max_tokens=40))
    if kind == "vllm":
        engine.close()
    batch = as_batch(prompts, turns)
    sampled = np.concatenate([turn.logprobs for turn in turns])
    result = {}
    for trainer_dtype in dict.fromkeys(("fp32", engine_dtype)):
        autocast = None if trainer_dtype == "fp32" else DTYPES[trainer_dtype]
        policy = Policy(copy.deepcopy(model), autocast_dtype=autocast)
        with torch.no_grad():
            trained = policy.logprobs(batch)[0].float().cpu().numpy()
        result[f"trainer_{trainer_dtype}"] = gap(sampled, trained)
    return result


def packed_gap(stage: Stage) -> dict[str, float]:
    """Packed attention against right-padded rows, fp32."""
    model, _ = load_policy("atlas-tiny")
    model = model.to(stage.device)
    batch = random_batch(16, REHEARSAL_EPISODES, int(model.config.vocab_size))
    with torch.no_grad():
        packed, padded = (
            Policy(copy.deepcopy(model), packing=packing).logprobs(batch)[0].cpu().numpy()
            for packing in ("packed", "padded")
        )
    return gap(packed, padded)


def gradient_gap(stage: Stage, dtype: str) -> dict[str, float]:
    """Gradient of a batch on the device against fp32 on the CPU: relative difference, cosine."""
    vectors = []
    shape = EpisodeShape(prompt=40, action=20, observation=60, num_searches=2)
    for device, precision in ((torch.device("cpu"), "fp32"), (stage.device, dtype)):
        model, _ = load_policy("atlas-tiny")
        model = model.to(device)
        batch = random_batch(16, shape, int(model.config.vocab_size))
        config = OptimConfig(dtype=precision, micro_batch_tokens=2048)  # type: ignore[arg-type]
        learner = Learner(model, config)
        learner.accumulate_gradient(batch)
        scale = learner.stepper.loss_scale or 1.0
        parts = [p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None]
        vectors.append(torch.cat(parts) / (scale if precision == "fp16" else 1.0))
    reference, ours = vectors
    return {
        "relative_difference": float((ours - reference).norm() / reference.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(ours, reference, dim=0)),
    }


def gpu_tests(stage: Stage) -> dict[str, Any]:
    """The project's own tests that need a card."""
    if stage.device.type != "cuda":
        return {"skipped": "no card"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(5.0, stage.seconds_left),
        check=False,
    )
    return {"exit_code": done.returncode, "last_lines": done.stdout.splitlines()[-12:]}


def main() -> None:
    stage = Stage.from_arguments("right")
    torch.backends.cuda.matmul.allow_tf32 = False
    stage.attempt("packed_against_padded", lambda: packed_gap(stage))
    for dtype in DTYPES:
        stage.attempt(f"gradient_{dtype}", lambda dtype=dtype: gradient_gap(stage, dtype))
    for dtype in DTYPES:
        stage.attempt(f"hf_{dtype}", lambda dtype=dtype: engine_gaps(stage, "hf", dtype))
    if stage.values and _has_vllm():
        for dtype in DTYPES:
            stage.attempt(f"vllm_{dtype}", lambda dtype=dtype: engine_gaps(stage, "vllm", dtype))
    else:
        stage.add("vllm", {"skipped": "vllm is not installed"})
    stage.attempt("pytest", lambda: gpu_tests(stage))


def _has_vllm() -> bool:
    try:
        import vllm  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
