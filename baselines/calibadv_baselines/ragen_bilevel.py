"""RAGEN with bi-level GAE: advantages first from turn to turn, then from token to token.

Source: "RAGEN: Understanding Self-Evolution in LLM Agents via Multi-Turn RL", arXiv 2504.20073;
the estimator is in its code and in VAGEN's.

Made of
    filters     `VarianceFilter`: the quarter of the groups with the largest deviation of rewards
    shaping     `MalformedPenalty`: -0.1 for a malformed turn
    advantage   `BiLevelGae`: turns are discounted by 0.95, tokens by 1; a turn's last token takes
                over the turn's return
    loss        clipped surrogate with clip-higher, 0.2 below and 0.28 above; token mean; no KL;
                entropy bonus 0.001

Published settings: 8 questions x 16 episodes, 200 updates, critic 1e-5; the environment is that of
Search-R1.

Run it: ``python -m calibadv_baselines.ragen_bilevel --output-dir runs/ragen-bilevel``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.bilevel_gae import BiLevelGae
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
    """RAGEN's bi-level GAE on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=BiLevelGae(),
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
    name="ragen-bilevel",
    kind="published",
    description="PPO with advantages from turn to turn and then from token to token",
    source="RAGEN (bi-level GAE), arXiv 2504.20073",
    departures=(
        "at least one group stays, where the code may keep none of a small batch",
        "the paper's environments are games; here the setting is that of Search-R1",
        "the ends of turns are known; the code takes every token with a reward for one, so that "
        "a turn without a reward is none and a last reward of 0 is an error",
    ),
    published=replace(
        _RAGEN,
        advantage=BiLevelGae(),
        filters=(VarianceFilter(share=0.25),),
        shaping=(MalformedPenalty(),),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
