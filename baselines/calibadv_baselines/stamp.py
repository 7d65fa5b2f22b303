"""STAMP: GRPO modulated by the evidence that a turn was the first to meet.

Source: "Provenance-Guided Credit Assignment for Deep Search Agents", arXiv 2607.11172, from a
public reconstruction of its equations.

Made of
    advantage   `Stamp`: GRPO's advantage A times 1 + sign(A) c, c being 0.03 for each hop whose
                evidence the turn was the first to show, 0.1 at most
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001
    reward      that of the settings it is put on

Published settings: delta and cap are the paper's; sizes and rates are those of Search-R1
(arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.stamp --output-dir runs/stamp``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.stamp import Stamp
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """STAMP on any settings whose tasks name gold passages."""
    return replace(find_arm("grpo").apply(config), advantage=Stamp())


BASELINE = Baseline(
    name="stamp",
    kind="published",
    description="GRPO with more of the good and less of the bad for turns that meet evidence",
    source="STAMP, arXiv 2607.11172",
    departures=(
        "the equations are those of a public reconstruction; neither code nor text was to be had",
        "units of evidence are the hops of a task with gold passages, not a graph that a model "
        "builds and verifies",
        "the paper trains deep search on the web; here the setting is that of Search-R1",
    ),
    published=replace(SEARCH_R1_GRPO, advantage=Stamp()),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
