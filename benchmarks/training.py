"""Speed of one policy update, against the same update on right-padded batches.

Run ``OMP_NUM_THREADS=1 python benchmarks/training.py``. Both ways compute the same gradient of the
same clipped loss on the same ragged episodes; the command checks that, then prints tokens a
second (padding never counts as a token) and their ratio. The baseline takes the episodes in
random order, one right-padded row each, with logits at every position; it is given the best of
several batch sizes. No episode has a zero advantage, so nothing can be skipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.batching import TokenBatch, build_token_batch, select_sequences
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner
from calibadv_algo.types import Trajectory, Turn

VOCAB_SIZE = 1500
TARGET_RATIO = 1.5


def make_model() -> Qwen2ForCausalLM:
    """The shape of the shipped policy."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=160,
            intermediate_size=480,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )


def make_episode(index: int, rng: np.random.Generator) -> Trajectory:
    """An episode of 60 to 400 tokens: a question, then actions of 30 and passages of 60 tokens."""

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, VOCAB_SIZE, count).tolist())

    room = int(rng.integers(60, 401)) - 20
    turns = []
    while room > 0:
        num_action = min(30, room)
        num_observation = min(60, room - num_action)
        turns.append(
            Turn(
                action_ids=draw(num_action),
                action_text="",
                logprobs=(-7.3,) * num_action,
                observation_ids=draw(num_observation),
            )
        )
        room -= num_action + num_observation
    return Trajectory(
        group_id=str(index),
        task_id=str(index),
        prompt_ids=draw(20),
        prompt_text="",
        turns=tuple(turns),
    )


def make_batch(num_episodes: int) -> TokenBatch:
    """Ragged episodes with one advantage a turn, none of them zero."""
    rng = np.random.default_rng(0)
    episodes = [make_episode(index, rng) for index in range(num_episodes)]
    return build_token_batch(episodes, [rng.normal(size=len(each.turns)) for each in episodes])


def padded_gradient(model: Qwen2ForCausalLM, batch: TokenBatch, num_rows: int) -> None:
    """The usual way: rows in random order, padded on the right, logits everywhere."""
    order = np.random.default_rng(1).permutation(batch.num_sequences)
    total = batch.num_action_tokens
    for begin in range(0, len(order), num_rows):
        rows = select_sequences(batch, order[begin : begin + num_rows].tolist())
        is_valid = torch.arange(int(rows.lengths.max())) < rows.lengths[:, None]
        ids = torch.zeros(is_valid.shape, dtype=torch.int64)
        ids[is_valid] = rows.input_ids
        is_action = torch.zeros(is_valid.shape, dtype=torch.bool)
        is_action[is_valid] = rows.action_mask
        old, advantages = torch.zeros(ids.shape), torch.zeros(ids.shape)
        old[is_action], advantages[is_action] = rows.sampling_logprobs, rows.advantages
        logits = model(input_ids=ids, attention_mask=is_valid.long(), use_cache=False).logits
        table = logits[:, :-1].float().log_softmax(-1)
        logprobs = table.gather(-1, ids[:, 1:, None]).squeeze(-1)
        ratio = (logprobs - old[:, 1:]).exp()
        loss = torch.maximum(-advantages[:, 1:] * ratio, -advantages[:, 1:] * ratio.clamp(0.8, 1.2))
        ((loss * is_action[:, 1:]).sum() / total).backward()


def flat_gradient(model: Qwen2ForCausalLM) -> torch.Tensor:
    """All gradients as one vector, and cleared."""
    vector = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector


def best_times(
    functions: dict[str, Callable[[], object]], model: Qwen2ForCausalLM, repeats: int
) -> dict[str, float]:
    """Shortest of several runs of each, in seconds.

    They take turns, so that a busy moment of the machine does not hit one of them alone. The
    gradient is cleared after each run.
    """
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            times[name] = min(times[name], time.perf_counter() - began)
            model.zero_grad()
    return times


def main() -> None:
    """Checks that the gradients agree, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=OptimConfig().micro_batch_tokens)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model()
    batch = make_batch(arguments.episodes)
    config = OptimConfig(micro_batch_tokens=arguments.micro_batch_tokens)
    learner = Learner(model, config)
    learner.accumulate_gradient(batch)
    ours = flat_gradient(model)
    padded_gradient(model, batch, 16)
    theirs = flat_gradient(model)
    difference = float((ours - theirs).norm() / theirs.norm())
    if not difference < 1e-4:
        raise SystemExit(f"the gradients differ: relative difference {difference:.2e}")
    print(
        f"{batch.num_sequences} episodes, {batch.num_tokens} tokens, {batch.num_action_tokens} of "
        f"them sampled; gradients agree to {difference:.1e}"
    )
    functions: dict[str, Callable[[], object]] = {
        f"right-padded, {num_rows:2d} rows": partial(padded_gradient, model, batch, num_rows)
        for num_rows in (4, 8, 16, 32)
    }
    functions["this library"] = partial(learner.accumulate_gradient, batch)
    times = best_times(functions, model, arguments.repeats)
    speeds = {name: batch.num_tokens / seconds for name, seconds in times.items()}
    for name, speed in speeds.items():
        print(f"{name:24s}{speed:8,.0f} tokens/s")
    speed = speeds.pop("this library")
    for name, padded in speeds.items():
        print(f"ratio to {name:24s}{speed / padded:6.2f}")
    print(
        f"ratio to the best of them {speed / max(speeds.values()):12.2f}  (target {TARGET_RATIO})"
    )


if __name__ == "__main__":
    main()
