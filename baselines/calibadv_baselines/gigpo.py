"""GiGPO: episodes are compared in their group, turns among all that began in the same state.

Source: arXiv 2505.10978 and its code.

Made of
    advantage   `GiGpo`: the z-score of the reward in the group, plus that of the discounted return
                (0.95 a turn) among the turns of the group before which the environment had just
                said the same, or nearly
    shaping     `MalformedPenalty`: -0.01 for a malformed turn
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss

Published settings, of the script for search: 256 questions x 5 episodes, both parts divided by
deviations, states alike from a similarity of 0.9 on, Qwen2.5-7B-Instruct, warm-up over a tenth.
Other sizes and rates are those of Search-R1 (arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.gigpo --output-dir runs/gigpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gigpo import GiGpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.turns import MalformedPenalty
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

ADVANTAGE = GiGpo(anchor="observation", normalization="group", similarity=0.9)


def apply(config: TrainConfig) -> TrainConfig:
    """GiGPO on any settings; states must be equal, which is quicker than to compare texts."""
    return replace(
        find_arm("grpo").apply(config), advantage=GiGpo(anchor="observation", normalization="group")
    )


BASELINE = Baseline(
    name="gigpo",
    kind="published",
    description="GRPO plus a comparison of turns that began in the same state",
    source="GiGPO, arXiv 2505.10978",
    departures=(
        "put on other settings, states are the same where their texts are equal, and invalid "
        "actions cost nothing",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B-Instruct",
        advantage=ADVANTAGE,
        shaping=(MalformedPenalty(penalty=-0.01),),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=256),
        optim=replace(SEARCH_R1_GRPO.optim, warmup_fraction=0.1, entropy_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
