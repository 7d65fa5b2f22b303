"""A text environment that has nothing to do with search, and a tiny policy to play it.

The observation names a letter; a turn that begins with the same letter earns a point. It is made
of Gymnasium alone, so whatever trains on it works on any environment that speaks text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.slots import ListSlots
from calibadv_algo.training.collection import make_eval_player, make_player
from calibadv_algo.training.config import EvalConfig, RolloutConfig, TrainConfig
from calibadv_algo.training.trainer import Trainer

LETTERS = "abcd"
STOP = "."
VOCAB = ["<pad>", "<eos>", ">", STOP, *LETTERS]


class LetterEnv(gymnasium.Env[str, str]):
    """Two turns: each shows a letter and pays half a point for the same letter."""

    def __init__(self, num_turns: int = 2) -> None:
        self.observation_space = spaces.Text(8)
        self.action_space = spaces.Text(8)
        self._num_turns = num_turns
        self._turn = 0
        self._index = 0

    @property
    def _letter(self) -> str:
        return LETTERS[(self._index + self._turn) % len(LETTERS)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._index = int((options or {}).get("task_index", 0))
        self._turn = 0
        return f"{self._letter}>", {"num_tasks": len(LETTERS)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        reward = float(action.startswith(self._letter)) / self._num_turns
        self._turn += 1
        is_over = self._turn == self._num_turns
        return f"{self._letter}>", reward, is_over, False, {"length": len(action)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCAB)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")


def make_model(seed: int = 0) -> Qwen2ForCausalLM:
    """A randomly initialised decoder of some thousand weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(VOCAB),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=False,
                eos_token_id=1,
                pad_token_id=0,
            )
        )


def make_config(output_dir: Path, **changes: Any) -> TrainConfig:
    """Settings with which GRPO learns the letters in seconds."""
    from calibadv_algo.advantages.grpo import Grpo
    from calibadv_algo.credit.labels import NoCredit

    values: dict[str, Any] = {
        "output_dir": output_dir,
        "advantage": Grpo(),
        "credit": NoCredit(),
        "rollout": RolloutConfig(
            num_questions=4, group_size=8, max_tokens=3, max_context=32, num_slots=32
        ),
        "optim": OptimConfig(num_updates=30, lr=1e-2),
        "evaluation": EvalConfig(every=0),
        "quiet": True,
    }
    return TrainConfig(**values | changes)


def make_trainer(config: TrainConfig, **changes: Any) -> Trainer:
    """A trainer on the letters."""
    model = changes.pop("model", None) or make_model(config.seed)
    tokenizer = make_tokenizer()
    engine = changes.pop("engine", None) or HfEngine(model, tokenizer)
    slots = changes.pop("slots", None) or ListSlots(
        [LetterEnv() for _ in range(config.rollout.num_slots)]
    )
    player = make_player(config, slots, engine, tokenizer, stop=(STOP,))
    eval_player = make_eval_player(config, player, ListSlots([LetterEnv() for _ in range(4)]))
    return Trainer(config, model=model, player=player, eval_player=eval_player, **changes)
