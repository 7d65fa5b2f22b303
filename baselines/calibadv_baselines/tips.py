"""TIPS: PPO whose searches are also paid by the growth of a teacher's belief in the answer.

Source: "Turn-Level Information-Potential Reward Shaping", arXiv 2603.22293, and its code.

Made of
    belief      the starting policy's belief in the accepted answers before every turn
    shaping     `TipsRewards`: 0.02 times the growth of their log-likelihood, on each search
    advantage   `PpoGae`: gamma = lambda = 1, whitened over the batch; a critic
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001
    reward      exact match

Published settings: 256 questions x 1 episode, one step an update, 5 turns, Qwen2.5-7B-Instruct.

Run it: ``python -m calibadv_baselines.tips --output-dir runs/tips``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.beliefs import belief_of
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.shaping.beliefs import TipsRewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """TIPS on any settings whose tasks name accepted answers."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        shaping=(TipsRewards(belief=belief_of(config.model, "start")),),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
    )


BASELINE = Baseline(
    name="tips",
    kind="published",
    description="PPO with searches paid by a teacher's growing belief in the answer",
    source="TIPS, arXiv 2603.22293",
    departures=(
        "the teacher is the starting policy throughout; the paper also refreshes it",
        "the text after which the answers' likelihood is taken is ours",
        "observations are skipped by the advantages, the whitening and the critic",
    ),
    published=replace(
        apply(SEARCH_R1_GRPO),
        model="Qwen/Qwen2.5-7B-Instruct",
        env=replace(SEARCH_R1_GRPO.env, max_turns=5),
        rollout=replace(
            SEARCH_R1_GRPO.rollout,
            num_questions=256,
            group_size=1,
            max_tokens=4096,
            max_context=15000,
        ),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_minibatches=1,
            entropy_coef=0.0,
            critic=CriticConfig(lr=1e-5),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
