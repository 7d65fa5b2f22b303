"""Episodes of the two sides of the update: a small policy's searches, in random tokens."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.types import Trajectory, Turn

VOCAB_SIZE = 1500
GROUP_SIZE = 8
LR = 1e-5


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
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def make_episodes(count: int) -> list[Trajectory]:
    """Groups of one prompt; two to four turns of 20 tokens, 55 observed after each search."""
    rng = np.random.default_rng(0)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, VOCAB_SIZE, size).tolist())

    episodes = []
    for group in range(count // GROUP_SIZE):
        prompt = draw(18)
        for place in range(GROUP_SIZE):
            num_turns = int(rng.integers(2, 5))
            turns = tuple(
                Turn(
                    action_ids=(ids := draw(int(rng.integers(12, 29)))),
                    action_text="",
                    logprobs=(-7.3,) * len(ids),
                    observation_ids=draw(55) if turn < num_turns - 1 else (),
                    reward=float(rng.random()) if turn == num_turns - 1 else 0.0,
                )
                for turn in range(num_turns)
            )
            episodes.append(
                Trajectory(
                    group_id=str(group),
                    task_id=f"{group}-{place}",
                    prompt_ids=prompt,
                    prompt_text=f"prompt {group}",
                    turns=turns,
                )
            )
    return episodes


def advantages(episodes: list[Trajectory]) -> list[float]:
    """GRPO's: reward less the group's mean, over its deviation."""
    found: list[float] = []
    for begin in range(0, len(episodes), GROUP_SIZE):
        rewards = np.array([each.reward for each in episodes[begin : begin + GROUP_SIZE]])
        found += ((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)).tolist()
    return found
