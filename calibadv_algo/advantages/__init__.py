"""Advantage estimators, one named type each."""

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.calibadv import CalibAdv, Rebalance, SoftPenalty
from calibadv_algo.advantages.grpo import Grpo

__all__ = ["AdvantageEstimator", "CalibAdv", "Grpo", "Rebalance", "SoftPenalty"]
