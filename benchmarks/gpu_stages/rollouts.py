"""Tokens a second of the engines against a plain `generate` loop, weight sync, sleep and wake."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.gpu_stages.common import (
    REHEARSAL_SHAPE,
    SHAPES,
    Stage,
    random_model,
    seconds_of,
)
from benchmarks.vllm_rollouts import Workload, make_workload, play_engine, play_plain
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine


def workload(stage: Stage, tokenizer: Any, num_episodes: int) -> Workload:
    """Scripted episodes: prompts of groups of 8, observations and turns of fixed lengths."""
    tiny = stage.device.type == "cpu"
    return make_workload(
        tokenizer,
        argparse.Namespace(
            episodes=num_episodes,
            turns=2 if tiny else 3,
            tokens=8 if tiny else 100,
            prompt=16 if tiny else 256,
            observation=16 if tiny else 500,
        ),
    )


def models(stage: Stage) -> tuple[Any, Any]:
    """A model of random weights on the device that never ends a turn, and a tokenizer."""
    _, tokenizer = load_policy("atlas-tiny")
    shape = REHEARSAL_SHAPE if stage.device.type == "cpu" else SHAPES["Qwen2.5-0.5B"]
    if stage.device.type == "cpu":
        shape = shape | {"vocab_size": len(tokenizer)}
    model = random_model(shape, stage.device).eval()
    if stage.device.type == "cuda":
        model = model.to(torch.bfloat16)
    for config in (model.generation_config, model.config):
        config.eos_token_id = None
    tokenizer.eos_token = None
    return model, tokenizer


def side(stage: Stage, work: Workload, play: Any) -> dict[str, float]:
    """Median seconds and tokens a second of two rounds after one that warms up."""
    counts: list[int] = []
    repeats = 1 if stage.is_rehearsal else 2
    seconds = seconds_of(lambda: counts.append(play(work)), stage.device, repeats=repeats)
    return {"seconds": round(seconds, 3), "tokens_per_s": round(counts[-1] / seconds, 1)}


def compare(stage: Stage, num_episodes: int) -> dict[str, Any]:
    """The Hugging Face engine against `model.generate`."""
    model, tokenizer = models(stage)
    work = workload(stage, tokenizer, num_episodes)
    engine = HfEngine(model, tokenizer, max_slots=num_episodes, max_context=work.max_context)

    def ours(given: Workload) -> int:
        engine.sync_weights(model, engine.version + 1)
        return play_engine(engine, given)

    result = {
        "engine": side(stage, work, ours),
        "generate": side(stage, work, lambda given: play_plain(model, given)),
    }
    result["engine over generate"] = round(
        result["generate"]["seconds"] / result["engine"]["seconds"], 2
    )
    return result


def vllm(stage: Stage, num_episodes: int, **settings: Any) -> dict[str, Any]:
    """The vLLM engine on the same episodes; sync, and sleep where it is asked for."""
    model, tokenizer = models(stage)
    work = workload(stage, tokenizer, num_episodes)
    dtype = "bf16" if stage.device.type == "cuda" else "fp32"
    config = VllmEngineConfig(dtype=dtype, **settings)  # type: ignore[arg-type]
    began = time.perf_counter()
    engine: Any = make_engine(
        config, model, tokenizer, max_slots=num_episodes, max_context=work.max_context
    )
    start_s = time.perf_counter() - began
    version = 0

    def ours(given: Workload) -> int:
        nonlocal version
        version += 1
        engine.sync_weights(model, version)
        return play_engine(engine, given)

    try:
        result: dict[str, Any] = {"start_s": round(start_s, 1), "engine": side(stage, work, ours)}
        syncs = []
        for _ in range(3):
            version += 1
            began = time.perf_counter()
            engine.sync_weights(model, version)
            syncs.append(time.perf_counter() - began)
        result["sync_s"] = round(statistics.median(syncs), 4)
        if settings.get("sleep"):
            began = time.perf_counter()
            engine.sleep()
            result["sleep_s"] = round(time.perf_counter() - began, 3)
            began = time.perf_counter()
            engine.sync_weights(model, version + 1)
            result["wake_and_sync_s"] = round(time.perf_counter() - began, 3)
    finally:
        engine.close()
    return result


def main() -> None:
    stage = Stage.from_arguments("rollouts")
    sizes = (8,) if stage.is_rehearsal else (64, 512)
    for size in sizes:
        stage.attempt(f"{size} episodes", lambda size=size: compare(stage, size))
    try:
        import vllm as installed
    except ImportError:
        stage.add("vllm", {"skipped": "vllm is not installed"})
        return
    stage.add("vllm version", installed.__version__)
    for size in sizes:
        stage.attempt(f"vllm, {size} episodes", lambda size=size: vllm(stage, size))
    stage.attempt(
        "vllm, separate workers, sleep",
        lambda: vllm(stage, sizes[0], workers="separate", sleep="keep-weights"),
    )


if __name__ == "__main__":
    main()
