"""GRPO: one advantage for a whole trajectory, the z-score of its reward within its group.

Source: DeepSeekMath (arXiv 2402.03300), as Search-R1 (arXiv 2503.09516) applies it to search.

Made of
    advantage   `Grpo`: (reward - group mean) / (group std + 1e-6), the same for every turn
    credit      none: turns are not judged
    loss        clipped surrogate, 0.2 on both sides, token mean over the whole minibatch, no KL
    reward      F1 behind the format gate, so that the comparison with CalibAdv changes one thing

Departures from Search-R1's script: F1 in place of exact match, a malformed action ends the
episode, no KL term. `SEARCH_R1_GRPO` in `calibadv_algo.config` has its own settings.

Run it: ``python baselines/grpo.py --output-dir runs/grpo``
"""

from __future__ import annotations

import tyro

from calibadv_algo.arms import find_arm
from calibadv_algo.commands.train import run_training
from calibadv_algo.config import ATLAS_TINY, TrainConfig

CONFIG = find_arm("grpo").apply(ATLAS_TINY)

if __name__ == "__main__":
    run_training(tyro.cli(TrainConfig, default=CONFIG, config=(tyro.conf.AvoidSubcommands,)))
