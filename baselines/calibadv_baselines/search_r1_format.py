"""Search-R1 with its format reward, the third version of its training script.

Source: "An Empirical Study on Reinforcement Learning for Reasoning-Search Interleaved LLM Agents",
arXiv 2505.15117, and the code of Search-R1.

Made of
    shaping     `SearchR1Format`: exact match; a valid format is worth 0.2 where the answer is
                wrong and costs 0.2 where it is missing, an answer in an invalid one is worth 0.1
    advantage   `Grpo`
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss

Published settings: as Search-R1's with learning rate 5e-7 and up to 4 searches.

Run it: ``python -m calibadv_baselines.search_r1_format --output-dir runs/search-r1-format``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.search_r1 import SearchR1Format
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """Search-R1's GRPO with the format reward on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        shaping=(SearchR1Format(),),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
        optim=replace(config.optim, kl_coef=0.001, kl_estimator="k3"),
    )


BASELINE = Baseline(
    name="search-r1-format",
    kind="published",
    description="Search-R1's GRPO with a reward for the format",
    source="Search-R1 v0.3: An Empirical Study, arXiv 2505.15117",
    departures=(
        "the format is checked on what the policy wrote, turn by turn; a tag in a passage cannot "
        "break it",
        "a response without an answer is told from a wrong one",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        shaping=(SearchR1Format(),),
        env=replace(SEARCH_R1_GRPO.env, max_turns=4),
        optim=replace(SEARCH_R1_GRPO.optim, lr=5e-7),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
