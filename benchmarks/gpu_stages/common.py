"""What the stages share: arguments, a record that grows on disk, clocks, models and episodes."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.batching import TokenBatch, build_token_batch
from calibadv_algo.types import Trajectory, Turn
from calibadv_env.common.files import write_text

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Stage:
    """Arguments of a stage, and its record: a JSON file that is whole after every entry.

    Attributes:
        name: Name of the stage and of its file.
        out: Folder of the records.
        deadline: When to stop, on the monotonic clock; what is recorded by then counts.
        is_rehearsal: If true, shapes are tiny and the device is the CPU.
        values: The record.
    """

    name: str
    out: Path
    deadline: float
    is_rehearsal: bool
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, name: str) -> Stage:
        """Reads the command line of a stage."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--seconds", type=float, default=60.0)
        parser.add_argument("--rehearse", action="store_true")
        arguments = parser.parse_args()
        arguments.out.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + arguments.seconds
        return cls(name, arguments.out, deadline, arguments.rehearse)

    @property
    def device(self) -> torch.device:
        """The card, or the CPU in a rehearsal and where there is no card."""
        on_gpu = torch.cuda.is_available() and not self.is_rehearsal
        return torch.device("cuda" if on_gpu else "cpu")

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative behind it."""
        return self.deadline - time.monotonic()

    def add(self, key: str, value: Any) -> None:
        """Records a value; later ones of the same key replace it."""
        self.values[key] = value
        write_text(self.out / f"{self.name}.json", json.dumps(self.values, indent=1) + "\n")
        print(f"{self.name}: {key}: {json.dumps(value)}", flush=True)

    def attempt(self, key: str, function: Callable[[], Any]) -> None:
        """Records what a function returns, or what went wrong; never raises a measured failure.

        Skipped behind the deadline, and that is recorded too.
        """
        if self.seconds_left <= 0:
            self.add(key, {"skipped": "no time left"})
            return
        try:
            self.add(key, function())
        except (RuntimeError, ValueError, ImportError, OSError) as error:
            self.add(key, {"error": f"{type(error).__name__}: {error}"[:500]})
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Median seconds of a function after one warm-up, the device's work included."""
    times = []
    for repeat in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        if repeat:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_memory_gib(device: torch.device) -> float | None:
    """Largest memory that tensors took since `reset_peak_memory`, None on a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def reset_peak_memory(device: torch.device) -> None:
    """Begins to measure the peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


SHAPES: dict[str, dict[str, int | bool]] = {
    "Qwen2.5-0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-3B": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}
"""Shapes as in the models' config.json; weights are random, nothing is downloaded."""

REHEARSAL_SHAPE: dict[str, int | bool] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}


def random_model(
    shape: dict[str, int | bool], device: torch.device, max_positions: int = 32768
) -> Qwen2ForCausalLM:
    """A Qwen2 of a shape with random fp32 weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        config = Qwen2Config(**shape, max_position_embeddings=max_positions)
        return Qwen2ForCausalLM(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeShape:
    """Tokens of an episode: a prompt, searches with what they bring, an answer.

    Attributes:
        prompt: Tokens of the prompt.
        action: Mean tokens of a turn; drawn from half to three halves of it.
        observation: Mean tokens that a search brings, drawn likewise.
        num_searches: Searches before the answer.
    """

    prompt: int = 320
    action: int = 110
    observation: int = 600
    num_searches: int = 3


CALIBADV_EPISODES = EpisodeShape()
"""Lengths as CalibAdv's runs have them: three passages of about 200 tokens a search."""
REHEARSAL_EPISODES = EpisodeShape(prompt=12, action=6, observation=20, num_searches=2)


def random_batch(num_episodes: int, shape: EpisodeShape, vocab_size: int) -> TokenBatch:
    """Ragged episodes of random tokens with one advantage a turn, none of them zero."""
    rng = np.random.default_rng(0)

    def draw(mean: int) -> tuple[int, ...]:
        count = int(rng.integers(mean // 2, mean * 3 // 2 + 1))
        return tuple(rng.integers(0, vocab_size, max(count, 1)).tolist())

    def turn(*, is_last: bool) -> Turn:
        action = draw(shape.action)
        return Turn(
            action_ids=action,
            action_text="",
            logprobs=(-float(np.log(vocab_size)),) * len(action),
            observation_ids=() if is_last else draw(shape.observation),
        )

    episodes = [
        Trajectory(
            group_id=str(index),
            task_id=str(index),
            prompt_ids=draw(shape.prompt),
            prompt_text="",
            turns=tuple(
                turn(is_last=number == shape.num_searches)
                for number in range(shape.num_searches + 1)
            ),
        )
        for index in range(num_episodes)
    ]
    return build_token_batch(episodes, [rng.normal(size=len(each.turns)) for each in episodes])


def training_flops(model: Qwen2ForCausalLM, batch: TokenBatch) -> float:
    """Operations of a forward and a backward pass, recomputation not counted.

    Six a weight and token, with the output head only where a token was sampled, and twelve a
    layer, head width and attended pair over two (the attention is causal).
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for p in model.parameters()) - head
    if not config.tie_word_embeddings:
        body -= head
    pairs = float((batch.lengths.double() ** 2).sum()) / 2
    return (
        6.0 * body * batch.num_tokens
        + 6.0 * head * batch.num_action_tokens
        + 12.0 * config.num_hidden_layers * config.hidden_size * pairs
    )
