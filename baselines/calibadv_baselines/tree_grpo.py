"""Tree-GRPO: episodes branch off one another, and leaves are compared within their tree too.

Source: "Tree Search for LLM Agent Reinforcement Learning", arXiv 2509.21240, and its code.

Made of
    trees       `TreeSearch`: two trees a question; each begins with one episode, from whose turns
                further ones branch off at random; three leaves are kept
    shaping     `SearchR1Format`: exact match with 0.2 and 0.1 for the format
    advantage   `TreeGrpo`: the z-score among all leaves of the question, plus that among the
                leaves of the same tree
    loss        clipped surrogate, 0.2 on both sides, token mean; k3 divergence 0.001 in the loss

Published settings: 2 trees, 2 expansions in 1 round, 3 leaves, 3 turns, warm-up over 28.5 % of 180
updates of eight steps;
other sizes and rates are those of Search-R1 (arXiv 2503.09516).

Run it: ``python -m calibadv_baselines.tree_grpo --output-dir runs/tree-grpo``
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.tree_grpo import TreeGrpo
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.shaping.search_r1 import SearchR1Format
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO


def trees_of(group_size: int) -> TreeSearch:
    """Two trees, or one for an odd number of episodes, of which every leaf is kept."""
    num_trees = 1 if group_size % 2 else 2
    num_leaves = group_size // num_trees
    return TreeSearch(
        num_trees=num_trees,
        num_expansions=num_leaves - 1,
        num_rounds=1,
        num_leaves=num_leaves,
    )


def apply(config: TrainConfig) -> TrainConfig:
    """Tree-GRPO on any settings; the trees have as many leaves as a group has episodes."""
    return replace(
        find_arm("grpo").apply(config),
        advantage=TreeGrpo(),
        shaping=(SearchR1Format(),),
        env=replace(config.env, reward="em", format_gate=False, invalid_action="continue"),
        rollout=replace(config.rollout, trees=trees_of(config.rollout.group_size)),
        optim=replace(config.optim, kl_coef=0.001, kl_estimator="k3"),
    )


BASELINE = Baseline(
    name="tree-grpo",
    kind="published",
    description="GRPO on trees of episodes that share prefixes",
    source="Tree-GRPO, arXiv 2509.21240",
    departures=(
        "the only leaf of a tree gets nothing from its tree; in the code it gets its reward",
        "nodes of a round are drawn without repetition; the paper does not say",
        "put on other settings, trees have as many leaves as groups have episodes",
    ),
    published=replace(
        SEARCH_R1_GRPO,
        advantage=TreeGrpo(),
        shaping=(SearchR1Format(),),
        env=replace(SEARCH_R1_GRPO.env, max_turns=3),
        rollout=replace(SEARCH_R1_GRPO.rollout, group_size=6, trees=TreeSearch()),
        optim=replace(
            SEARCH_R1_GRPO.optim,
            num_updates=180,
            num_minibatches=8,
            objective=ClippedSurrogate(dual_clip=3.0),
        ),
    ),
    apply=apply,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
