"""GAGPO: temporal differences of a value that is the mean return of a state in the group.

Source: "Generalized Advantage Grouped Policy Optimization", arXiv 2605.13217, from a reader's
account of its method; a successor of GiGPO without a critic.

Made of
    advantage   `Gagpo`: GAE over turns with the group's mean return in a state as its value,
                brought to mean 0 and deviation 1 in the group
    loss        `TurnClipped`: one ratio an action, 0.2 on both sides; k3 divergence 0.001
    reward      that of the settings it is put on

Published settings: the paper has none for search. Sizes and rates are those of Search-R1
(arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.gagpo --output-dir runs/gagpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gagpo import Gagpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.turn_clipped import TurnClipped
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """GAGPO on any settings."""
    optim = replace(config.optim, objective=TurnClipped())
    return replace(find_arm("grpo").apply(config), advantage=Gagpo(), optim=optim)


BASELINE = Baseline(
    name="gagpo",
    kind="published",
    description="temporal differences of the group's mean return in a state",
    source="GAGPO, arXiv 2605.13217",
    departures=(
        "the method is that of a reader's account; neither code nor the paper's text was to be had",
        "the discounts 0.95 and 0.95 are ours",
        "the paper trains on ALFWorld and WebShop; here the setting is that of Search-R1",
    ),
    published=apply(SEARCH_R1_GRPO),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
