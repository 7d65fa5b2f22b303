"""MT-GRPO: rewards for turns and for the outcome, compared apart and added.

Source: "Reinforcing Multi-Turn Reasoning in LLM Agents via Turn-Level Reward Design",
arXiv 2505.11821, and its code.

Made of
    shaping     `MtGrpoRewards`: a search earns 0.2 for results and 0.5 for results with the
                answer; the answer earns 0.5 if it contains an accepted one, 1 if it equals one,
                0.2 each for format and tags
    advantage   `MtGrpo`: the outcome's z-score, plus the turn's own among the group's turns of
                the same index
    loss        clipped surrogate, 0.2 on both sides, token mean, two passes, no KL

Published settings: TriviaQA on Qwen2.5-7B, 16 questions x 21 episodes, one search, learning rate
1e-6 after a warm-up of 20 steps, 150 updates of two passes each, gradient norm 0.1.

Run it: ``python -m calibadv_baselines.mt_grpo --output-dir runs/mt-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.mt_grpo import MtGrpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.turns import MtGrpoRewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """MT-GRPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=MtGrpo(),
        shaping=(MtGrpoRewards(),),
        env=replace(config.env, format_gate=False),
        optim=replace(config.optim, num_epochs=2, kl_coef=0.0),
    )


BASELINE = Baseline(
    name="mt-grpo",
    kind="published",
    description="GRPO with rewards of turns and of the outcome, compared apart",
    source="Turn-Level Reward Design (MT-GRPO), arXiv 2505.11821",
    departures=(
        "any number of searches, each compared with those of its index; the original has one",
        "the policy sees the search results when its log-probabilities are computed; in the code "
        "the loss mask hides them",
        "format and tags are graded by our tags",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        model="Qwen/Qwen2.5-7B",
        advantage=MtGrpo(),
        shaping=(MtGrpoRewards(),),
        env=replace(SEARCH_R1_GRPO.env, dataset="triviaqa", max_turns=1),
        # 7 GPUs x 12 rows x 4 accumulated steps are 16 questions of 21 episodes.
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=16, group_size=21, top_p=1.0),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_updates=150,  # max_steps=300 counts both passes
            lr=1e-6,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            warmup_fraction=20 / 300,
            num_minibatches=1,
            num_epochs=2,
            grad_clip=0.1,
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
