"""REINFORCE++: returns whitened over the whole batch, no group needed.

Source: arXiv 2501.03262; verl's estimator for details.

Made of
    advantage   `ReinforcePlusPlus`: the reward from each turn on, whitened over all sampled tokens
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean over the whole minibatch
    reward      that of the settings it is put on

Published settings: the estimator alone; sizes and rates are those of Search-R1
(arXiv 2503.09516), because the paper's own runs are not on search.

Run it: ``python -m calibadv_baselines.reinforce_pp --output-dir runs/reinforce-pp``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.reinforce import ReinforcePlusPlus
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """The estimator on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=ReinforcePlusPlus())


BASELINE = Baseline(
    name="reinforce-pp",
    kind="published",
    description="REINFORCE with returns whitened over the tokens of the batch",
    source="REINFORCE++, arXiv 2501.03262",
    departures=(
        "the paper's runs are not on search; here the setting is that of Search-R1",
        "the divergence is not taken off the rewards unless the settings say so",
    ),
    published=replace(SEARCH_R1_GRPO, advantage=ReinforcePlusPlus()),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
