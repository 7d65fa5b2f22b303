"""Tokens that prefixes shared within a group save, and what an update gains by it.

Run ``OMP_NUM_THREADS=1 python benchmarks/shared_prefixes.py RUN`` on the folder of a training run.
The first and the last update's episodes are laid into trees of tokens; all tokens and the nodes are
counted. Then both ways of an update (``optim.prefixes``) take turns on the same episodes, with the
shipped policy: CPU seconds, least and median ratio, and the largest difference of the gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibadv_algo.batching import TokenBatch, build_token_batch
from calibadv_algo.experiments.planning.workload import Workload
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner
from calibadv_algo.learner.prefixes import plant
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.records import trajectory_from_record
from calibadv_env.common.jsonl import read_jsonl


def read_batch(file: Path) -> TokenBatch:
    """The episodes of an update with an advantage a turn, none of them zero."""
    episodes = [trajectory_from_record(record) for _, record in read_jsonl(file)]
    rng = np.random.default_rng(0)
    return build_token_batch(episodes, [rng.normal(size=len(each.turns)) for each in episodes])


def make_learner(prefixes: Any, tokens: int) -> Learner:
    """The shipped policy, with a learning rate that leaves it as it is."""
    model, _ = load_policy("atlas-tiny")
    config = OptimConfig(prefixes=prefixes, micro_batch_tokens=tokens, lr=1e-12)
    return Learner(model, config)


def gradient(learner: Learner, batch: TokenBatch) -> torch.Tensor:
    """The gradient of a batch's loss as one vector."""
    learner.accumulate_gradient(batch)
    found = [p.grad.flatten() for p in learner.policy.model.parameters() if p.grad is not None]
    vector = torch.cat(found)
    learner.policy.model.zero_grad()
    return vector


def compare(batch: TokenBatch, rounds: int, tokens: int) -> None:
    """Prints the ratio of both ways."""
    learners = {name: make_learner(name, tokens) for name in ("separate", "shared")}
    one, other = (gradient(learner, batch) for learner in learners.values())
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(rounds):
        for name in sorted(learners, reverse=bool(number % 2)):
            began = time.process_time()
            learners[name].update(batch, 0, np.random.default_rng(0))
            seconds[name].append(time.process_time() - began)
    ratios = [a / b for a, b in zip(seconds["separate"], seconds["shared"], strict=True)]
    print(
        f"  update: shared prefixes {min(ratios):.2f} (least) and {statistics.median(ratios):.2f} "
        f"(median of {rounds}) times as fast; largest difference of a gradient "
        f"{float((one - other).abs().max()):.1e} of {float(one.abs().max()):.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder that `calibadv train` wrote")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=1200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted((arguments.run / "trajectories").glob("update_*.jsonl"))
    for file in dict.fromkeys([files[0], files[-1]]):
        batch = read_batch(file)
        nodes = len(plant(batch).tokens)
        print(
            f"{file.stem}: {batch.num_tokens:,} tokens, {nodes:,} different ones; shared prefixes "
            f"save {1 - nodes / batch.num_tokens:.1%}"
        )
        compare(batch, arguments.rounds, arguments.micro_batch_tokens)
    work = Workload()
    saved = work.prompt_tokens * (work.group_size - 1) / work.group_size
    print(
        f"CalibAdv's batch, episodes of {work.tokens_per_episode:.0f} tokens in groups of "
        f"{work.group_size}: shared prompts alone save {saved / work.tokens_per_episode:.1%}"
    )


if __name__ == "__main__":
    main()
