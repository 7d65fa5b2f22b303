"""Advantage estimators, one named type each."""

from calibadv_algo.advantages.ablations import CalibAdvVariant, ClippedCalibAdv
from calibadv_algo.advantages.acceptable import AcceptableGrpo
from calibadv_algo.advantages.base import AdvantageEstimator, ValueAdvantage
from calibadv_algo.advantages.batch_scaled import BatchScaledGrpo, Gpg
from calibadv_algo.advantages.bilevel_gae import BiLevelGae
from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.critic_search import CriticSearch
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.advantages.gigpo import GiGpo
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.mass_matched import MassMatchedGrpo
from calibadv_algo.advantages.mt_grpo import MtGrpo
from calibadv_algo.advantages.reinforce import (
    Reinforce,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
)
from calibadv_algo.advantages.rloo import Opo, Rloo
from calibadv_algo.advantages.template import TemplateBalanced
from calibadv_algo.advantages.tree_grpo import TreeGrpo
from calibadv_algo.advantages.turn_groups import (
    GoodQueryPositive,
    PenaltyTurnGroup,
    QueryGroup,
    TurnGroup,
)

__all__ = [
    "AcceptableGrpo",
    "AdvantageEstimator",
    "BatchScaledGrpo",
    "BiLevelGae",
    "CalibAdv",
    "CalibAdvVariant",
    "ClippedCalibAdv",
    "CriticSearch",
    "GiGpo",
    "GoodQueryPositive",
    "Gpg",
    "Grpo",
    "MassMatchedGrpo",
    "MtGrpo",
    "Opo",
    "PenaltyTurnGroup",
    "PpoGae",
    "QueryGroup",
    "Rebalance",
    "Reinforce",
    "ReinforcePlusPlus",
    "ReinforcePlusPlusBaseline",
    "Rloo",
    "SoftPenalty",
    "TemplateBalanced",
    "TreeGrpo",
    "TurnGroup",
    "ValueAdvantage",
]
