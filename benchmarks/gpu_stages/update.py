"""Speed and memory of one update, against a plain right-padded step in the same run."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_stages.common import (
    CALIBADV_EPISODES,
    REHEARSAL_EPISODES,
    REHEARSAL_SHAPE,
    SHAPES,
    Stage,
    peak_memory_gib,
    random_batch,
    random_model,
    reset_peak_memory,
    seconds_of,
    training_flops,
)
from calibadv_algo.batching import TokenBatch, select_sequences
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner

PADDED_ROWS = 4


def measure_ours(
    stage: Stage, shape: dict[str, int | bool], batch: TokenBatch, **settings: Any
) -> dict[str, Any]:
    """Forward, backward and optimiser step of the library's learner on one minibatch."""
    model = random_model(shape, stage.device)
    dtype = "fp32" if stage.device.type == "cpu" else "bf16"
    learner = Learner(model, OptimConfig(dtype=dtype, **settings))
    reset_peak_memory(stage.device)

    def step() -> None:
        learner.accumulate_gradient(batch)
        learner.stepper.step()

    seconds = seconds_of(step, stage.device, repeats=2)
    return rates(stage, seconds, training_flops(model, batch), batch)


def measure_padded(stage: Stage, shape: dict[str, int | bool], batch: TokenBatch) -> dict[str, Any]:
    """The usual way: rows in random order padded on the right, logits at every position."""
    model = random_model(shape, stage.device)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    reset_peak_memory(stage.device)

    def step() -> None:
        padded_gradient(model, batch, PADDED_ROWS, stage.device)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = seconds_of(step, stage.device, repeats=1)
    return rates(stage, seconds, training_flops(model, batch), batch)


def padded_gradient(model: Any, batch: TokenBatch, num_rows: int, device: torch.device) -> None:
    """Gradient of the clipped loss; a row an episode."""
    order = torch.randperm(batch.num_sequences, generator=torch.Generator().manual_seed(1))
    total = batch.num_action_tokens
    for rows in torch.split(order, num_rows):
        part = select_sequences(batch, rows.tolist())
        is_valid = torch.arange(int(part.lengths.max())) < part.lengths[:, None]
        ids = torch.zeros(is_valid.shape, dtype=torch.int64)
        ids[is_valid] = part.input_ids
        is_action = torch.zeros(is_valid.shape, dtype=torch.bool)
        is_action[is_valid] = part.action_mask
        old, advantages = torch.zeros(ids.shape), torch.zeros(ids.shape)
        old[is_action], advantages[is_action] = part.sampling_logprobs, part.advantages
        ids, is_valid, is_action, old, advantages = (
            each.to(device) for each in (ids, is_valid, is_action, old, advantages)
        )
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=ids, attention_mask=is_valid.long(), use_cache=False).logits
        table = logits[:, :-1].float().log_softmax(-1)
        logprobs = table.gather(-1, ids[:, 1:, None]).squeeze(-1)
        ratio = (logprobs - old[:, 1:]).exp()
        weight = -advantages[:, 1:]
        loss = torch.maximum(weight * ratio, weight * ratio.clamp(0.8, 1.2))
        ((loss * is_action[:, 1:]).sum() / total).backward()


def rates(stage: Stage, seconds: float, flops: float, batch: TokenBatch) -> dict[str, Any]:
    """Tokens a second, share of the measured peak of products, peak memory."""
    result: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "tokens_per_s": round(batch.num_tokens / seconds, 1),
        "tflops": round(flops / seconds / 1e12, 3),
        "peak_memory_gib": peak_memory_gib(stage.device),
    }
    facts = stage.out / "facts.json"
    peak = json.loads(facts.read_text())["matmul_bf16_tflops"] if facts.exists() else None
    if isinstance(peak, float) and stage.device.type == "cuda":
        result["mfu_of_measured_peak"] = round(flops / seconds / 1e12 / peak, 4)
    return result


def main() -> None:
    stage = Stage.from_arguments("update")
    tiny = stage.device.type == "cpu"
    shapes = {"tiny": REHEARSAL_SHAPE} if tiny else SHAPES
    lengths = REHEARSAL_EPISODES if tiny else CALIBADV_EPISODES
    for name, shape in shapes.items():
        batch = random_batch(8 if tiny else 16, lengths, int(shape["vocab_size"]))
        tokens = 256 if tiny else 16384
        stage.add(
            f"{name} batch",
            {
                "episodes": batch.num_sequences,
                "tokens": batch.num_tokens,
                "sampled": batch.num_action_tokens,
            },
        )
        for is_checkpointed in (True, False):
            settings = {"micro_batch_tokens": tokens, "gradient_checkpointing": is_checkpointed}
            stage.attempt(
                f"{name} ours{', checkpointing' if is_checkpointed else ''}",
                partial(measure_ours, stage, shape, batch, **settings),
            )
        stage.attempt(
            f"{name} right-padded, checkpointing",
            partial(measure_padded, stage, shape, batch),
        )


if __name__ == "__main__":
    main()
