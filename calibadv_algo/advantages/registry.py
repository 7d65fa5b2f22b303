"""The published estimators as types that a run can be configured with; no torch is imported."""

from __future__ import annotations

from calibadv_algo.advantages.ablations import CalibAdvVariant, ClippedCalibAdv
from calibadv_algo.advantages.acceptable import AcceptableGrpo
from calibadv_algo.advantages.batch_scaled import BatchScaledGrpo, Gpg
from calibadv_algo.advantages.bilevel_gae import BiLevelGae
from calibadv_algo.advantages.critic_search import CriticSearch
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.advantages.gigpo import GiGpo
from calibadv_algo.advantages.mt_grpo import MtGrpo
from calibadv_algo.advantages.reinforce import (
    Reinforce,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
)
from calibadv_algo.advantages.rloo import Opo, Rloo
from calibadv_algo.advantages.tree_grpo import TreeGrpo
from calibadv_algo.advantages.turn_groups import (
    GoodQueryPositive,
    PenaltyTurnGroup,
    QueryGroup,
    TurnGroup,
)

PublishedAdvantage = (
    Rloo
    | Opo
    | Reinforce
    | ReinforcePlusPlus
    | ReinforcePlusPlusBaseline
    | BatchScaledGrpo
    | Gpg
    | MtGrpo
    | GiGpo
    | TreeGrpo
    | CriticSearch
    | CalibAdvVariant
    | ClippedCalibAdv
    | TurnGroup
    | PenaltyTurnGroup
    | QueryGroup
    | GoodQueryPositive
    | AcceptableGrpo
)
"""Estimators of a group's turns."""

PublishedValueAdvantage = PpoGae | BiLevelGae
"""Estimators of tokens, which need a critic."""
