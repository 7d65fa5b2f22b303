"""Dr. GRPO: GRPO without its two divisions, by the deviation of rewards and by length.

Source: "Understanding R1-Zero-Like Training", arXiv 2503.20783.

Made of
    advantage   `Grpo(normalization="none")`: reward - group mean, the same for every turn
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, no KL; the sum over an episode's tokens is
                divided by a constant, the same for every episode, and averaged over episodes
    reward      that of the settings it is put on

Published settings: no divergence term; the constant is the longest response. Sizes and rates are
those of Search-R1 (arXiv 2503.09516), because the paper's own are for mathematics.

Run it: ``python -m calibadv_baselines.dr_grpo --output-dir runs/dr-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

PUBLISHED_LENGTH = 5 * 500
"""Five turns of 500 tokens, the most that an episode of Search-R1's settings can have."""


def apply(config: TrainConfig) -> TrainConfig:
    """Dr. GRPO on any settings; the constant is the longest possible episode."""
    longest = (config.env.max_turns + 1) * config.rollout.max_tokens
    return replace(
        find_arm("grpo").apply(config),
        advantage=Grpo(normalization="none"),
        optim=replace(
            config.optim, aggregation="seq-mean-token-sum-norm", length_norm=longest, kl_coef=0.0
        ),
    )


BASELINE = Baseline(
    name="dr-grpo",
    kind="published",
    description="GRPO without division by deviation and by length",
    source="Understanding R1-Zero-Like Training (Dr. GRPO), arXiv 2503.20783",
    departures=(
        "the paper trains on mathematics in one turn; here the setting is that of Search-R1",
        "the constant length counts the tokens of all turns that an episode may have",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=Grpo(normalization="none"),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            aggregation="seq-mean-token-sum-norm",
            length_norm=PUBLISHED_LENGTH,
            kl_coef=0.0,
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
