"""StarPO-S (RAGEN): a critic, clip-higher, and only the quarter of the groups that deviate most.

Source: "RAGEN: Understanding Self-Evolution in LLM Agents via Multi-Turn RL", arXiv 2504.20073,
and its code.

Made of
    filters     `VarianceFilter`: the quarter of the groups with the largest deviation of rewards
    shaping     `MalformedPenalty`: -0.1 for a malformed turn
    advantage   `PpoGae`, gamma = lambda = 1
    loss        clipped surrogate with clip-higher, 0.2 below and 0.28 above; token mean; no KL;
                entropy bonus 0.001

Published settings: 8 questions x 16 episodes, 200 updates, critic 1e-5; the environment is that of
Search-R1.

Run it: ``python -m calibadv_baselines.starpo_s --output-dir runs/starpo-s``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.shaping.filters import VarianceFilter
from calibadv_algo.shaping.turns import MalformedPenalty
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

CLIP_HIGHER = ClippedSurrogate(clip_low=0.2, clip_high=0.28)


def apply(config: TrainConfig) -> TrainConfig:
    """StarPO-S on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        filters=(VarianceFilter(share=0.25),),
        shaping=(MalformedPenalty(),),
        env=replace(config.env, invalid_action="continue"),
        optim=replace(config.optim, objective=CLIP_HIGHER, kl_coef=0.0, entropy_coef=0.001),
    )


_RAGEN = replace(
    SEARCH_R1_GRPO,
    env=replace(SEARCH_R1_GRPO.env, invalid_action="continue"),
    rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=8, group_size=16, top_p=1.0),
    optim=replace(
        SEARCH_R1_GRPO.optim,
        num_updates=200,
        warmup_fraction=0.0,
        num_minibatches=1,
        objective=CLIP_HIGHER,
        kl_coef=0.0,
        entropy_coef=0.001,
        critic=CriticConfig(lr=1e-5),  # verl's ppo_trainer.yaml, which RAGEN's config inherits
    ),
)


BASELINE = Baseline(
    name="starpo-s",
    kind="published",
    description="PPO with clip-higher on the quarter of the groups whose rewards vary most",
    source="RAGEN (StarPO-S), arXiv 2504.20073",
    departures=(
        "the paper's environments are games; here the setting is that of Search-R1",
        "at least one group stays, where the code may keep none of a small batch",
    ),
    published=replace(
        _RAGEN,
        advantage=PpoGae(),
        filters=(VarianceFilter(share=0.25),),
        shaping=(MalformedPenalty(),),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
