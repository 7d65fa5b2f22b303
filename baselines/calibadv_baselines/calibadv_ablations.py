"""CalibAdv's own ablations: the switches of its code that a reader of the paper would try.

Source: arXiv 2604.18235 and the authors' code.

Made of CalibAdv's silver credit, opening tag and settings, with another advantage
    calibadv-turngroup          searches compared place by place, half and half with GRPO
    calibadv-penalty-turngroup  searches earn part of the way to the best reward, place by place
    calibadv-querygroup         searches of a group compared in one pool, 0.7, with GRPO, 0.3
    calibadv-good-query         good searches are rewarded in poor and in good trajectories
    calibadv-upper-limit        correct searches are lifted towards the group's best advantage
    calibadv-aggressive         searches with a third of hits or more carry no penalty at all
    calibadv-solved-zero        searches that all of the group made perfectly carry no advantage
    calibadv-all-tokens         all turns are rebalanced together, not the answers alone
    calibadv-turn-pools         every turn index is rebalanced over the batch, as are the answers
    calibadv-batch              answers are rebalanced over the batch, not in each group
    calibadv-risky              only groups that lean to the negative are rebalanced
    calibadv-negative-side      the negative answers are scaled in place of the positive ones
    calibadv-clip               negative advantages are cut at the batch's mean positive one
    calibadv-acceptable         acceptable answers below their group's mean carry no penalty
    calibadv-relevance          calibadv-turngroup whose labels are relevance to question and answer
    calibadv-relevance-reward   GRPO on rewards of which three tenths are that relevance
    calibadv-template           the pieces of the tags are balanced over the batch first

The parts of CalibAdv alone and together, and other labels in place of silver ones, are arms
(``calibadv list arms``).

Published settings: CalibAdv's own, `CALIBADV_QWEN25_3B`.

Run one: ``calibadv train --baseline calibadv-clip --output-dir runs/calibadv-clip``. The file
itself trains calibadv-turngroup: ``python -m calibadv_baselines.calibadv_ablations``.
"""

from __future__ import annotations

from dataclasses import replace

from calibadv_algo.advantages.ablations import CalibAdvVariant, ClippedCalibAdv
from calibadv_algo.advantages.acceptable import AcceptableGrpo
from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.template import TemplateBalanced
from calibadv_algo.advantages.turn_groups import (
    GoodQueryPositive,
    PenaltyTurnGroup,
    QueryGroup,
    TurnGroup,
)
from calibadv_algo.cli.train import train_baseline
from calibadv_algo.credit.relevance import RelevanceCredit
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline
from calibadv_algo.shaping.relevance import RelevanceReward
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import CALIBADV_QWEN25_3B

_FIXED = (
    "errors of the authors' code are avoided: empty sides give zeros, signs do not depend on the "
    "first token",
)
_SOURCE = "CalibAdv, arXiv 2604.18235, a switch of its code"


def _ablation(
    name: str, advantage: AdvantageEstimator, description: str, *departures: str
) -> Baseline:
    """CalibAdv with another estimator; credit, think tag and everything else as published."""

    def apply(config: TrainConfig) -> TrainConfig:
        return replace(find_arm("calibadv").apply(config), advantage=advantage)

    return Baseline(
        name=name,
        kind="switch",
        description=description,
        source=_SOURCE,
        departures=(*_FIXED, *departures),
        published=apply(CALIBADV_QWEN25_3B),
        apply=apply,
    )


TURNGROUP = _ablation(
    "calibadv-turngroup",
    TurnGroup(),
    "searches compared place by place, half and half with GRPO",
    "no rebalancing: the authors' code stops with an error there",
)

PENALTY_TURNGROUP = _ablation(
    "calibadv-penalty-turngroup",
    PenaltyTurnGroup(),
    "searches earn part of the way to the best reward, compared place by place",
    "no rebalancing: the authors' code stops with an error there",
)

QUERYGROUP = _ablation(
    "calibadv-querygroup",
    QueryGroup(),
    "searches of a group compared in one pool, 0.7, with GRPO, 0.3",
)

GOOD_QUERY = _ablation(
    "calibadv-good-query",
    GoodQueryPositive(),
    "good searches are rewarded in poor and in good trajectories",
    "no rebalancing: the authors' code stops with an error there",
)

UPPER_LIMIT = _ablation(
    "calibadv-upper-limit",
    CalibAdvVariant(penalty="lifting"),
    "correct searches are lifted towards the group's best advantage",
)

