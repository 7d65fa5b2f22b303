"""Environments as a row of slots, each of which plays one episode at a time.

The driver sees slots only: whether they are a list of single environments or one vector
environment makes no difference to it.
"""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from calibadv_algo.errors import CalibadvAlgoError, EnvironmentFaultError
from calibadv_env.common.checks import require_positive

Failures = tuple[type[Exception], ...]

_BUGS: Final[tuple[type[Exception], ...]] = (
    RuntimeError, LookupError, TypeError, AttributeError, AssertionError, ZeroDivisionError,
    NameError,
)  # fmt: skip
"""Exceptions that say nothing by themselves; others (ValueError, OSError) come through."""

MAX_LONE_FAILURES = 4
"""Slots that fail alone before all others are taken to fail as well."""


@dataclass(frozen=True, slots=True)
class SlotStart:
    """Which episode a slot is to begin.

    Attributes:
        task_index: Passed as ``options={"task_index": ...}``.
        seed: Passed as ``seed``.
        training_progress: How much of a training is over, 0 to 1; None outside of one. Passed as
            an option to environments whose ``metadata["reset_options"]`` names it.
    """

    task_index: int
    seed: int
    training_progress: float | None = None


@dataclass(frozen=True, slots=True)
class SlotReset:
    """Result of ``reset`` for one slot."""

    text: str
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotStep:
    """Result of ``step`` for one slot."""

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
        """Number of episodes that can be played at a time."""
        ...

    @property
    def can_step_part(self) -> bool:
        """True if ``step`` leaves slots alone that it does not name."""
        ...

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Begins episodes in the slots named; exceptions of ``catch`` become failures."""
        ...

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Plays a turn in the slots named; exceptions of ``catch`` become failures."""
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


class CloneableSlots(EnvSlots, Protocol):
    """Slots whose episodes can be branched: what stands in one goes on in another."""

    def clone_state(self, slot: int) -> Any:
        """The episode of a slot as it stands."""
        ...

    def restore_state(self, slot: int, snapshot: Any) -> None:
        """Puts a state of :meth:`clone_state` into a slot."""
        ...


class ListSlots:
    """Slots over single environments of any kind whose actions and observations are text.

    An environment that does not know the option ``task_index`` must ignore it; it is seeded
    with the start's seed all the same.
    """

    def __init__(self, envs: Sequence[gymnasium.Env[str, str]]) -> None:
        """Wraps environments, one a slot.

        Raises:
            ValueError: if there are none.
        """
        if not envs:
            raise ValueError("envs must not be empty")
        self._envs = tuple(envs)
        self._is_fresh = [True] * len(self._envs)

    @property
    def num_slots(self) -> int:
        """Number of environments."""
        return len(self._envs)

    @property
    def can_step_part(self) -> bool:
        """Always: every environment is stepped by itself."""
        return True

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Resets the environments of these slots one after the other."""
        results: dict[int, SlotReset | SlotFailure] = {}
        for slot, start in starts.items():
            try:
                options: dict[str, Any] = {"task_index": start.task_index}
                if _takes_progress(self._envs[slot]) and start.training_progress is not None:
                    options["training_progress"] = start.training_progress
                with _explained(self._envs[slot], "reset", catch):
                    text, info = self._envs[slot].reset(seed=start.seed, options=options)
            except catch as error:
                results[slot] = SlotFailure(error)
            else:
                self._is_fresh[slot] = False
                results[slot] = SlotReset(text, info)
        return results

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Steps the environments of these slots one after the other."""
        results: dict[int, SlotStep | SlotFailure] = {}
        for slot, action in actions.items():
            try:
                with _explained(self._envs[slot], "step", catch):
                    text, reward, terminated, truncated, info = self._envs[slot].step(action)
            except catch as error:
                results[slot] = SlotFailure(error)
            else:
                results[slot] = SlotStep(
                    text, _reward(self._envs[slot], reward), bool(terminated), bool(truncated), info
                )
        return results

    @property
    def can_clone(self) -> bool:
        """True if the environments have ``clone_state`` and ``restore_state``."""
        return all(_can_clone(env.unwrapped) for env in self._envs)

    def clone_state(self, slot: int) -> Any:
        """The episode of a slot, by the environment's own ``clone_state``."""
        return _method(self._envs[slot].unwrapped, "clone_state")()

    def restore_state(self, slot: int, snapshot: Any) -> None:
        """Goes on from a state of :meth:`clone_state`, by the environment's ``restore_state``."""
        restore = _method(self._envs[slot].unwrapped, "restore_state")
        if self._is_fresh[slot]:
            # Gymnasium's wrappers refuse to step an environment that they have not seen reset.
            self._envs[slot].reset(seed=0)
            self._is_fresh[slot] = False
        restore(snapshot)

    def close(self) -> None:
        """Closes every environment."""
        for env in self._envs:
            env.close()


