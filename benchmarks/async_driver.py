"""Seconds of the asynchronous driver against the lock-step driver on the same episodes.

    python benchmarks/async_driver.py [--engine paced|model|both] [--lengths log|even]
        [--episodes 256] [--slots 64]

Both drivers play the same episodes of the atlas: three searches and an answer, turns of 10 to 100
tokens drawn evenly on a logarithmic scale (`even`: on a plain one), and a retriever that takes
50 ms for a call, whatever the number of queries. The environment gets a written action in place
of what was sampled, so that every turn searches.

`paced` is a clock in place of a model: a step of the running batch takes 5 ms with any number of
rows, about what a GPU does while memory limits it. The target is for this one. `model` is the
shipped atlas policy with the Hugging Face engine on a CPU, whose turns are cut at the drawn
lengths; there a step costs more the more rows it has and the longer the longest of them is, so
rows that wait cost the lock-step driver little. Fewer episodes lower the
ratio: while the last ones end, slots stand idle. The two drivers take turns within one process, and
the trajectories of both are compared. Wall-clock time: the share in which nothing was sampled
because everything waited for the environment is printed too.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.batch import RunningBatch
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.scripted import PacedEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec, RolloutBatch, turn_seed
from calibadv_algo.rollout.slots import make_slots
from calibadv_env.data.registry import get_dataset
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import Retriever

POLICY = policy_path("atlas-tiny")
SHORTEST, LONGEST = 10, 100
NUM_SEARCHES = 3
STEP_S = 0.005
TARGET = 1.5


def turn_length(seed: int, lengths: str) -> int:
    """Tokens of the turn with this seed."""
    share = float(np.random.default_rng(seed).random())
    if lengths == "even":
        return SHORTEST + int(share * (LONGEST + 1 - SHORTEST))
    return round(SHORTEST * (LONGEST / SHORTEST) ** share)


@dataclass(frozen=True, slots=True)
class SlowRetriever:
    """Retriever that sleeps once a call."""

    retriever: Retriever
    seconds: float

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Sleeps, then searches."""
        time.sleep(self.seconds)
        return self.retriever.search(queries, top_k)


class Turns:
    """Every turn of an episode: its number of tokens, and its action."""

    def __init__(self, specs: Sequence[EpisodeSpec], lengths: str) -> None:
        self._lengths = lengths
        self._texts = {
            turn_seed(spec.seed, turn): (
                "<think>so</think><answer>Paris</answer>"
                if turn == NUM_SEARCHES
                else f"<think>next</think><search>airport {spec.seed} {turn}</search>"
            )
            for spec in specs
            for turn in range(NUM_SEARCHES + 1)
        }

    def text(self, seed: int) -> str:
        """The action of the turn with this seed."""
        return self._texts[seed]

    def length(self, seed: int) -> int:
        """Number of tokens of the turn with this seed."""
        return turn_length(seed, self._lengths)


class Writer:
    """Writes the turns: as many tokens as drawn, all the same one."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """As many tokens as the turn is planned to have."""
        seeds = [request.seed for request in requests]
        counts = [self._turns.length(seed) for seed in seeds]
        return [
            Generation((7,) * count, (0.0,) * count, self._turns.text(seed), "stop")
            for seed, count in zip(seeds, counts, strict=True)
        ]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Keeps nothing."""

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Has no weights."""


class CutBatch(RunningBatch):
    """Cuts turns at the drawn lengths."""

    turns: Turns

    def _admit(self) -> torch.Tensor:
        logits = super()._admit()
        for job, request in enumerate(self._jobs):
            if request is not None:
                length = self.turns.length(request.seed)
                self._most[job] = min(int(self._most[job]), length)
        return logits


class CutEngine(HfEngine):
    """Samples turns of the drawn lengths and gives the environment written actions."""

    turns: Turns
    seeds: dict[str, int]

    def cut(self, turns: Turns) -> None:
        """Says what the turns are."""
        self.turns, self.seeds = turns, {}
        batch = CutBatch(self.model, self._decoder, self._limits, self.counters)
        batch.turns = turns
        self._batch = batch

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Remembers the seeds."""
        self.seeds |= {request.episode_id: request.seed for request in requests}
        super().submit(requests, params)

    def step(self) -> list[tuple[str, Generation]]:
        """Replaces what was written."""
        return [
            (name, replace(turn, text=self.turns.text(self.seeds[name])))
            for name, turn in super().step()
        ]


