"""MaxRL: rewards divided by the group's mean, so that the likelihood of success is raised.

Source: "Maximum Likelihood Reinforcement Learning", arXiv 2602.02710.

Made of
    advantage   `MaxRl`: (reward - mean) / mean in the group
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean, no KL

Published settings: the paper trains on mathematics in one turn. Sizes and rates are those of
Search-R1 (arXiv 2503.09516), whose reward is exact match, 0 or 1.

Run it: ``python -m calibadv_baselines.max_rl --output-dir runs/max-rl``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.max_rl import MaxRl
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """MaxRL on any settings with rewards that are not negative."""
    return replace(find_arm("grpo").apply(config), advantage=MaxRl())


BASELINE = Baseline(
    name="max-rl",
    kind="published",
    description="rewards relative to the group's mean and in units of it",
    source="MaxRL, arXiv 2602.02710",
    departures=("the paper trains on mathematics in one turn; here the setting is Search-R1's",),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=MaxRl(),
        optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
