"""Search-R1 with GRPO: exact match, retrieved tokens masked, a divergence term.

Source: arXiv 2503.09516 and its code.

Made of
    advantage   `Grpo`
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss
    reward      exact match; the format does not count; a malformed action uses up a turn
    prompt      ``search_r1`` for a language model

Published settings: `SEARCH_R1_GRPO` in `calibadv_algo.training.presets`.

Run it: ``python -m calibadv_baselines.search_r1_grpo --output-dir runs/search-r1-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def apply(config: TrainConfig) -> TrainConfig:
    """Search-R1's GRPO on any settings."""
    return replace(
        find_arm("grpo").apply(config),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
        optim=replace(config.optim, kl_coef=0.001, kl_estimator="k3"),
    )


BASELINE = Baseline(
    name="search-r1-grpo",
    kind="published",
    description="GRPO with exact match, masked observations and a k3 divergence",
    source="Search-R1, arXiv 2503.09516",
    departures=(
        "an episode without an answer earns 0; the code finds the example answer of its own "
        "prompt there",
        "groups are question instances; in the code two questions of different sets can share "
        "a group",
        "observations are not cut at 500 tokens, and an episode is never cut from the left",
    ),
    published=SEARCH_R1_GRPO,
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
