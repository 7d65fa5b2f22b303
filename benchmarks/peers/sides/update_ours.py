"""An update of our learner: batch, loss, backward, clip, AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.sides.episodes import LR, advantages, make_episodes, make_model
from benchmarks.peers.worker import Turns
from calibadv_algo.batching import build_token_batch
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner


def run(options: dict[str, Any], turns: Turns) -> None:
    """Updates for as long as it is asked."""
    episodes = make_episodes(options["episodes"])
    values = advantages(episodes)
    config = OptimConfig(lr=LR, micro_batch_tokens=1200, num_minibatches=1)
    learner = Learner(make_model(), config)
    rng = np.random.default_rng(0)
    num_tokens = sum(
        len(each.prompt_ids)
        + sum(len(turn.action_ids) + len(turn.observation_ids) for turn in each.turns)
        for each in episodes
    )

    def work() -> int:
        rows = [np.full(len(e.turns), v) for e, v in zip(episodes, values, strict=True)]
        batch = build_token_batch(episodes, rows)
        learner.update(learner.prepare(batch), 0, rng)
        return num_tokens

    turns.repeat({"": work})
