"""DPPO: the trust region is one of probabilities, not of ratios.

Source: arXiv 2602.04879; verl's example of it.

Made of
    advantage   `Grpo` without the division by the deviation
    loss        `Dppo`: REINFORCE with an importance weight, without the tokens whose probability
                has moved further than 0.15 the way it is pushed; sum over tokens by a constant

Published settings of verl's example: 256 questions x 16 episodes, eight steps an update, no KL, no
entropy bonus. Model, data and lengths are those of Search-R1 (arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.dppo --output-dir runs/dppo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.dppo import Dppo
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

OBJECTIVE = Dppo(divergence="tv", bound_low=0.15, bound_high=0.15, cap=10_000.0)


def apply(config: TrainConfig) -> TrainConfig:
    """DPPO on any settings; tokens are averaged as the settings say."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=Grpo(normalization="none"),
        optim=replace(config.optim, objective=OBJECTIVE, kl_coef=0.0),
    )


BASELINE = Baseline(
    name="dppo",
    kind="published",
    description="GRPO with a trust region in probabilities",
    source="DPPO, arXiv 2602.04879",
    departures=(
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "put on other settings, the losses of tokens are averaged as these say",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=Grpo(normalization="none"),
        rollout=replace(SEARCH_R1_GRPO.rollout, num_questions=256, group_size=16),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            objective=OBJECTIVE,
            aggregation="seq-mean-token-sum-norm",
            length_norm=2500,
            num_minibatches=8,
            kl_coef=0.0,
            entropy_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
