"""ZeroSearch: a language model plays the search engine, and lies more and more.

Source: arXiv 2505.04588 and its code.

Made of
    retriever   `SimulatedRetriever`: passages written by a language model, useful or noisy; the
                share of noisy answers rises from 0 to 0.5 as 4^(i/m)
    reward      F1; the format does not count
    advantage   `Grpo`; the code also has PPO and plain REINFORCE
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss

Published settings: 64 questions x 5 episodes, 203 updates, learning rate 1e-6 with a warm-up over
95 % of them, 5 searches of 5 passages each.

Run it: ``python -m calibadv_baselines.zerosearch --output-dir runs/zerosearch``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """ZeroSearch's reward and loss on any settings; the retriever is that of the settings."""
    return replace(
        find_arm("grpo").apply(config),
        env=replace(config.env, reward="f1", format_gate=False, invalid_action="continue"),
        optim=replace(config.optim, kl_coef=0.001, kl_estimator="k3"),
    )


BASELINE = Baseline(
    name="zerosearch",
    kind="published",
    description="GRPO with F1 on passages that a language model writes, noisier as training goes",
    source="ZeroSearch, arXiv 2505.04588",
    departures=(
        "the two steps of an update have 160 episodes each; the code's have 256 and 64",
        "put on other settings, the search engine is theirs: a simulated one needs a language "
        "model",
        "a simulated answer is made for the episode's own question; the code mixes questions up "
        "once an episode has ended",
        "all accepted answers are told to the simulation, not the first alone",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        env=replace(
            SEARCH_R1_GRPO.env, reward="f1", invalid_action="continue", max_turns=5, top_k=5
        ),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=64),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_updates=203,
            warmup_fraction=0.95,
            num_minibatches=2,
            kl_coef=0.001,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
