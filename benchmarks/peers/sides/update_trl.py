"""The same update by TRL's ``GRPOTrainer``, whose rollout function returns the episodes at once."""

from __future__ import annotations

import tempfile
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.peers.sides.episodes import GROUP_SIZE, LR, VOCAB_SIZE, make_episodes, make_model
from benchmarks.peers.worker import Turns
from calibadv_algo.integrations.trl import as_trl, episode_reward


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Makes each step of the trainer, from padding to AdamW, one turn of this side."""

    def __init__(self, turns: Turns, units: int) -> None:
        self._turns, self._units = turns, units

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Ready."""
        self._turns.announce()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Its turn begins."""
        self._turns.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """It ends, with the gradient applied."""
        self._turns.end(self._units)


def run(options: dict[str, Any], turns: Turns) -> None:
    """Trains for as many steps as there are rounds."""
    episodes = make_episodes(options["episodes"])
    vocabulary = {str(number): number for number in range(VOCAB_SIZE)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="0")),
        eos_token="0",
        pad_token="0",
    )
    columns = as_trl(episodes, filler=0)
    num_tokens = sum(
        len(prompt) + len(completion)
        for prompt, completion in zip(columns["prompt_ids"], columns["completion_ids"], strict=True)
    )
    prompts = [each.prompt_text for each in episodes[::GROUP_SIZE]]
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            learning_rate=LR,
            lr_scheduler_type="constant",
            per_device_train_batch_size=options["rows"],
            gradient_accumulation_steps=len(episodes) // options["rows"],
            num_generations=GROUP_SIZE,
            max_completion_length=1000,
            gradient_checkpointing=False,
            loss_type="dapo",
            beta=0.0,
            max_grad_norm=1.0,
            max_steps=options["rounds"] + 2,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            shuffle_dataset=False,
        )
        GRPOTrainer(
            model=make_model(),
            reward_funcs=[episode_reward],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            rollout_func=lambda prompts, trainer: columns,
            callbacks=[_Steps(turns, num_tokens)],
        ).train()
