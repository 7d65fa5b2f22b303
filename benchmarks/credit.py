"""Continuations of states: prefixes computed once and copied, against naive continuation.

    python benchmarks/credit.py [--states 16] [--continuations 16] [--prefix 400] [--repeats 3]

Both sides sample the same turns of 24 tokens from the same contexts with the same seeds, on the
model of `benchmarks/generation.py`. Naive continuation gives every continuation its whole context
and computes it: the engine in batches of 64, with nothing to share, as when an episode is played
again from its text. The other side is what `calibadv credit` does: the continuations of a state
come one after the other, the engine computes their common context once and copies its keys and
values. One thread, both sides in turns, processor time; the median of the repeats is printed.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time

import numpy as np
import torch

from benchmarks.generation import default_policy
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine

TARGET = 3.0
NUM_SLOTS = 64
NUM_TOKENS = 24
VOCABULARY = 512


def requests(num_states: int, num_continuations: int, length: int) -> list[GenerationRequest]:
    """Continuations of random contexts, state by state."""
    rng = np.random.default_rng(0)
    contexts = [tuple(rng.integers(2, VOCABULARY, length).tolist()) for _ in range(num_states)]
    return [
        GenerationRequest(f"{state}:{number}", context, seed=1000 * state + number)
        for state, context in enumerate(contexts)
        for number in range(num_continuations)
    ]


def sample(
    engine: HfEngine, jobs: list[GenerationRequest], params: SamplingParams
) -> tuple[list[Generation], float]:
    """Turns of all jobs, 64 at a time, and the processor seconds that they took."""
    began = time.process_time()
    turns: list[Generation] = []
    for first in range(0, len(jobs), NUM_SLOTS):
        chunk = jobs[first : first + NUM_SLOTS]
        turns += engine.generate(chunk, params)
        engine.release([job.episode_id for job in chunk])
    return turns, time.process_time() - began


def scattered(jobs: list[GenerationRequest]) -> list[GenerationRequest]:
    """The jobs with a first token of their own, so that no two have a beginning in common."""
    return [
        GenerationRequest(
            job.episode_id, (2 + place % (VOCABULARY - 2), *job.token_ids[1:]), job.seed
        )
        for place, job in enumerate(jobs)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--continuations", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model, tokenizer = default_policy(VOCABULARY)
    params = SamplingParams(max_tokens=NUM_TOKENS)
    shared = requests(options.states, options.continuations, options.prefix)
    alone = scattered(shared)
    ratios = []
    for _ in range(options.repeats):
        seconds = {}
        for name, jobs in (("naive", alone), ("forked", shared)):
            engine = HfEngine(model, tokenizer, max_slots=NUM_SLOTS)
            turns, seconds[name] = sample(engine, jobs, params)
            tokens = sum(len(turn.token_ids) for turn in turns)
            print(
                f"{name:7} {seconds[name]:6.2f} s, {tokens:,} sampled, "
                f"{engine.counters.num_prefilled:,} context tokens computed, "
                f"{engine.counters.num_reused:,} copied"
            )
        ratios.append(seconds["naive"] / seconds["forked"])
    ratio = statistics.median(ratios)
    print(f"forked prefixes against naive continuation: {ratio:.2f} x (wanted {TARGET:g} x)")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
