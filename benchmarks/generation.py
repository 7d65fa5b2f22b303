"""Tokens a second of the engine against a plain ``model.generate`` loop on the same episodes.

    python benchmarks/generation.py [--policy PATH] [--episodes 64] [--repeats 3]

Both sides play the same scripted episodes: equal prompts within a group, observations of about
70 tokens, 3 or 4 turns of 8 to 40 sampled tokens. The lengths of the turns are forced by one
logits mask, a function of the position alone, so both sides sample equally many tokens. The
plain loop pads on the left, feeds the whole context again at every turn, stops at the stop
token by ``eos_token_id`` and is not asked for log-probabilities, which the engine does give.
One thread, both sides in turns within one process, processor time (so that other processes
count little); the median of the repeats is printed.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine

STOP = "</search>"
MIN_TURN, MAX_TURN = 8, 40
MAX_POSITIONS = 1024
TARGET = 2.0


@dataclass(frozen=True, slots=True)
class Script:
    """An episode: its prompt and what follows each of its turns but the last."""

    prompt: tuple[int, ...]
    observations: tuple[tuple[int, ...], ...]


def default_policy(vocab_size: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Qwen2 of 4 layers with random weights, and a word tokenizer for it."""
    words = {"<eos>": 0, STOP: 1} | {f"w{i}": i for i in range(2, vocab_size)}
    core = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", additional_special_tokens=[STOP]
    )
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval(), tokenizer


