"""The shapings that a run can be configured with."""

from __future__ import annotations

from calibadv_algo.shaping.e_grpo import EntityReward
from calibadv_algo.shaping.overlong import OverlongPenalty
from calibadv_algo.shaping.r1_searcher import R1SearcherReward
from calibadv_algo.shaping.relevance import RelevanceReward
from calibadv_algo.shaping.search_r1 import SearchR1Format
from calibadv_algo.shaping.step_search import StepSearchReward
from calibadv_algo.shaping.turns import MalformedPenalty, MtGrpoRewards, MtPpoRewards

Shaping = (
    SearchR1Format
    | R1SearcherReward
    | OverlongPenalty
    | StepSearchReward
    | MtGrpoRewards
    | MtPpoRewards
    | MalformedPenalty
    | EntityReward
    | RelevanceReward
)
"""Shapings, for settings."""
