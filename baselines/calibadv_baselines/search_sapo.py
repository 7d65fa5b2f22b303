"""Search Agent Policy Optimization: GRPO that holds good tokens back from becoming unlikely.

Source: "Improving Search Agent with One Line of Code", arXiv 2603.10069. Not the Soft Adaptive
Policy Optimization of the same letters.

Made of
    advantage   GRPO
    loss        `SearchSapo`: clipped surrogate, 0.2 on both sides, and 0.1 times the mean fall of
                the log-probability of good tokens whose ratio is 0.8 or less
    reward      that of the settings it is put on

Published settings: those of Search-R1 (arXiv 2503.09516), which the paper compares itself with.

Run it: ``python -m calibadv_baselines.search_sapo --output-dir runs/search-sapo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.search_sapo import SearchSapo
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """Search-agent SAPO on any settings."""
    optim = replace(config.optim, objective=SearchSapo())
    return replace(find_arm("grpo").apply(config), optim=optim)


BASELINE = Baseline(
    name="search-sapo",
    kind="published",
    description="GRPO with a divergence on good tokens that have become unlikely",
    source="Search Agent Policy Optimization, arXiv 2603.10069",
    departures=(
        "the threshold of the ratio, 0.8, and the weight, 0.1, are ours: neither could be found",
        "the advantage is looked at token by token, not that of a response's first token",
    ),
    published=apply(SEARCH_R1_GRPO),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