def stop_schedule(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Positions at which a turn has to end, 24 to 64 tokens apart."""
    schedule = np.zeros(MAX_POSITIONS + 1, dtype=np.bool_)
    position = 0
    while position <= MAX_POSITIONS:
        schedule[position] = True
        position += int(rng.integers(24, 65))
    return schedule


def turn_end(schedule: np.ndarray[Any, Any], start: int) -> int:
    """First position from ``start`` on at which a turn ends."""
    return start + int(np.argmax(schedule[start:]))


def write_scripts(
    rng: np.random.Generator,
    schedule: np.ndarray[Any, Any],
    count: int,
    group_size: int,
    tokens: Sequence[int],
) -> list[Script]:
    """Draws episodes whose turns are 8 to 40 tokens long under the schedule."""

    def piece(start: int, low: int, high: int) -> tuple[int, ...]:
        wanted = int(rng.integers(MIN_TURN, MAX_TURN + 1))
        turns = {
            size: turn_end(schedule, start + size) + 1 - (start + size)
            for size in rng.permutation(np.arange(low, high)).tolist()
        }
        allowed = [size for size, turn in turns.items() if MIN_TURN <= turn <= MAX_TURN]
        size = min(allowed, key=lambda size: abs(turns[size] - wanted))
        return tuple(int(token) for token in rng.choice(tokens, size))

    scripts = []
    prompt: tuple[int, ...] = ()
    for index in range(count):
        if index % group_size == 0:
            prompt = piece(0, 20, 40)
        length = len(prompt)
        observations = []
        for _ in range(int(rng.integers(2, 4))):
            length = turn_end(schedule, length) + 1
            observations.append(piece(length, 55, 86))
            length += len(observations[-1])
        scripts.append(Script(prompt, tuple(observations)))
    return scripts


@dataclass(frozen=True, slots=True)
class Forcing:
    """Makes turns end at the positions of a schedule and nowhere else.

    Attributes:
        must_stop: By position of a token, whether it is the stop token.
        stop_id: The stop token.
        banned: Tokens that may stand nowhere else.
    """

    must_stop: torch.Tensor
    stop_id: int
    banned: list[int]

    def __call__(self, logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Masks the logits of the tokens at these positions, ``[row, vocabulary]``."""
        ends = self.must_stop[positions]
        logits[:, self.banned] = float("-inf")
        logits[ends, self.stop_id] = 0.0
        others = torch.arange(logits.shape[1]) != self.stop_id
        return logits.masked_fill_(ends[:, None] & others, float("-inf"))

    @staticmethod
    def of(model: PreTrainedModel, schedule: np.ndarray[Any, Any], stop_id: int) -> Forcing:
        """The mask for a model's vocabulary."""
        eos = model.generation_config.eos_token_id
        banned = [stop_id, *([eos] if isinstance(eos, int) else eos or [])]
        return Forcing(torch.from_numpy(schedule), stop_id, banned)

    def on_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of the model whose logits are masked by a hook."""

        def mask(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            output.logits = self(output.logits[:, -1], kwargs["position_ids"][:, -1] + 1)[:, None]
            return output

        copied: PreTrainedModel = copy.deepcopy(model)
        copied.register_forward_hook(mask, with_kwargs=True)
        return copied

    def on_engine(self, engine: HfEngine) -> None:
        """Masks the logits on their way to the sampler: a hook would change how they are made."""
        batch = engine._batch
        sample = batch._sample

        def forced(logits: torch.Tensor) -> Any:
            return sample(self(logits, torch.from_numpy(batch._length[: batch._n])))

        batch._sample = forced


def run_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scripts: Sequence[Script],
    forcing: Forcing,
) -> tuple[int, list[int]]:
    """Plays the scripts with the engine; returns the tokens sampled and each turn's length."""
    engine = HfEngine(model, tokenizer, max_slots=len(scripts), max_context=MAX_POSITIONS)
    forcing.on_engine(engine)
    params = SamplingParams(max_tokens=MAX_TURN, stop=(STOP,))
    contexts = {str(i): script.prompt for i, script in enumerate(scripts)}
    lengths: list[int] = []
    turn = 0
    while contexts:
        requests = [
            GenerationRequest(name, context, 1000 * turn + int(name))
            for name, context in contexts.items()
        ]
        results = zip(requests, engine.generate(requests, params), strict=True)
        for request, generation in results:
            lengths.append(len(generation.token_ids))
            name = request.episode_id
            observations = scripts[int(name)].observations
            if turn < len(observations):
                contexts[name] = request.token_ids + generation.token_ids + observations[turn]
            else:
                del contexts[name]
                engine.release([name])
        turn += 1
    return sum(lengths), lengths


def run_plain(
    model: PreTrainedModel, scripts: Sequence[Script], stop_id: int
) -> tuple[int, list[int]]:
    """Plays the scripts with ``model.generate`` on left-padded contexts."""
    contexts = {i: list(script.prompt) for i, script in enumerate(scripts)}
    lengths: list[int] = []
    turn = 0
    while contexts:
        width = max(map(len, contexts.values()))
        ids = torch.zeros((len(contexts), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, context in enumerate(contexts.values()):
            ids[row, width - len(context) :] = torch.tensor(context)
            mask[row, width - len(context) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_TURN,
                eos_token_id=stop_id,
                pad_token_id=0,
            )
        for name, new in zip(list(contexts), output[:, width:].tolist(), strict=True):
            sampled = new[: new.index(stop_id) + 1]
            lengths.append(len(sampled))
            observations = scripts[name].observations
            if turn < len(observations):
                contexts[name] += [*sampled, *observations[turn]]
            else:
                del contexts[name]
        turn += 1
    return sum(lengths), lengths


def timed(play: Callable[[], tuple[int, list[int]]]) -> tuple[float, int, list[int]]:
    """Seconds, tokens and turn lengths of one run."""
    began = time.process_time()
    num_tokens, lengths = play()
    return time.process_time() - began, num_tokens, lengths


def main() -> int:
    """Runs both sides and prints their speeds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", help="folder of a saved model and tokenizer")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if arguments.policy:
        model = AutoModelForCausalLM.from_pretrained(arguments.policy).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.policy)
    else:
        model, tokenizer = default_policy(1500)
    stop_id = int(tokenizer.convert_tokens_to_ids(STOP))
    rng = np.random.default_rng(arguments.seed)
    schedule = stop_schedule(rng)
    ordinary = [i for i in range(len(tokenizer)) if i not in set(tokenizer.all_special_ids)]
    scripts = write_scripts(rng, schedule, arguments.episodes, arguments.group_size, ordinary)
    forcing = Forcing.of(model, schedule, stop_id)
    masked = forcing.on_model(model)
    engine_s, plain_s = [], []
    num_tokens = 0
    for repeat in range(arguments.repeats + 1):
        ours, num_tokens, lengths = timed(lambda: run_engine(model, tokenizer, scripts, forcing))
        plain, num_plain, plain_lengths = timed(lambda: run_plain(masked, scripts, stop_id))
        if lengths != plain_lengths or num_tokens != num_plain:
            raise RuntimeError("the two sides sampled turns of different lengths")
        if repeat:
            engine_s.append(ours)
            plain_s.append(plain)
    ours, plain = statistics.median(engine_s), statistics.median(plain_s)
    sys.stdout.write(
        f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{arguments.episodes} episodes, {len(lengths)} turns of {min(lengths)} to "
        f"{max(lengths)} tokens, {num_tokens} tokens\n"
        f"engine:         {num_tokens / ours:8.0f} tokens/s ({ours:.2f} s)\n"
        f"model.generate: {num_tokens / plain:8.0f} tokens/s ({plain:.2f} s)\n"
        f"ratio:          {plain / ours:8.2f} (target {TARGET:.1f})\n"
    )
    return 0 if plain / ours >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
