"""MT-PPO: PPO with verifiable rewards on the last token of every turn.

Source: "Reinforcing Multi-Turn Reasoning in LLM Agents via Turn-Level Reward Design",
arXiv 2505.11821.

Made of
    shaping     `MtPpoRewards`, in place of the environment's reward: a search earns 0.3 for results
                with the answer and costs 0.1 for each search so far, a turn earns 0.1 or loses 0.2
                by its format; at the end 1 for an exact match, 0.2 for another answer in a sound
                response, -1 without one
    advantage   `PpoGae`, gamma = lambda = 1, observations skipped
    loss        clipped surrogate, 0.2 on both sides, token mean; k1 divergence taken off the
                rewards, weight 0.001

Published settings: weights and schedule as a reader's account of the paper and a public
replication of it give them: Qwen2.5-7B, four turns, 500 updates with four passes each.

Run it: ``python -m calibadv_baselines.mt_ppo --output-dir runs/mt-ppo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.shaping.turns import MtPpoRewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """MT-PPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        shaping=(MtPpoRewards(),),
        env=replace(config.env, format_gate=False),
        optim=replace(config.optim, kl_coef=0.0, kl_reward_coef=0.001),
    )


BASELINE = Baseline(
    name="mt-ppo",
    kind="published",
    description="PPO with verifiable rewards for every turn",
    source="Turn-Level Reward Design (MT-PPO), arXiv 2505.11821",
    departures=(
        "the weights are those of a reader's account of the paper, whose text was not to be had",
        "sizes of batches and warm-ups are those of Search-R1's PPO",
        "rewards by a language model are left out; `JudgeCredit` gives such labels",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B",
        advantage=PpoGae(),
        shaping=(MtPpoRewards(),),
        rollout=replace(SEARCH_R1_GRPO.rollout, group_size=1),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_minibatches=2,
            num_epochs=4,
            num_updates=500,
            kl_coef=0.0,
            kl_reward_coef=0.001,
            critic=CriticConfig(lr=1e-5, warmup_fraction=0.015),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