def paced_engine(turns: Turns, _arguments: argparse.Namespace) -> PacedEngine:
    """A clock in place of a model."""
    return PacedEngine(Writer(turns), lambda _: STEP_S)


def model_engine(turns: Turns, arguments: argparse.Namespace) -> CutEngine:
    """The atlas policy, which never ends a turn by itself."""
    model = AutoModelForCausalLM.from_pretrained(arguments.policy).eval()
    eos = model.generation_config.eos_token_id
    banned = eos if isinstance(eos, list) else [eos]

    def ban(_module: Any, _args: Any, output: Any) -> Any:
        output.logits[:, -1, banned] = float("-inf")
        return output

    model.register_forward_hook(ban)
    tokenizer = AutoTokenizer.from_pretrained(arguments.policy)
    engine = CutEngine(model, tokenizer, max_slots=arguments.slots)
    engine.cut(turns)
    return engine


ENGINES: dict[str, Callable[[Turns, argparse.Namespace], Any]] = {
    "model": model_engine,
    "paced": paced_engine,
}


def measure(name: str, arguments: argparse.Namespace) -> float:
    """Plays with both drivers in turns, prints, and returns the ratio of the medians."""
    retriever = SlowRetriever(get_dataset("atlas").retriever("bm25"), arguments.retrieval_s)
    kwargs = {"retriever": retriever, "prompt": "question", "max_turns": NUM_SEARCHES + 1}
    slots = make_slots("calibadv_env:DeepSearch-v1", arguments.slots, {"dataset": "atlas"} | kwargs)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    specs = [
        EpisodeSpec(task_index=i // 8, group_id=str(i // 8), seed=i)
        for i in range(arguments.episodes)
    ]
    params = SamplingParams(max_tokens=LONGEST)
    config = DriverConfig(max_context_tokens=1024)
    engine = ENGINES[name](Turns(specs, arguments.lengths), arguments)
    batches: dict[str, list[RolloutBatch]] = {"lock-step": [], "async": []}
    for repeat in range(arguments.repeats + 1):
        for driver, kind in (("lock-step", Player), ("async", AsyncPlayer)):
            batch = kind(slots, engine, tokenizer, params, config).play(specs)
            batches[driver] += [batch] if repeat else []
    slots.close()
    lock, free = batches["lock-step"], batches["async"]
    if repr(lock[0].trajectories) != repr(free[0].trajectories):
        raise RuntimeError("the two drivers played different episodes")
    ratio = median_s(lock) / median_s(free)
    stats = free[0].stats
    target = f" (target {TARGET})" if name == "paced" else ""
    sys.stdout.write(
        f"{name}: {stats.num_episodes} episodes in {arguments.slots} slots, {stats.num_turns} "
        f"turns, {stats.num_sampled_tokens} tokens, {arguments.retrieval_s * 1000:.0f} ms a "
        f"retrieval\n{line('lock-step', lock)}{line('async', free)}"
        f"  ratio:     {ratio:6.2f}{target}\n"
    )
    return ratio


def median_s(batches: Sequence[RolloutBatch]) -> float:
    """Median seconds of a collection."""
    return statistics.median(batch.stats.total_s for batch in batches)


def line(name: str, batches: Sequence[RolloutBatch]) -> str:
    """Line that is printed of a driver."""
    wait = statistics.median(batch.stats.wait_s / batch.stats.total_s for batch in batches)
    tokens = statistics.median(batch.stats.tokens_per_s for batch in batches)
    return (
        f"  {name + ':':10} {median_s(batches):6.2f} s, {tokens:6.0f} tokens/s, "
        f"{100 * wait:4.1f} % of it waiting for the environment\n"
    )


def main() -> int:
    """Measures and says whether the target was reached with every engine asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="paced")
    parser.add_argument("--lengths", choices=["log", "even"], default="log")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--retrieval-s", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--policy", default=POLICY)
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    names = list(ENGINES) if arguments.engine == "both" else [arguments.engine]
    ratios = {name: measure(name, arguments) for name in names}
    return 0 if ratios.get("paced", TARGET) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
