"""CISPO: the importance weight is clipped and no token loses its gradient.

Source: MiniMax-M1, arXiv 2506.13585.

Made of
    advantage   `Grpo`
    loss        `Cispo`: -clip(ratio) A log p, with the clipped ratio held constant; token mean; no
                KL

Published settings: the weight is bounded from above alone. The bound is not published; 5, the
value that TRL's documentation names, is taken. Sizes and rates are those of Search-R1.

Run it: ``python -m calibadv_baselines.cispo --output-dir runs/cispo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.cispo import Cispo
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

BOUNDED_ABOVE = Cispo(clip_low=1.0, clip_high=4.0)


def apply(config: TrainConfig) -> TrainConfig:
    """CISPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        optim=replace(config.optim, objective=BOUNDED_ABOVE, aggregation="token-mean", kl_coef=0.0),
    )


BASELINE = Baseline(
    name="cispo",
    kind="published",
    description="GRPO with a clipped constant importance weight in place of the clipped surrogate",
    source="MiniMax-M1 (CISPO), arXiv 2506.13585",
    departures=(
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "the upper bound of the weight is not published; it is 5",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        optim=replace(
            SEARCH_R1_GRPO.optim, objective=BOUNDED_ABOVE, aggregation="token-mean", kl_coef=0.0
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
