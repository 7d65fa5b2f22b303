"""What a run writes beside its metrics: every episode that it played, one line of JSON each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.training.estimation import ScoredGroup
from calibadv_algo.types import Group, Trajectory


def training_records(
    scored: Sequence[ScoredGroup],
    advantages: Sequence[Float[np.ndarray, "_ _"]],
    left_out: Sequence[Group],
) -> Iterator[dict[str, Any]]:
    """The episodes of an update: those that were learnt from, then those that were not.

    Args:
        scored: Groups that were learnt from.
        advantages: Advantages of their turns.
        left_out: What filters or a full update left out.

    Yields:
        The trajectory with its advantages; with ``shaped_rewards`` where they differ from the
        environment's; with ``is_trained`` false where a mask or a filter kept it out of the
        loss. A trajectory that was left out has advantages of 0.
    """
    for each, matrix in zip(scored, advantages, strict=True):
        rows = zip(
            each.played.trajectories, each.shaped.trajectories, matrix, each.is_trained, strict=True
        )
        for played, shaped, row, is_trained in rows:
            record = trajectory_record(played)
            record["advantages"] = row[: len(played.turns)].tolist()
            rewards = [turn.reward for turn in shaped.turns]
            if rewards != [turn.reward for turn in played.turns]:
                record["shaped_rewards"] = rewards
            if not is_trained:
                record["is_trained"] = False
            yield record
    for group in left_out:
        for trajectory in group.trajectories:
            record = trajectory_record(trajectory)
            yield record | {"advantages": [0.0] * len(trajectory.turns), "is_trained": False}


def trajectory_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as plain JSON values."""
    record: dict[str, Any] = json.loads(trajectory_to_json(trajectory))
    return record


def write_records(folder: Path, update: int, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records into the file of an update, in one step."""
    folder.mkdir(exist_ok=True)
    text = "".join(
        json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records
    )
    write_atomically(folder / f"update_{update:06d}.jsonl", text)


def write_atomically(file: Path, text: str) -> None:
    """Replaces a file in one step."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
