"""DAPO: four changes to GRPO that keep long training runs alive.

Source: arXiv 2503.14476; verl's recipe for details that the paper leaves open.

Made of
    filters     `DynamicSampling`: groups whose rewards are all equal are replaced by new
                questions, in at most 10 collections an update
    shaping     `OverlongPenalty`: the reward falls linearly over the last tokens before the limit
    loss mask   `OverlongMask`: what was cut off is compared with, but not trained on
    advantage   `Grpo`
    loss        clipped surrogate with clip-higher, 0.2 below and 0.28 above; token mean; no KL

Published settings: 512 questions x 16 responses, 16 steps of the optimiser for each collection,
learning rate 1e-6, limit 20480 tokens of which the last 4096 are punished. The environment is
that of Search-R1, because the paper's own task is mathematics.

Run it: ``python -m calibadv_baselines.dapo --output-dir runs/dapo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.shaping.filters import DynamicSampling, OverlongMask
from calibadv_algo.shaping.overlong import OverlongPenalty
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

CLIP_HIGHER = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def apply(config: TrainConfig) -> TrainConfig:
    """DAPO on any settings; the limit is that of a turn, its last fifth is punished."""
    limit = config.rollout.max_tokens
    return replace(
        find_arm("grpo").apply(config),
        advantage=Grpo(),
        filters=(DynamicSampling(),),
        shaping=(OverlongPenalty(max_tokens=limit, buffer=max(1, limit // 5), counted="turn"),),
        loss_masks=(OverlongMask(overlong="tokens"),),
        optim=replace(config.optim, objective=CLIP_HIGHER, aggregation="token-mean", kl_coef=0.0),
    )


BASELINE = Baseline(
    name="dapo",
    kind="published",
    description="GRPO with clip-higher, dynamic sampling, and care for over-long responses",
    source="DAPO, arXiv 2503.14476",
    departures=(
        "over-long responses are masked and penalised; verl's recipe has the penalty alone, a "
        "weight decay of 0.1 and a dual clip of 10",
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "where ten collections do not fill an update, it goes on with what there is",
        "put on other settings, the limit is one on the tokens of a turn, not of a response",
        "groups of one are kept; the paper does not say",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        filters=(DynamicSampling(on_exhaust="raise"),),
        shaping=(OverlongPenalty(max_tokens=20480, buffer=4096, counted="response"),),
        loss_masks=(OverlongMask(),),
        rollout=replace(SEARCH_R1_GRPO.rollout, group_size=16, max_tokens=4096, max_context=20480),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            lr=1e-6,
            warmup_fraction=0.02,
            num_minibatches=16,
            objective=CLIP_HIGHER,
            aggregation="token-mean",
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
