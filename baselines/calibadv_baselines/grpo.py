"""GRPO: one advantage for a whole trajectory, the z-score of its reward within its group.

Source: DeepSeekMath (arXiv 2402.03300), as Search-R1 (arXiv 2503.09516) applies it to search.

Made of
    advantage   `Grpo`: (reward - group mean) / (group std + 1e-6), the same for every turn
    credit      none: turns are not scored
    loss        clipped surrogate, 0.2 on both sides, token mean over the whole minibatch, no KL
    reward      that of the settings it is put on: F1 behind the format gate, so that the
                comparison with CalibAdv changes one thing

Published settings, of Search-R1's script: 512 questions x 5 episodes, learning rate 1e-6 after a
warm-up over 28.5 % of 1005 updates, k3 divergence 0.001, entropy 0.001, exact match.

Run it: ``python -m calibadv_baselines.grpo --output-dir runs/grpo``
"""

from __future__ import annotations

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.training.presets import SEARCH_R1_GRPO

BASELINE = Baseline(
    name="grpo",
    kind="published",
    description=find_arm("grpo").description,
    source="DeepSeekMath, arXiv 2402.03300; on search: Search-R1, arXiv 2503.09516",
    departures=(
        "the reward is F1 behind the format gate and not exact match",
        "a malformed action ends the episode where it went on",
        "there is no divergence term",
        "the token mean is taken over the whole minibatch, not over micro-batches one by one",
    ),
    published=SEARCH_R1_GRPO,
    apply=find_arm("grpo").apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
