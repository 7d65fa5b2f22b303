"""E-GRPO: a wrong answer earns by the entities that its thoughts came past.

Source: arXiv 2510.24694.

Made of
    shaping     `EntityReward`: 1 for a right answer; 0.3 times the share of the task's entities
                that stand in the thoughts, relative to the group's best, for a wrong one; 0 for a
                broken format or an over-long episode
    loss mask   `OverlongMask`: over-long episodes are compared with, but not trained on
    advantage   `Grpo`
    loss        clipped surrogate with clip-higher, 0.2 below and 0.28 above; mean over an
                episode's tokens first; no KL

Published settings: alpha 0.3; sizes and rates are those of Search-R1 (arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.e_grpo --output-dir runs/e-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.shaping.e_grpo import EntityReward
from calibadv_algo.shaping.filters import OverlongMask
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

CLIP_HIGHER = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def apply(config: TrainConfig) -> TrainConfig:
    """E-GRPO on any settings whose tasks name entities."""
    return replace(
        find_arm("grpo").apply(config),
        shaping=(EntityReward(),),
        loss_masks=(OverlongMask(),),
        optim=replace(
            config.optim,
            objective=CLIP_HIGHER,
            aggregation="seq-mean-token-mean",
            length_norm=None,
            kl_coef=0.0,
        ),
    )


BASELINE = Baseline(
    name="e-grpo",
    kind="published",
    description="GRPO whose wrong answers earn by the entities in their thoughts",
    source="E-GRPO, arXiv 2510.24694",
    departures=(
        "exact match tells right from wrong; in the paper a language model judges",
        "where a dataset names no entities, what its chain of facts leads to stands for them, "
        "else the titles of its evidence",
        "a valid format has at least one search",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        shaping=(EntityReward(alpha=0.3),),
        loss_masks=(OverlongMask(),),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            objective=CLIP_HIGHER,
            aggregation="seq-mean-token-mean",
            kl_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
