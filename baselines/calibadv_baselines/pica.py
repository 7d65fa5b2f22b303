"""PiCA: PPO whose searches are paid by how near the answer they brought the episode.

Source: "Pivot-Based Credit Assignment for Search Agentic Reinforcement Learning",
arXiv 2605.09287, and its code.

Made of
    belief      the policy's belief in the accepted answers before every turn
    shaping     `PicaRewards`: 1.3 (p - 0.55 - surcharge) on each search, 1.5 times the outcome
    advantage   `PpoGae`: gamma = lambda = 1, whitened over the batch; a critic
    loss        clipped surrogate, 0.2 below and 0.28 above, token mean; k1 divergence 0.001 in
                the reward
    reward      F1

Published settings: 256 questions x 5 episodes, 40 steps an update, 190 updates, 5 turns,
Qwen2.5-7B-Instruct.

Run it: ``python -m calibadv_baselines.pica --output-dir runs/pica``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.beliefs import belief_of
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.shaping.beliefs import PicaRewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """PiCA on any settings whose tasks name accepted answers."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        shaping=(PicaRewards(belief=belief_of(config.model)),),
        env=replace(config.env, reward="f1", format_gate=False, invalid_action="continue"),
        optim=replace(
            config.optim,
            objective=ClippedSurrogate(clip_high=0.28),
            kl_coef=0.0,
            kl_reward_coef=0.001,
        ),
    )


BASELINE = Baseline(
    name="pica",
    kind="published",
    description="PPO with searches paid by the chance of success that they leave",
    source="PiCA, arXiv 2605.09287",
    departures=(
        "the chance of success is the policy's belief in the answer; there a reward model says it, "
        "trained on the authors' labels of pivot steps, whose weights are not public",
        "step rewards work with the factor 1.3 that the code makes of its setting 0.3",
        "observations are skipped by the advantages, the whitening and the critic",
    ),
    published=replace(
        apply(SEARCH_R1_GRPO),
        model="Qwen/Qwen2.5-7B-Instruct",
        env=replace(apply(SEARCH_R1_GRPO).env, max_turns=5),
        rollout=replace(
            SEARCH_R1_GRPO.rollout, num_questions=256, max_tokens=800, max_context=8192
        ),
        optim=replace(
            apply(SEARCH_R1_GRPO).optim,
            num_updates=190,
            lr=7e-7,
            num_minibatches=40,
            critic=CriticConfig(lr=7e-6, warmup_fraction=0.015),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
