"""Facts of trajectories, read with complaints that name what is missing."""

from __future__ import annotations

from typing import Any

from calibadv_algo.credit.base import check_info_keys
from calibadv_algo.types import Trajectory, Turn


def fact(turn: Turn, key: str, who: str) -> Any:
    """Reads a fact that stands at every turn.

    Raises:
        MissingInfoKeyError: if it is missing.
    """
    check_info_keys((key,), turn.info, who)
    return turn.info[key]


def task_fact(trajectory: Trajectory, key: str, who: str) -> Any:
    """Reads a fact about the task, reported by ``reset``.

    Raises:
        MissingInfoKeyError: if it is missing.
    """
    check_info_keys((key,), trajectory.reset_info, who)
    return trajectory.reset_info[key]


def final_fact(trajectory: Trajectory, key: str, who: str, cut_off: Any = 0.0) -> Any:
    """Reads a fact that stands at the end of an episode.

    Args:
        trajectory: The episode.
        key: Which fact.
        who: What asks, for the message.
        cut_off: What it is for an episode whose end the environment did not see.

    Raises:
        MissingInfoKeyError: if an episode that came to its end lacks it.
    """
    info = trajectory.final_info
    if key not in info and not trajectory.is_terminated:
        return cut_off
    check_info_keys((key,), info, who)
    return info[key]


def is_search(turn: Turn, who: str) -> bool:
    """Whether a turn searches and its search was carried out, as far as passages tell."""
    return bool(fact(turn, "action", who) == "search" and len(fact(turn, "passage_ids", who)))
