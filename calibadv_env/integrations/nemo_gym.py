"""The environments as a resources server of NeMo-Gym, for its ``gymnasium_agent``.

A row of the data set needs ``responses_create_params``, whose input may be empty, and may choose
its task with ``task_index`` or ``task_id``.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

from calibadv_env.common.peers import require
from calibadv_env.integrations.common import (
    DEFAULT_ENV_ID,
    make_env,
    plain_facts,
    task_options,
)
from calibadv_env.integrations.versions import NEMO_GYM

_gymnasium: Any = require(NEMO_GYM)
_pydantic: Any = importlib.import_module("pydantic")
_base: Any = importlib.import_module("nemo_gym.base_resources_server")


class SearchServerConfig(_base.BaseResourcesServerConfig):  # type: ignore[misc]
    """Settings of the server.

    Attributes:
        env_id: A registered id of this package, as in ``gymnasium.make``.
        env_kwargs: Its arguments.
    """

    env_id: str = DEFAULT_ENV_ID
    env_kwargs: dict[str, Any] = _pydantic.Field(default_factory=dict)


class SearchServer(_gymnasium.GymnasiumServer):  # type: ignore[misc]
    """One environment a session; what it observes goes to the model as a user message."""

    config: SearchServerConfig

    async def reset(
        self, metadata: Mapping[str, Any], session_id: str | None = None
    ) -> tuple[str | None, dict[str, Any]]:
        """Starts the episode of a session; gives instruction and question, and a ``ResetInfo``.

        Args:
            metadata: The row: ``task_index`` or ``task_id`` chooses the task, here or under
                ``verifier_metadata``; ``seed`` seeds the draw of one.
            session_id: The session.

        Raises:
            ValueError: if there is no such task.
        """
        env = make_env(self.config.env_id, self.config.env_kwargs)
        options = task_options(metadata, metadata.get("verifier_metadata"))
        observation, info = env.reset(seed=metadata.get("seed"), options=options)
        self.session_state[session_id] = env
        return observation, plain_facts(info)

    async def step(
        self, action: Any, metadata: Mapping[str, Any], session_id: str | None = None
    ) -> tuple[str | None, float, bool, bool, dict[str, Any]]:
        """Plays one turn.

        Args:
            action: The model's response; its text is the turn.
            metadata: The row.
            session_id: The session.

        Returns:
            The observation, the reward, whether the episode is terminated or truncated, and a
            ``StepInfo``.

        Raises:
            ValueError: if the session has no episode.
            RetrieverError: if the search failed; the episode is as before.
        """
        env = self.session_state.get(session_id)
        if env is None:
            raise ValueError(f"session {session_id!r} has no episode: call /reset first")
        text = _gymnasium.extract_text(action)
        observation, reward, terminated, truncated, info = await asyncio.to_thread(env.step, text)
        return observation, float(reward), terminated, truncated, plain_facts(info)


if __name__ == "__main__":
    SearchServer.run_webserver()
