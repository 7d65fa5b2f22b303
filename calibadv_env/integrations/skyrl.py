"""The environments in SkyRL-Gym: importing this module registers ``calibadv_search`` there.

The advantages of CalibAdv are in ``calibadv_algo.integrations.skyrl``. They read the facts that
:meth:`SkyRLSearchEnv.get_metrics` gives, which SkyRL's generator carries along.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from calibadv_env.common.peers import require
from calibadv_env.integrations.common import (
    DEFAULT_ENV_ID,
    make_env,
    plain_facts,
    task_options,
)
from calibadv_env.integrations.versions import SKYRL_GYM

_skyrl_gym: Any = require(SKYRL_GYM)
_base: Any = importlib.import_module("skyrl_gym.envs.base_text_env")

ENV_CLASS: Final = "calibadv_search"
"""The id in SkyRL-Gym's registry, and the column ``env_class`` of its data sets."""

TURNS: Final = "turns"
"""Key of :meth:`SkyRLSearchEnv.get_metrics` with the facts about each turn."""

Conversation = list[dict[str, str]]


class SkyRLSearchEnv(_base.BaseTextEnv):  # type: ignore[misc]
    """An environment of this package as SkyRL-Gym's ``BaseTextEnv``.

    SkyRL counts actions in ``max_turns``, the answer included; the environments here count
    searches. ``extras["max_turns"]``, which SkyRL's generator sets, is therefore one more than
    the number of searches, and goes before the setting of ``env_config``.

    Args:
        env_config: Arguments of the environment, and ``env_id`` for which one.
        extras: The row of the data set: ``task_index`` or ``task_id`` chooses the task, here or
            under ``extra_info``; else one is drawn with ``seed``.

    Raises:
        ValueError: if ``extras["max_turns"]`` leaves no room for a search and an answer.
    """

    def __init__(
        self,
        env_config: Mapping[str, Any] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        settings = dict(env_config or {})
        self._extras = dict(extras or {})
        if "max_turns" in self._extras:
            if self._extras["max_turns"] < 2:
                raise ValueError(
                    "max_turns must be at least 2, a search and an answer, "
                    f"got {self._extras['max_turns']}"
                )
            settings["max_turns"] = self._extras["max_turns"] - 1
        self._env = make_env(settings.pop("env_id", DEFAULT_ENV_ID), settings)
        self._facts: list[dict[str, Any]] = []
        self._is_done = False

    def init(self, prompt: Conversation) -> tuple[Conversation, dict[str, Any]]:
        """Starts the episode; gives the conversation to begin with, and a ``ResetInfo``.

        Args:
            prompt: The row's prompt. Its system messages are kept; what the user says is replaced
                by the environment's first observation.
        """
        options = task_options(self._extras, self._extras.get("extra_info"))
        observation, info = self._env.reset(seed=self._extras.get("seed"), options=options)
        self._facts, self._is_done, self.turns = [], False, 0
        self.max_turns = info["max_turns"] + 1
        system = [message for message in prompt or () if message["role"] == "system"]
        return [*system, {"role": "user", "content": observation}], info

    def step(self, action: str) -> Any:
        """Plays one turn.

        Args:
            action: All text of the turn.

        Returns:
            SkyRL's step output: no observations at the end, and a ``StepInfo`` as metadata, with
            ``terminated`` and ``truncated`` beside it.
        """
        observation, reward, terminated, truncated, info = self._env.step(action)
        self.turns += 1
        self._is_done = terminated or truncated
        self._facts.append(info)
        shown = [] if self._is_done else [{"role": "user", "content": observation}]
        return _base.BaseTextEnvStepOutput(
            observations=shown,
            reward=float(reward),
            done=self._is_done,
            metadata={**info, "terminated": terminated, "truncated": truncated},
            postprocessed_action=None,
        )

    def get_metrics(self) -> dict[str, Any]:
        """Scores of the episode, once it is over, and the facts about each of its turns."""
        metrics: dict[str, Any] = {"is_finished": self._is_done}
        if self._is_done:
            last = self._facts[-1]
            metrics |= {key: float(last[key]) for key in ("em", "f1", "cover_em")}
            counts = ("is_format_valid", "num_searches", "num_calls")
            metrics |= {key: last[key] for key in counts if key in last}
        metrics[TURNS] = [plain_facts(info) for info in self._facts]
        return metrics

    def close(self) -> None:
        """Lets the environment go."""
        self._env.close()


def dataset_rows(
    task_indices: Iterable[int],
    env_config: Mapping[str, Any] | None = None,
    data_source: str = "calibadv",
) -> list[dict[str, Any]]:
    """Rows of a SkyRL data set.

    Args:
        task_indices: Tasks of the split that ``env_config`` names.
        env_config: As for :class:`SkyRLSearchEnv`.
        data_source: What SkyRL calls the data in its metrics.

    Returns:
        One row a task, with ``prompt``, ``env_class``, ``reward_spec``, ``data_source`` and
        ``extra_info``.
    """
    settings = dict(env_config or {})
    env = make_env(settings.pop("env_id", DEFAULT_ENV_ID), settings)
    rows = []
    for index in task_indices:
        observation, info = env.reset(options={"task_index": index})
        target = list(info["golden_answers"])
        rows.append(
            {
                "data_source": data_source,
                "prompt": [{"role": "user", "content": observation}],
                "env_class": ENV_CLASS,
                "reward_spec": {"method": "rule", "ground_truth": {"target": target}},
                "extra_info": {"task_index": index, "task_id": info["task_id"]},
            }
        )
    return rows


def register() -> None:
    """Registers the environment with SkyRL-Gym; harmless when repeated."""
    if ENV_CLASS not in _skyrl_gym.registry:
        _skyrl_gym.register(id=ENV_CLASS, entry_point=f"{__name__}:{SkyRLSearchEnv.__name__}")


register()