AGGRESSIVE = _ablation(
    "calibadv-aggressive",
    CalibAdvVariant(penalty="aggressive"),
    "searches with a third of hits or more carry no penalty at all",
)

SOLVED_ZERO = _ablation(
    "calibadv-solved-zero",
    CalibAdvVariant(solved="zero"),
    "searches that all of the group made perfectly carry no advantage",
)

ALL_TOKENS = _ablation(
    "calibadv-all-tokens",
    CalibAdvVariant(pools="all"),
    "all turns are rebalanced together, not the answers alone",
)

TURN_POOLS = _ablation(
    "calibadv-turn-pools",
    CalibAdvVariant(pools="turns", scope="batch"),
    "every turn index is rebalanced over the batch by itself, and so are the answers",
    "any number of searches, where the code has four",
    "masses are summed over the batch (`in_group=False`); within groups the code skips answers",
)

BATCH = _ablation(
    "calibadv-batch",
    CalibAdvVariant(scope="batch"),
    "answers are rebalanced over the batch, not in each group",
)

RISKY = _ablation(
    "calibadv-risky",
    CalibAdvVariant(when="risky"),
    "only groups that lean to the negative are rebalanced",
)

NEGATIVE_SIDE = _ablation(
    "calibadv-negative-side",
    CalibAdv(adjust_positive=False),
    "the negative answers are scaled in place of the positive ones",
)

CLIP = _ablation(
    "calibadv-clip",
    ClippedCalibAdv(),
    "negative advantages are cut at the batch's mean positive one",
)

ACCEPTABLE = _ablation(
    "calibadv-acceptable",
    AcceptableGrpo(),
    "GRPO in which acceptable answers below their group's mean carry no penalty",
)

_SCORER = "words in common score a passage, where the authors' code asks a reranker"


def relevance(config: TrainConfig) -> TrainConfig:
    """Searches compared place by place, by the relevance of their passages."""
    arm = find_arm("calibadv").apply(config)
    return replace(arm, advantage=TurnGroup(), credit=RelevanceCredit())


def relevance_reward(config: TrainConfig) -> TrainConfig:
    """GRPO on rewards mixed with relevance."""
    return replace(find_arm("grpo").apply(config), shaping=(RelevanceReward(),))


RELEVANCE = Baseline(
    name="calibadv-relevance",
    kind="switch",
    description="searches labelled by relevance to question and answer, compared place by place",
    source=_SOURCE,
    departures=(*_FIXED, _SCORER, "no rebalancing: the authors' code stops with an error there"),
    published=relevance(CALIBADV_QWEN25_3B),
    apply=relevance,
)

RELEVANCE_REWARD = Baseline(
    name="calibadv-relevance-reward",
    kind="switch",
    description="GRPO on rewards of which three tenths are relevance to question and answer",
    source=_SOURCE,
    departures=(_SCORER,),
    published=relevance_reward(CALIBADV_QWEN25_3B),
    apply=relevance_reward,
)

TAG_TOKENS = {
    "atlas": (1525, 1526, 1527, 1528, 1531, 1532),
    "llama": (524, 27, 694, 366, 29, 1363, 397),
    "qwen": (690, 366, 27, 522, 29, 1339),
}
"""Pieces of the tags in the vocabulary of a family of models; the atlas policy has whole tags."""


def template(config: TrainConfig) -> TrainConfig:
    """CalibAdv with the pieces of the tags balanced over the batch, then the answers.

    Raises:
        ValueError: if the model's name tells no family whose pieces are known.
    """
    families = [name for name in TAG_TOKENS if name in config.model.lower()]
    if not families:
        raise ValueError(
            f"model must have one of {', '.join(TAG_TOKENS)} in its name, whose pieces of the "
            f"tags are known; got {config.model!r}"
        )
    advantage = TemplateBalanced(token_ids=TAG_TOKENS[families[0]])
    return replace(find_arm("calibadv").apply(config), advantage=advantage)


TEMPLATE = Baseline(
    name="calibadv-template",
    kind="switch",
    description="CalibAdv with the pieces of the tags balanced over the batch first",
    source=_SOURCE,
    departures=(*_FIXED, "the numbers of the pieces are the code's, for Qwen2.5 and Llama alone"),
    published=template(CALIBADV_QWEN25_3B),
    apply=template,
)

BASELINE = TURNGROUP
"""The one that this file trains when it is run."""

if __name__ == "__main__":
    train_baseline(BASELINE)
