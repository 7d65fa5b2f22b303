"""Parts of all adapters: making an environment, choosing a task, facts that fit into JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import gymnasium

from calibadv_env.env import DeepSearchEnv
from calibadv_env.info import PagesResetInfo, PagesStepInfo, ResetInfo, StepInfo
from calibadv_env.pages.env import DeepSearchPagesEnv

DEFAULT_ENV_ID: Final = "calibadv_env:DeepSearch-Atlas-v1"
"""The environment that adapters make where none is named."""

PAGE_KEYS: Final = tuple(
    key
    for of_pages, of_all in ((PagesResetInfo, ResetInfo), (PagesStepInfo, StepInfo))
    for key in of_pages.__annotations__
    if key not in of_all.__annotations__
)
"""Facts that environments of pages report beyond those of all."""

TASK_KEYS: Final = ("task_index", "task_id")
"""Names under which rows of other people's data sets choose the task."""


def make_env(env_id: str, env_kwargs: Mapping[str, Any]) -> DeepSearchEnv:
    """Makes an environment as ``gymnasium.make`` does, but without wrappers.

    Raises:
        ValueError: if the id belongs to an environment of another kind, or an argument is wrong.
    """
    env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs).unwrapped
    if not isinstance(env, DeepSearchEnv):
        raise ValueError(f"env_id must name a DeepSearch environment, got {env_id!r}")
    return env


def is_of_pages(env: gymnasium.Env[Any, Any]) -> bool:
    """True for an environment whose agents also open pages and find words in them."""
    return isinstance(env.unwrapped, DeepSearchPagesEnv)


def page_facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a reset or a step that environments of pages alone report, as JSON has them."""
    return plain_facts({key: info[key] for key in PAGE_KEYS if key in info})


def task_options(*rows: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Options for ``reset`` from the first row with a task index or a task id, if there is one.

    A row that is None is passed over.
    """
    for row in rows:
        for key in TASK_KEYS:
            if row is not None and row.get(key) is not None:
                return {key: row[key]}
    return None


def plain_facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a reset or a step as JSON has them: lists for tuples, None for NaN."""
    return {key: _plain(value) for key, value in info.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
