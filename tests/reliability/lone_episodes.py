"""Plays episodes of the atlas together and one by one, and compares tokens and bits of log-probs.

A killed run plays the episodes that its journal lacks, with whatever is left of their batch; this
is what must not move a bit. The environment variables that choose kernels decide at start-up, so
each setting needs a process of its own:

    ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 \\
        python tests/reliability/lone_episodes.py --batches 10
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

import torch

from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.collection import make_player
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_env.protocol.prompts import stop_strings

GROUP = 3


def make(num_slots: int) -> Player:
    """The player of the smallest preset, as `calibadv train` makes it."""
    model, tokenizer = load_policy(ATLAS_TINY.model)
    engine = HfEngine(model, tokenizer)
    engine.sync_weights(model, 0)
    config = replace(ATLAS_TINY, rollout=replace(ATLAS_TINY.rollout, num_slots=num_slots))
    slots = make_slots(config.env.env_id, num_slots, config.env.kwargs())
    return make_player(config, slots, engine, tokenizer, stop=stop_strings(config.env.prompt))


def compare(player: Player, num_batches: int, size: int) -> dict[str, float]:
    """Counts episodes, and those that differ when they are played alone or in another batch."""
    counts = {"episodes": 0, "longest": 0, "other_tokens": 0, "other_bits": 0, "largest": 0.0}
    for batch in range(num_batches):
        specs = [
            EpisodeSpec(
                task_index=101 * batch + i // GROUP,
                group_id=f"{batch}-{i // GROUP}",
                seed=1000 * batch + i,
            )
            for i in range(size)
        ]
        together = player.play(specs).trajectories
        halves = [*player.play(specs[::2]).trajectories, *player.play(specs[1::2]).trajectories]
        alone = [player.play([spec]).trajectories[0] for spec in specs]
        order = [*range(0, size, 2), *range(1, size, 2)]
        pairs = [*zip(together, alone, strict=True)]
        pairs += [(together[i], half) for i, half in zip(order, halves, strict=True)]
        for one, other in pairs:
            tokens = [[turn.action_ids for turn in each.turns] for each in (one, other)]
            bits = [[turn.logprobs for turn in each.turns] for each in (one, other)]
            length = len(one.prompt_ids) + sum(
                len(turn.action_ids) + len(turn.observation_ids) for turn in one.turns
            )
            counts["episodes"] += 1
            counts["longest"] = max(counts["longest"], length)
            counts["other_tokens"] += tokens[0] != tokens[1]
            if bits[0] != bits[1]:
                counts["other_bits"] += 1
                flat = [[value for turn in each for value in turn] for each in bits]
                gaps = [abs(a - b) for a, b in zip(*flat, strict=False)]
                counts["largest"] = max([counts["largest"], *gaps])
    return counts


def main() -> int:
    """Prints the counts; 1 if anything differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--size", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    player = make(max(2, options.size))
    counts = compare(player, options.batches, options.size)
    kernels = torch.backends.cpu.get_cpu_capability()
    mkl = os.environ.get("MKL_ENABLE_INSTRUCTIONS", "-")
    sys.stdout.write(f"{kernels} mkl {mkl} {counts}\n")
    return int(bool(counts["other_bits"] or counts["other_tokens"]))


if __name__ == "__main__":
    sys.exit(main())