class VectorSlots:
    """Slots over a vector environment that leaves resets to its user.

    The environment takes ``options={"task_index": [...], "reset_mask": [...]}`` and does
    nothing in slots whose episode has ended. The key ``is_idle``, which speaks of slots and not
    of turns, is left out of the infos.

    An environment whose ``metadata["is_partial_step"]`` is true leaves a slot alone whose action
    is None. Any other one must be stepped in all slots at a time: a slot that is not named gets
    the empty action, and what comes back is not looked at.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wraps a vector environment.

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

    @property
    def can_step_part(self) -> bool:
        """True if the environment reads None as "no action"."""
        return bool(self._env.metadata.get("is_partial_step", False))

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
        options: dict[str, Any] = {"task_index": tasks, "reset_mask": mask}
        if _takes_progress(self._env):
            options["training_progress"] = [
                starts.get(slot, filler).training_progress for slot in range(self.num_slots)
            ]
        try:
            with _explained(self._env, "reset", catch):
                texts, infos = self._env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        except catch as error:
            return {slot: SlotFailure(error) for slot in starts}
        self._is_fresh = False
        return {slot: SlotReset(texts[slot], unstack_info(infos, slot)) for slot in starts}

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Steps these slots in one call.

        If it fails for several slots of an environment that steps in part, each is stepped
        alone, so that one slot's action fails no other. When the first ``MAX_LONE_FAILURES``
        of these fail too, the cause is taken to be common and all the rest fail unasked.
        """
        if not actions:
            return {}
        try:
            with _explained(self._env, "step", catch):
                return self._step(actions)
        except catch as error:
            if len(actions) == 1 or not self.can_step_part:
                return {slot: SlotFailure(error) for slot in actions}
            return self._step_alone(actions, catch, error)

    def _step_alone(
        self, actions: Mapping[int, str], catch: Failures, error: Exception
    ) -> dict[int, SlotStep | SlotFailure]:
        """Steps slots one after the other, until it is plain that none would succeed."""
        results: dict[int, SlotStep | SlotFailure] = {}
        has_success = False
        for slot, action in actions.items():
            if not has_success and len(results) == MAX_LONE_FAILURES:
                break
            try:
                results |= self._step({slot: action})
                has_success = True
            except catch as own_error:
                results[slot] = SlotFailure(own_error)
        return {slot: results.get(slot, SlotFailure(error)) for slot in actions}

    def _step(self, actions: Mapping[int, str]) -> dict[int, SlotStep | SlotFailure]:
        """One call of the environment."""
        other = None if self.can_step_part else ""
        row = tuple(actions.get(slot, other) for slot in range(self.num_slots))
        texts, rewards, terminated, truncated, infos = self._env.step(row)
        return {
            slot: SlotStep(
                texts[slot],
                _reward(self._env, rewards[slot]),
                bool(terminated[slot]),
                bool(truncated[slot]),
                {k: v for k, v in unstack_info(infos, slot).items() if k != "is_idle"},
            )
            for slot in actions
        }

    @property
    def can_clone(self) -> bool:
        """True if the environment has ``clone_state`` and ``restore_state``."""
        return _can_clone(self._env.unwrapped)

    def clone_state(self, slot: int) -> Any:
        """The episode of a slot, by the environment's own ``clone_state``."""
        return _method(self._env.unwrapped, "clone_state")(slot)

    def restore_state(self, slot: int, snapshot: Any) -> None:
        """Goes on from a state of :meth:`clone_state`, by the environment's ``restore_state``."""
        restore = _method(self._env.unwrapped, "restore_state")
        if self._is_fresh:
            self._env.reset(seed=0)
            self._is_fresh = False
        restore(slot, snapshot)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


def _can_clone(env: Any) -> bool:
    return hasattr(env, "clone_state") and hasattr(env, "restore_state")


@contextmanager
def _explained(env: Any, call: str, catch: Failures) -> Iterator[None]:
    """Says what to do about an exception that nobody expects of an environment."""
    try:
        yield
    except _BUGS as error:
        if isinstance(error, (CalibadvAlgoError, *catch)):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise EnvironmentFaultError(
            f"{type(env.unwrapped).__name__}.{call} failed with {type(error).__name__}: {error} "
            f"({last.filename}:{last.lineno}). Mend the environment, or, if this is a machine's "
            "failure that passes, let it raise OSError, which is tried again. Episodes that ended "
            "are kept: the same command goes on with them"
        ) from error


def _reward(env: Any, value: Any) -> float:
    """A reward as a number; None, as of a judge that failed, is NaN.

    Raises:
        EnvironmentFaultError: if it is none, such as a number as text.
    """
    if value is None:
        return math.nan
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise EnvironmentFaultError(
        f"the reward of {type(env.unwrapped).__name__}.step must be a number, got {value!r:.80} "
        f"({type(value).__name__})"
    )


def _method(env: Any, name: str) -> Callable[..., Any]:
    """A method that not every environment has.

    Raises:
        ValueError: if this one has not.
    """
    method = getattr(env, name, None)
    if method is None:
        raise ValueError(
            f"branching an episode needs an environment with clone_state and restore_state; "
            f"{type(env).__name__} has no {name}"
        )
    found: Callable[..., Any] = method
    return found


def _takes_progress(env: Any) -> bool:
    """Tells whether an environment wants to know the progress of training."""
    return "training_progress" in env.metadata.get("reset_options", ())


def unstack_info(infos: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """Extracts one slot's info from Gymnasium's vector form.

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
    require_positive(num_slots=num_slots)
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
