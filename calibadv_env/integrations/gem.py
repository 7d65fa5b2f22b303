"""The environments in GEM: importing this module registers them for ``gem.make``.

The ids are ``calibadv:DeepSearch-Atlas-v1``, ``calibadv:DeepSearch-AtlasWiki-v1``,
``calibadv:DeepSearch-Toy-v1`` and ``calibadv:DeepSearch-Pages-v0``.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, SupportsFloat

from calibadv_env.common.peers import require
from calibadv_env.env import Snapshot
from calibadv_env.integrations.common import DEFAULT_ENV_ID, is_of_pages, make_env
from calibadv_env.integrations.versions import GEM

_gem: Any = require(GEM)
_registration: Any = importlib.import_module("gem.envs.registration")

NAMES: Final = (
    "DeepSearch-Atlas-v1",
    "DeepSearch-AtlasWiki-v1",
    "DeepSearch-Toy-v1",
    "DeepSearch-Pages-v0",
)
"""Environments that are registered, here under ``calibadv:`` and in Gymnasium."""


class GemSearchEnv(_gem.Env):  # type: ignore[misc]
    """An environment of this package as a ``gem.Env``.

    Unlike GEM's own, ``reset(seed)`` seeds only the environment's generator and leaves the global
    ones of Python and NumPy alone.

    Args:
        gym_id: A registered id of this package, as in ``gymnasium.make``. (``gem.make`` keeps the
            name ``env_id`` for itself.)
        seed: Seeds the first reset that brings no seed; ``gem.make_vec`` gives one to each.
        **env_kwargs: Arguments of the environment.
    """

    def __init__(
        self, gym_id: str = DEFAULT_ENV_ID, seed: int | None = None, **env_kwargs: Any
    ) -> None:
        super().__init__()
        self._source = (gym_id, env_kwargs)
        self._env = make_env(gym_id, env_kwargs)
        self._first_seed = seed

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Starts an episode; gives the instruction with the question, and a ``ResetInfo``.

        Args:
            seed: Seeds the draw of the task; None lets the generator run on.
            options: As in :meth:`calibadv_env.env.DeepSearchEnv.reset`.
        """
        chosen = self._first_seed if seed is None else seed
        self._first_seed = None
        return self._env.reset(seed=chosen, options=options)

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Plays one turn; see :meth:`calibadv_env.env.DeepSearchEnv.step`."""
        return self._env.step(action)

    def sample_random_action(self) -> str:
        """Draws a call or an answer of random characters."""
        text = self._env.action_space.sample()[:40]
        calls = ("search", "open", "find") if is_of_pages(self._env) else ("search",)
        drawn = self._env.np_random.random()
        tag = calls[int(2 * drawn * len(calls))] if drawn < 0.5 else "answer"
        return f"<think> {tag} </think><{tag}> {text} </{tag}>"

    def spawn(self, same_state: bool = False, **kwargs: Any) -> GemSearchEnv:
        """Makes another environment with the same arguments.

        Args:
            same_state: If true, it goes on from this one's episode.
            **kwargs: Arguments that differ.

        Raises:
            ResetNeeded: if a state is asked for before the first reset.
        """
        gym_id, env_kwargs = self._source
        other = GemSearchEnv(**{"gym_id": gym_id, **env_kwargs, **kwargs})
        if same_state:
            other.set_state(self.get_state())
        return other

    def get_state(self) -> dict[str, Any]:
        """The episode as it stands, for :meth:`set_state` and GEM's tool wrapper."""
        return {"snapshot": self._env.clone_state()}

    def set_state(self, state: dict[str, Any]) -> str:
        """Goes back, or over, to a state; gives the latest observation there."""
        snapshot: Snapshot = state["snapshot"]
        return self._env.restore_state(snapshot)


def register() -> None:
    """Registers the environments with GEM; harmless when repeated."""
    for name in NAMES:
        if f"calibadv:{name}" not in _registration.ENV_REGISTRY:
            _gem.register(f"calibadv:{name}", GemSearchEnv, gym_id=f"calibadv_env:{name}")


register()
