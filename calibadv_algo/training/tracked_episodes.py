"""A few sampled episodes of an update as a table for trackers: one row a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from calibadv_algo.rollout.records import trajectory_from_record
from calibadv_algo.types import Turn

EPISODE_COLUMNS: Final = (
    "update",
    "question",
    "accepted",
    "episode",
    "reward",
    "turn",
    "action",
    "text",
    "found",
    "advantage",
)
"""Columns of the table: ``text`` is the query or the answer, ``found`` the titles of a search."""

MAX_CHARS: Final = 500
"""Longest text of a cell; what is cut off is marked by an ellipsis."""

EpisodeRow = tuple[int, str, str, int, float, int, str, str, str, float | None]
"""One turn, in the order of `EPISODE_COLUMNS`."""


def sampled_episodes(
    records: Sequence[Mapping[str, Any]], count: int, update: int
) -> list[Mapping[str, Any]]:
    """Episodes for the table: the siblings of a question drawn at random, then of the next one.

    The draw depends on the update alone, so a later export shows the episodes that the trackers
    saw during the run.

    Args:
        records: All episodes of the update, as the run's folder holds them.
        count: Most episodes.
        update: Number of the update.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record["group_id"]), []).append(record)
    siblings = list(groups.values())
    order = np.random.Generator(np.random.PCG64(update)).permutation(len(siblings))
    return [record for index in order for record in siblings[index]][:count]


def episode_rows(records: Sequence[Mapping[str, Any]], update: int) -> list[EpisodeRow]:
    """The turns of episodes as rows of a table.

    Args:
        records: Episodes as the run's folder holds them; ``advantages`` may be missing.
        update: Number of the update.
    """
    rows: list[EpisodeRow] = []
    for number, record in enumerate(records, 1):
        trajectory = trajectory_from_record(record)
        facts = trajectory.reset_info
        question = str(facts.get("question") or trajectory.prompt_text)
        accepted = " | ".join(map(str, facts.get("golden_answers", ())))
        advantages = record.get("advantages") or [None] * len(trajectory.turns)
        for place, (turn, advantage) in enumerate(zip(trajectory.turns, advantages, strict=True)):
            rows.append(
                (
                    update,
                    _short(question),
                    _short(accepted),
                    number,
                    round(trajectory.reward, 4),
                    place + 1,
                    str(turn.info.get("action", "turn")),
                    _short(_said(turn)),
                    _short("; ".join(title for title, _ in turn.info.get("passages", ()))),
                    None if advantage is None else round(float(advantage), 4),
                )
            )
    return rows


def markdown_rows(rows: Sequence[EpisodeRow]) -> str:
    """The table as Markdown, for trackers that have texts and no tables."""
    lines = [EPISODE_COLUMNS, ("---",) * len(EPISODE_COLUMNS), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _said(turn: Turn) -> str:
    """The query, the answer or the calls of a turn; else all of its text."""
    if turn.info.get("calls"):
        pairs = zip(turn.info["calls"], turn.info["arguments"], strict=True)
        return "; ".join(f"{call}: {argument}" for call, argument in pairs)
    key = {"search": "query", "answer": "answer"}.get(str(turn.info.get("action")), "")
    said = turn.info.get(key)
    return turn.action_text.strip() if said is None else str(said)


def _short(text: str) -> str:
    # Policies write halves of surrogate pairs, which no tracker can encode.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")
