"""Baselines of least variance for every token, and the return of the greedy episode.

Sources: optimal token baseline, verl's ``optimal_token_baseline`` and
``tir_optimal_token_baseline``, derived from the variance of the policy gradient as in OPO,
arXiv 2505.23585; ReMax, arXiv 2310.10505.

Made of
    optimal-token-baseline       `OptimalTokenBaseline`: returns against their mean weighted by the
                                 gradient's energy so far, by position in the response
    turn-optimal-token-baseline  `TurnOptimalTokenBaseline`: the same by number of the sampled token
    remax                        `ReMax`: returns against that of the question's greedy episode
    loss                         clipped surrogate, 0.2 on both sides, token mean

Published settings: Search-R1's (arXiv 2503.09516) with this one change, and no KL.

Run one: ``calibadv train --baseline remax --output-dir runs/remax``. The file itself trains the
form for turns: ``python -m calibadv_baselines.token_baselines``.
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.remax import ReMax
from calibadv_algo.advantages.token_baselines import (
    OptimalTokenBaseline,
    TurnOptimalTokenBaseline,
)
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.rollout.greedy_config import GreedyBaseline
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

_PLAIN = replace(SEARCH_R1_GRPO, optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0))
_NOT_SEARCH = "the source is not about search; here the setting is that of Search-R1"


def by_position(config: TrainConfig) -> TrainConfig:
    """The optimal token baseline on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=OptimalTokenBaseline())


def by_token(config: TrainConfig) -> TrainConfig:
    """The optimal token baseline for turns on any settings."""
    return replace(find_arm("grpo").apply(config), advantage=TurnOptimalTokenBaseline())


def remax(config: TrainConfig) -> TrainConfig:
    """ReMax on any settings; every question is played once more, greedily."""
    plain = find_arm("grpo").apply(config)
    rollout = replace(plain.rollout, greedy=GreedyBaseline(), trees=None)
    return replace(plain, advantage=ReMax(), rollout=rollout)


OPTIMAL_TOKEN_BASELINE = Baseline(
    name="optimal-token-baseline",
    kind="published",
    description="each token's return against a mean weighted by the gradient's energy",
    source="optimal token baseline of verl; the idea as in OPO, arXiv 2505.23585",
    departures=(
        _NOT_SEARCH,
        "importance weights of the rollout are not folded into the energies",
    ),
    published=by_position(_PLAIN),
    apply=by_position,
)

BASELINE = Baseline(
    name="turn-optimal-token-baseline",
    kind="published",
    description="the optimal token baseline for turns: sampled tokens compared by number",
    source="optimal token baseline of verl; the idea as in OPO, arXiv 2505.23585",
    departures=(
        _NOT_SEARCH,
        "importance weights of the rollout are not folded into the energies",
    ),
    published=by_token(_PLAIN),
    apply=by_token,
)

REMAX = Baseline(
    name="remax",
    kind="published",
    description="REINFORCE with the greedy episode of the same question as baseline",
    source="ReMax, arXiv 2310.10505",
    departures=(
        _NOT_SEARCH,
        "several episodes of a question share one greedy episode; the paper has one beside each",
    ),
    published=remax(_PLAIN),
    apply=remax,
)

if __name__ == "__main__":
    train_baseline(BASELINE)
