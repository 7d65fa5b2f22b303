"""Losses with one importance weight for a whole episode or turn: VESPO, LUSPO, turn-level ratios.

Sources: VESPO, arXiv 2602.10693; LUSPO, arXiv 2602.05261; both as in TRL. Turn-level importance
sampling: arXiv 2511.20718, as in the code of Tree-GRPO.

Made of
    vespo           `Vespo`: REINFORCE, weighted by a smooth function of the episode's ratio
    luspo           `Gspo` with the sum over an episode's tokens in the place of their mean, so
                    that long episodes are not played down
    grpo-turn-ratio `TurnClipped`: the clipped surrogate with one ratio a turn

Published settings: Search-R1's (arXiv 2503.09516) with this one change, and no KL.

Run one: ``calibadv train --baseline vespo --output-dir runs/vespo``. The file itself trains vespo:
``python -m calibadv_baselines.sequence_losses``.
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.cli.train import train_baseline
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.turn_clipped import TurnClipped
from calibadv_algo.losses.vespo import Vespo
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import SEARCH_R1_GRPO

_PLAIN = replace(SEARCH_R1_GRPO, optim=replace(SEARCH_R1_GRPO.optim, kl_coef=0.0))
_NOT_SEARCH = "the paper is not about search; here the setting is that of Search-R1"


def vespo(config: TrainConfig) -> TrainConfig:
    """VESPO on any settings."""
    optim = replace(config.optim, objective=Vespo(), aggregation="token-mean", kl_coef=0.0)
    return replace(find_arm("grpo").apply(config), optim=optim)


def luspo(config: TrainConfig) -> TrainConfig:
    """LUSPO on any settings."""
    optim = replace(config.optim, objective=Gspo(), aggregation="seq-mean-token-sum", kl_coef=0.0)
    return replace(find_arm("grpo").apply(config), optim=optim)


def turn_ratio(config: TrainConfig) -> TrainConfig:
    """GRPO with one probability ratio a turn."""
    optim = replace(config.optim, objective=TurnClipped())
    return replace(find_arm("grpo").apply(config), optim=optim)


VESPO = Baseline(
    name="vespo",
    kind="published",
    description="GRPO with a smooth weight of whole episodes in the place of the clip",
    source="VESPO, arXiv 2602.10693",
    departures=(_NOT_SEARCH, "the ratio of trainer to engine is not part of the weight"),
    published=vespo(_PLAIN),
    apply=vespo,
)

LUSPO = Baseline(
    name="luspo",
    kind="published",
    description="GSPO without its bias against long episodes",
    source="LUSPO, arXiv 2602.05261",
    departures=(_NOT_SEARCH, "the clip is GSPO's, 3e-4 below and 4e-4 above 1"),
    published=luspo(_PLAIN),
    apply=luspo,
)

TURN_RATIO = Baseline(
    name="grpo-turn-ratio",
    kind="variant",
    description="GRPO with one clipped probability ratio a turn",
    source="turn-level importance sampling, arXiv 2511.20718",
    departures=("the paper's clipping-triggered normalisation is left out: see its loss",),
    published=turn_ratio(_PLAIN),
    apply=turn_ratio,
)

BASELINE = VESPO
"""The one that this file trains when it is run."""

if __name__ == "__main__":
    train_baseline(BASELINE)
