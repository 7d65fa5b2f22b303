"""Environments as a row of slots, each of which plays one episode at a time.

The driver sees slots only: whether they are a list of single environments or one vector
environment makes no difference to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

Failures = tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class SlotStart:
    """Which episode a slot is to begin.

    Attributes:
        task_index: Passed as ``options={"task_index": ...}``.
        seed: Passed as ``seed``.
    """

    task_index: int
    seed: int


@dataclass(frozen=True, slots=True)
class SlotReset:
    """What ``reset`` gave for one slot."""

    text: str
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotStep:
    """What ``step`` gave for one slot."""

    text: str
    reward: float
    is_terminated: bool
    is_truncated: bool
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotFailure:
    """A slot's call raised one of the expected errors; the episode stands as before it."""

    error: Exception


class EnvSlots(Protocol):
    """A fixed number of places in which episodes are played."""

    @property
    def num_slots(self) -> int:
        """How many episodes can be played at a time."""
        ...

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Begins episodes in the slots named; exceptions of ``catch`` become failures."""
        ...

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Takes a turn in the slots named; exceptions of ``catch`` become failures."""
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


class ListSlots:
    """Slots over single environments of any kind whose actions and observations are text.

    An environment that does not know the option ``task_index`` must ignore it; it is seeded
    with the start's seed all the same.
    """

    def __init__(self, envs: Sequence[gymnasium.Env[str, str]]) -> None:
        """Takes the environments, one a slot.

        Raises:
            ValueError: if there are none.
        """
        if not envs:
            raise ValueError("envs must not be empty")
        self._envs = tuple(envs)

    @property
    def num_slots(self) -> int:
        """Number of environments."""
        return len(self._envs)

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Resets the environments of these slots one after the other."""
        results: dict[int, SlotReset | SlotFailure] = {}
        for slot, start in starts.items():
            try:
                text, info = self._envs[slot].reset(
                    seed=start.seed, options={"task_index": start.task_index}
                )
            except catch as error:
                results[slot] = SlotFailure(error)
            else:
                results[slot] = SlotReset(text, info)
        return results

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Steps the environments of these slots one after the other."""
        results: dict[int, SlotStep | SlotFailure] = {}
        for slot, action in actions.items():
            try:
                text, reward, terminated, truncated, info = self._envs[slot].step(action)
            except catch as error:
                results[slot] = SlotFailure(error)
            else:
                results[slot] = SlotStep(
                    text, float(reward), bool(terminated), bool(truncated), info
                )
        return results

    def close(self) -> None:
        """Closes every environment."""
        for env in self._envs:
            env.close()


class VectorSlots:
    """Slots over a vector environment that leaves resets to its user.

    The environment takes ``options={"task_index": [...], "reset_mask": [...]}`` and does
    nothing in slots whose episode has ended. A slot whose episode the driver has given up is
    sent the empty action until it is reset, and what comes back is not looked at. The key
    ``is_idle``, which speaks of slots and not of turns, is left out of the infos.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Takes the environment.

        Raises:
            ValueError: if it resets finished slots by itself.
        """
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(f"env.metadata['autoreset_mode'] must be DISABLED, got {mode}")
        self._env = env
        self._is_fresh = True

    @property
    def num_slots(self) -> int:
        """Number of sub-environments."""
        return int(self._env.num_envs)

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Resets these slots in one call; an error fails all of them.

        The first call resets every slot, since a vector environment cannot be stepped before;
        the slots that were not named get the first start's task and are not looked at.
        """
        if not starts:
            return {}
        filler = next(iter(starts.values()))
        tasks = [starts.get(slot, filler).task_index for slot in range(self.num_slots)]
        seeds = [starts.get(slot, filler).seed for slot in range(self.num_slots)]
        mask = np.array([self._is_fresh or slot in starts for slot in range(self.num_slots)])
        options = {"task_index": tasks, "reset_mask": mask}
        try:
            texts, infos = self._env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        except catch as error:
            return {slot: SlotFailure(error) for slot in starts}
        self._is_fresh = False
        return {slot: SlotReset(texts[slot], unstack_info(infos, slot)) for slot in starts}

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Steps all slots in one call; an error fails all that were named."""
        if not actions:
            return {}
        row = tuple(actions.get(slot, "") for slot in range(self.num_slots))
        try:
            texts, rewards, terminated, truncated, infos = self._env.step(row)
        except catch as error:
            return {slot: SlotFailure(error) for slot in actions}
        return {
            slot: SlotStep(
                texts[slot],
                float(rewards[slot]),
                bool(terminated[slot]),
                bool(truncated[slot]),
                {k: v for k, v in unstack_info(infos, slot).items() if k != "is_idle"},
            )
            for slot in actions
        }

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


def unstack_info(infos: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """Takes one slot's info out of Gymnasium's vector form.

    Args:
        infos: Arrays by key, each with a mask under the key with an underscore before it, and
            dictionaries of the same form.
        slot: Which slot.

    Returns:
        The keys that the slot has, numpy scalars as Python ones.
    """
    info: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[slot]:
            continue
        if isinstance(values, Mapping):
            info[key] = unstack_info(values, slot)
            continue
        value = values[slot]
        info[key] = value.item() if isinstance(value, np.generic) else value
    return info


def make_slots(
    env_id: str, num_slots: int, env_kwargs: Mapping[str, Any] | None = None
) -> ListSlots | VectorSlots:
    """Makes slots for a registered environment.

    Its vector entry point is used if it has one that leaves resets to its user, else as many
    single environments.

    Args:
        env_id: As in ``gymnasium.make``; ``module:Name-v0`` imports the module first.
        num_slots: How many episodes are to be played at a time.
        env_kwargs: Keyword arguments of the environment.

    Raises:
        ValueError: if ``num_slots`` is not positive.
    """
    if num_slots < 1:
        raise ValueError(f"num_slots must be positive, got {num_slots}")
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    kwargs = dict(env_kwargs or {})
    if gymnasium.spec(name).vector_entry_point is not None:
        vector_env = gymnasium.make_vec(
            name, num_envs=num_slots, vectorization_mode="vector_entry_point", **kwargs
        )
        if vector_env.metadata.get("autoreset_mode") == AutoresetMode.DISABLED:
            return VectorSlots(vector_env)
        vector_env.close()
    return ListSlots(
        [gymnasium.make(name, disable_env_checker=True, **kwargs) for _ in range(num_slots)]
    )
