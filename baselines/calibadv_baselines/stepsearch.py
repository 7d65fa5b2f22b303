"""StepSearch: PPO with a reward for every search, what it adds minus what it repeats.

Source: arXiv 2505.15107 and its code.

Made of
    shaping     `StepSearchReward`: a search earns by how much nearer it brings the gold evidence,
                less the share of its passages that were seen before; the answer earns F1 plus
                0.618 times the agreement of the queries with the gold ones; no answer earns -1
    advantage   `PpoGae`, gamma = lambda = 1
    loss        clipped surrogate, 0.2 on both sides, token mean; k1 divergence taken off the
                rewards, weight 0.001
    environment reward ``step_search``, which reports the similarity of passages to the evidence

Published settings: MuSiQue, 128 questions x 1 episode, four steps of the optimiser, learning rate
5e-7 for policy and critic after warm-ups over 28.5 % and 5 % of 1120 updates, 5 searches of 3
passages, 800 tokens a turn.

Run it: ``python -m calibadv_baselines.stepsearch --output-dir runs/stepsearch``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.shaping.step_search import StepSearchReward
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """StepSearch on any settings whose tasks name gold evidence."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=PpoGae(),
        shaping=(StepSearchReward(),),
        env=replace(config.env, reward="step_search", format_gate=False, invalid_action="continue"),
        optim=replace(config.optim, kl_coef=0.0, kl_reward_coef=0.001),
    )


BASELINE = Baseline(
    name="stepsearch",
    kind="published",
    description="PPO with gain minus redundancy for every search and a reward for its queries",
    source="StepSearch, arXiv 2505.15107",
    departures=(
        "step rewards are scaled by 0.6 as intended; the code reaches 1.6",
        "of several queries for one gold query the best counts; in the code the last",
        "tasks without gold evidence have no step rewards, those without gold queries no key "
        "reward",
        "observations are skipped by advantages, whitening and critic",
    ),
    published=replace(
        apply(SEARCH_R1_GRPO),
        env=replace(
            SEARCH_R1_GRPO.env,
            env_id="calibadv_env:DeepSearch-MuSiQue-v1",
            reward="step_search",
            max_turns=5,
        ),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=128, group_size=1, max_tokens=800),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_updates=1120,
            lr=5e-7,
            num_minibatches=4,
            kl_coef=0.0,
            kl_reward_coef=0.001,
            critic=CriticConfig(lr=5e-7, warmup_fraction=0.05),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
