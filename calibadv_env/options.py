"""The options that ``reset`` takes, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from calibadv_env.data.base import TaskSet

RESET_OPTIONS: Final = ("task_index", "task_id", "training_progress")
"""Options of ``reset``; they stand in the metadata too, so that a trainer knows what to send."""


def task_index_of(tasks: TaskSet, key: str, value: Any) -> int:
    """Reads one reset option.

    Args:
        tasks: The split.
        key: "task_index" or "task_id".
        value: What was given for it.

    Returns:
        The index of the task.

    Raises:
        ValueError: if there is no such task.
    """
    if key == "task_id":
        try:
            return tasks.index_of(value)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"options['task_id'] must be the id of a task in split {tasks.split!r} of dataset "
                f"{tasks.name!r}, got {value!r}"
            ) from error
    is_index = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_index or not 0 <= value < len(tasks):
        raise ValueError(
            f"options['task_index'] must be an integer from 0 to {len(tasks) - 1}, got {value!r}"
        )
    return int(value)


def progress_of(value: Any) -> float | None:
    """Reads the reset option "training_progress".

    Args:
        value: What was given for it; None stands for an episode outside of a training.

    Returns:
        The share of the training that is over, None without one.

    Raises:
        ValueError: if it is no number from 0 to 1.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(
            f"options['training_progress'] must be a number from 0 to 1, got {value!r}"
        )
    return float(value)


def check_options(options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuses reset options that would be ignored.

    Raises:
        ValueError: if a key is unknown, or two keys both pick the task.
    """
    unknown = sorted(str(key) for key in options if key not in allowed)
    if unknown:
        raise ValueError(f"options must only have the keys {allowed}, got {unknown}")
    if "task_index" in options and "task_id" in options:
        raise ValueError("options must have at most one of task_index and task_id, got both")
