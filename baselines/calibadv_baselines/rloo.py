"""RLOO: REINFORCE with the mean of a trajectory's siblings as its baseline.

Source: arXiv 2402.14740; verl's estimator for details.

Made of
    advantage   `Rloo`: reward - mean reward of the other trajectories of the group
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean over the whole minibatch
    reward      that of the settings it is put on

Published settings: the estimator alone; sizes and rates are those of Search-R1
(arXiv 2503.09516), because the paper's own runs are not on search.

Run it: ``python -m calibadv_baselines.rloo --output-dir runs/rloo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.rloo import Rloo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """The estimator on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=Rloo())


BASELINE = Baseline(
    name="rloo",
    kind="published",
    description="REINFORCE with a leave-one-out baseline",
    source="Back to Basics (RLOO), arXiv 2402.14740",
    departures=(
        "the paper's runs are not on search; here the setting is that of Search-R1",
        "the paper has one REINFORCE step for each collection; here it is clipped like GRPO's",
    ),
    published=replace(SEARCH_R1_GRPO, advantage=Rloo()),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
