"""SimpleTIR: trajectories with a void turn stay out of the loss.

Source: arXiv 2509.02479 and its code.

Made of
    filters     `OverlongFilter`: over-long trajectories leave, and groups left with fewer than
                four; `RewardStdFilter`: groups whose rewards deviate by less than 1e-3 leave
    loss mask   `VoidTurnMask`: a trajectory with a turn that neither searches nor answers counts
                in its group's mean and deviation and is not trained on
    advantage   `Grpo`
    loss        clipped surrogate, 0.2 below and 0.28 above, dual clip 3, token mean, no KL
    environment a void turn ends the episode

Published settings: groups of 16, 5 turns, four steps an update, groups solved between one and
nine times in ten alone (the filter of the run in the README). Other sizes and rates are those of
Search-R1 (arXiv 2503.09516), because the paper's task is mathematics with code.

Run it: ``python -m calibadv_baselines.simpletir --output-dir runs/simpletir``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.shaping.filters import (
    OverlongFilter,
    RewardBand,
    RewardStdFilter,
    VoidTurnMask,
)
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

CLIP_HIGHER = ClippedSurrogate(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def apply(config: TrainConfig) -> TrainConfig:
    """SimpleTIR on any settings; a quarter of a group, and at least two, must be left."""
    min_size = max(2, config.rollout.group_size // 4)
    return replace(
        find_arm("grpo").apply(config),
        filters=(OverlongFilter(min_size=min_size, overlong="tokens"), RewardStdFilter()),
        loss_masks=(VoidTurnMask(),),
        env=replace(config.env, invalid_action="end"),
        optim=replace(config.optim, objective=CLIP_HIGHER, kl_coef=0.0),
    )


BASELINE = Baseline(
    name="simpletir",
    kind="published",
    description="GRPO without the trajectories that have a void turn",
    source="SimpleTIR, arXiv 2509.02479",
    departures=(
        "the tool is a search engine: a void turn holds no complete search and no answer",
        "too few groups make a smaller update; the code repeats them until the batch is full",
        "there is no oversampling: the README's run plays three times the questions",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        filters=(
            OverlongFilter(min_size=4, overlong="tokens"),
            RewardStdFilter(),
            RewardBand(low=0.1, high=0.9),
        ),
        loss_masks=(VoidTurnMask(),),
        env=replace(SEARCH_R1_GRPO.env, invalid_action="end", max_turns=5),
        rollout=replace(SEARCH_R1_GRPO.rollout, group_size=16, top_p=1.0),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            objective=CLIP_HIGHER,
            warmup_fraction=0.0,
            num_minibatches=4,
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
