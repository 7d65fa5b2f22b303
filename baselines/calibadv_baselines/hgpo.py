"""HGPO: turns compared with those in their state, once for every length of shared history.

Source: arXiv 2602.22817 and code of its authors (CazeroZ/hgpo); a successor of GiGPO.

Made of
    advantage   `Hgpo`: discounted return (0.95 a turn) minus the mean over the turns of the group
                that began in the same state, and over those whose last one and two states were the
                same too; longer histories weigh more
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss

Published settings: the code has none for search. Sizes and rates are those of Search-R1
(arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.hgpo --output-dir runs/hgpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.hgpo import Hgpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """HGPO on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=Hgpo())


BASELINE = Baseline(
    name="hgpo",
    kind="published",
    description="turns compared by state and by shared history, weighted by its length",
    source="HGPO, arXiv 2602.22817",
    departures=(
        "the code trains on ALFWorld and WebShop; here the setting is that of Search-R1",
        "states are the environment's last words",
    ),
    published=replace(SEARCH_R1_GRPO, advantage=Hgpo()),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
