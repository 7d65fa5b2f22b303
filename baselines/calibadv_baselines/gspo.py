"""GSPO: one probability ratio for a whole response, and one clip.

Source: arXiv 2507.18071; verl's example for the clip.

Made of
    advantage   `Grpo`
    loss        `Gspo`: the ratio is the geometric mean of the tokens' ratios, clipped 3e-4 below
                and 4e-4 above 1; mean over the tokens of a response, then over responses; no KL

Published settings: these clips, four steps of the optimiser for each collection. Other sizes and
rates are those of Search-R1 (arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.gspo --output-dir runs/gspo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """GSPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        optim=replace(
            config.optim, objective=Gspo(), aggregation="seq-mean-token-mean", kl_coef=0.0
        ),
    )


BASELINE = Baseline(
    name="gspo",
    kind="published",
    description="GRPO with one clipped ratio for a whole trajectory",
    source="GSPO, arXiv 2507.18071",
    departures=(
        "warm-up, entropy bonus and nucleus are Search-R1's; verl's recipe has 0.05, 0 and 1",
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "the ratio is over the sampled tokens of all turns; observations are left out",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        optim=replace(
            SEARCH_R1_GRPO.optim,
            objective=Gspo(),
            aggregation="seq-mean-token-mean",
            num_minibatches=4,
            kl_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
