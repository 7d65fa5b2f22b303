"""GDPO: right answers and sound formats compared apart, so that neither drowns the other.

Source: arXiv 2601.05242, as in TRL's ``normalize_then_sum``.

Made of
    advantage   `Gdpo`: F1 and format, each brought to mean 0 and deviation 1 in the group, added,
                whitened over the batch's episodes
    loss        clipped surrogate, 0.2 on both sides, token mean

Published settings: Search-R1's (arXiv 2503.09516) with this one change, and no KL.

Run it: ``python -m calibadv_baselines.gdpo --output-dir runs/gdpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gdpo import Gdpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """GDPO of F1 and format on any settings of a search environment."""
    return replace(find_arm("grpo").apply(config), advantage=Gdpo())


BASELINE = Baseline(
    name="gdpo",
    kind="published",
    description="F1 and format compared within the group apart, then added",
    source="GDPO, arXiv 2601.05242",
    departures=(
        "the paper is not about search; the kinds of reward are F1 and the format of the response",
        "the kinds are read from the facts at the end of an episode, whatever the reward is",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=Gdpo(),
        optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
