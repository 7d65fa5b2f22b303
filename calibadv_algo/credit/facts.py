"""Facts of trajectories, read with complaints that name what is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Trajectory, Turn
from calibadv_env.info import CALL_KINDS


def check_info_keys(required: Iterable[str], info: Collection[str], who: str) -> None:
    """Checks that an environment reports what an algorithm needs.

    Args:
        required: Keys that are needed.
        info: Keys that the environment gives (an ``info`` dictionary, or the union of the
            keys of an episode, as some appear at its end only).
        who: Name of the part that needs them, for the message.

    Raises:
        MissingInfoKeyError: if a key is missing; it names every missing key.
    """
    missing = sorted(set(required) - set(info))
    if missing:
        names = ", ".join(repr(key) for key in missing)
        raise MissingInfoKeyError(
            f"{who} needs the info key {names}, which the environment does not give; "
            f"it gives {sorted(info)}"
        )


def fact(turn: Turn, key: str, who: str) -> Any:
    """Reads a fact that stands at every turn.

    Raises:
        MissingInfoKeyError: if it is missing.
    """
    try:
        return turn.info[key]
    except KeyError:
        check_info_keys((key,), turn.info, who)
        raise


def task_fact(trajectory: Trajectory, key: str, who: str) -> Any:
    """Reads a fact about the task, reported by ``reset``.

    Raises:
        MissingInfoKeyError: if it is missing.
    """
    check_info_keys((key,), trajectory.reset_info, who)
    return trajectory.reset_info[key]


def final_fact(trajectory: Trajectory, key: str, who: str, cut_off: Any = 0.0) -> Any:
    """A fact that stands at the end of an episode.

    Args:
        trajectory: The episode.
        key: Which fact.
        who: Name of the part that asks, for the message.
        cut_off: Its value for an episode whose end the environment did not see.

    Raises:
        MissingInfoKeyError: if an episode that came to its end lacks it.
    """
    info = trajectory.final_info
    if key not in info and not trajectory.is_terminated:
        return cut_off
    check_info_keys((key,), info, who)
    return info[key]


def is_search(turn: Turn, who: str) -> bool:
    """True if a turn searches and its search was carried out, as far as passages tell.

    On pages, opening one and finding words in it count too.
    """
    return bool(fact(turn, "action", who) in CALL_KINDS and len(fact(turn, "passage_ids", who)))


def searches_of(trajectory: Trajectory, who: str) -> list[tuple[int, Turn]]:
    """Searches of a trajectory that something followed, with their places; on pages all calls.

    Raises:
        MissingInfoKeyError: if a turn lacks the info key ``action``.
    """
    return [
        (column, turn)
        for column, turn in enumerate(trajectory.turns[:-1])
        if fact(turn, "action", who) in CALL_KINDS
    ]
