"""CalibAdv: GRPO whose negative advantages are calibrated turn by turn.

Source: arXiv 2604.18235. `CALIBADV_QWEN25_3B`, `CALIBADV_QWEN25_7B` and `CALIBADV_LLAMA32_3B`
in `calibadv_algo.config` hold the published settings.

Made of
    credit      `SilverCredit`: a search is correct as far as it finds passages that the group's
                best trajectories found too, and neither repeats a thought nor a result
    advantage   `CalibAdv`: GRPO's, then
                (S) in trajectories with a negative advantage that of a search turn shrinks by
                    its correctness, A (1 - c)
                (R) positive advantages of answer turns are scaled within the group, so that
                    positive and negative answer mass are equal
    environment (T) ``prepend_think=True``: the opening <think> tag ends the prompt and every
                observation; the policy never samples it, so it carries no advantage
    loss        clipped surrogate, 0.2 on both sides, token mean over the whole minibatch, no KL
    reward      F1 behind the format gate

Departures from the published code, which does not run as shipped: see ``docs/paper_map.md``.

Run it: ``python baselines/calibadv.py --output-dir runs/calibadv``
"""

from __future__ import annotations

import tyro

from calibadv_algo.arms import find_arm
from calibadv_algo.commands.train import run_training
from calibadv_algo.config import ATLAS_TINY, TrainConfig

CONFIG = find_arm("calibadv").apply(ATLAS_TINY)

if __name__ == "__main__":
    run_training(tyro.cli(TrainConfig, default=CONFIG, config=(tyro.conf.AvoidSubcommands,)))
