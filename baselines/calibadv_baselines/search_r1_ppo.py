"""Search-R1 with PPO: a critic, exact match, retrieved tokens masked.

Source: arXiv 2503.09516 and its code.

Made of
    advantage   `PpoGae`: generalised advantage estimation with gamma = lambda = 1 over the sampled
                tokens, whitened over the batch; observations are skipped
    loss        clipped surrogate, 0.2 on both sides, token mean; k1 divergence from the starting
                policy taken off the rewards, weight 0.001
    reward      exact match; the format does not count; a malformed action uses up a turn
    prompt      ``search_r1`` for a language model

Published settings: 512 questions x 1 episode, learning rate 1e-6 after a warm-up over 28.5 % of
1005 updates, critic 1e-5 after 1.5 %, value clip 0.5, entropy 0.001.

Run it: ``python -m calibadv_baselines.search_r1_ppo --output-dir runs/search-r1-ppo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """Search-R1's PPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
        optim=replace(config.optim, kl_coef=0.0, kl_reward_coef=0.001),
    )


BASELINE = Baseline(
    name="search-r1-ppo",
    kind="published",
    description="PPO with a critic, exact match, retrieved tokens masked",
    source="Search-R1, arXiv 2503.09516",
    departures=(
        "observations are skipped by the advantages, the whitening and the critic; in the code "
        "only the policy's loss leaves them out",
        "an episode without an answer earns 0; the code finds the example answer of its own "
        "prompt there",
        "observations are not cut at 500 tokens, and an episode is never cut from the left",
    ),
    published=replace(
        apply(SEARCH_R1_GRPO),
        rollout=replace(SEARCH_R1_GRPO.rollout, group_size=1),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_minibatches=2,
            kl_coef=0.0,
            kl_reward_coef=0.001,
            critic=CriticConfig(lr=1e-5, warmup_fraction=0.015, value_clip=0.5),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
