"""Many episodes at a time: one retriever call a step, and no automatic reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from calibadv_env.data.registry import Dataset
from calibadv_env.dynamics import (
    EpisodeConfig,
    EpisodeState,
    InvalidAction,
    NoHits,
    Transition,
)
from calibadv_env.env import (
    MAX_ACTION_CHARS,
    MAX_TEXT_CHARS,
    RESET_OPTIONS,
    RenderMode,
    Snapshot,
    World,
    WorldSource,
    check_options,
    check_render_mode,
    progress_of,
    render_transcript,
)
from calibadv_env.graders.base import Grader
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.retrieval.base import Retriever
from calibadv_env.rewards import CoverEm
from calibadv_env.spaces import UnicodeText

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_DTYPES: Final[dict[str, type]] = {
    "task_index": np.int64,
    "num_tasks": np.int64,
    "max_turns": np.int64,
    "hops": np.int64,
    "turn": np.int64,
    "num_searches": np.int64,
    "num_passages_new": np.int64,
    "num_passages_seen": np.int64,
    "max_calls": np.int64,
    "call_budget": np.int64,
    "char_budget": np.int64,
    "num_calls": np.int64,
    "num_chars": np.int64,
    "num_repeats": np.int64,
    "num_missing": np.int64,
    "turns_left": np.int64,
    "calls_left": np.int64,
    "chars_left": np.int64,
    "has_gold": np.bool_,
    "answer_in_passages": np.bool_,
    "is_format_valid": np.bool_,
    "gold_recall": np.float64,
    "think_similarity": np.float64,
    "em": np.float64,
    "f1": np.float64,
    "cover_em": np.float64,
}
"""Types of the info columns; whatever is not named here goes into an object array."""

_FINAL_KEYS: Final = ("em", "f1", "cover_em", "is_format_valid")


class DeepSearchVectorEnv(VectorEnv[tuple[str, ...], Sequence[str | None], npt.NDArray[Any]]):
    """``num_envs`` episodes of :class:`calibadv_env.env.DeepSearchEnv` in one process.

    Slot ``i`` behaves as the single environment does: after ``reset(seed=s)`` it plays the same
    episodes as one that was reset with ``seed=s + i``. All searches of a step go to the retriever
    in one call.

    Slots do not reset themselves (``AutoresetMode.DISABLED``). One whose episode has ended idles
    until it is reset: its action is not looked at, its observation is "", its reward 0, both flags
    are false, and ``infos["is_idle"]`` is true for it. Flags are events: each is true in the one
    step that ends an episode, so that wrappers which count them count episodes.

    :class:`calibadv_env.env.DeepSearchEnv` says more about each argument.

    Args:
        num_envs: Number of slots, at least 1.
        dataset: Name of a dataset, or a ``Dataset``.
        split: Name of its split, or "eval" for the one to evaluate on.
        retriever: A retriever by name, path or address, or an object that searches.
        top_k: Passages a search.
        max_turns: Searches in an episode, at most.
        reward: What an answer earns: "f1", "em", "cover_em", "step_search", or a grader.
        format_gate: Whether an ill-formed response earns nothing.
        invalid_action: "end" or "continue" after a malformed action.
        prompt: Name of the instruction, or a template that holds ``{question}``.
        prepend_think: Whether observations end with ``<think>``; actions then come without it.
        max_observation_chars: Most characters of passages in an observation, None for all.
        no_hits: "none" or "first" where a search finds fewer than ``top_k``.
        cover_em: What the reward "cover_em" pays: "words" or "substring".
        normalizer: Normal form of answers: "squad", "unicode" or "auto".
        render_mode: "ansi" for a transcript, or None.

    Raises:
        ValueError: if an argument is out of its range or names nothing that exists.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.DISABLED,
        "is_partial_step": True,
        "reset_options": (*RESET_OPTIONS, "reset_mask"),
    }
    world_class: ClassVar[type[World]] = World

    def __init__(
        self,
        num_envs: int = 1,
        *,
        dataset: str | Dataset = "atlas",
        split: str = "train",
        retriever: str | Retriever = "bm25",
        top_k: int = 3,
        max_turns: int = 4,
        reward: str | Grader = "f1",
        format_gate: bool = True,
        invalid_action: InvalidAction = "end",
        prompt: str = "search_r1",
        prepend_think: bool = False,
        max_observation_chars: int | None = None,
        no_hits: NoHits = "none",
        cover_em: CoverEm = "words",
        normalizer: Normalizer = "auto",
        render_mode: RenderMode | None = None,
    ) -> None:
        config = EpisodeConfig(
            max_turns=max_turns,
            top_k=top_k,
            reward=reward,
            format_gate=format_gate,
            invalid_action=invalid_action,
            prompt=prompt,
            prepend_think=prepend_think,
            max_observation_chars=max_observation_chars,
            no_hits=no_hits,
            cover_em=cover_em,
            normalizer=normalizer,
        )
        self._start(num_envs, (dataset, split, retriever, config), render_mode)

    def _start(self, num_envs: int, source: WorldSource, render_mode: RenderMode | None) -> None:
        """Opens the world and sets every slot up, before the first reset."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        check_render_mode(render_mode)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_action_space = UnicodeText(MAX_ACTION_CHARS)
        self.single_observation_space = UnicodeText(MAX_TEXT_CHARS)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._source = source
        self._world = self.world_class.open(*source)
        self._states: list[EpisodeState | None] = [None] * num_envs
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._observations = [""] * num_envs
        self._transcripts: list[list[str]] = [[] for _ in range(num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Starts episodes, in all slots or in some.

        Args:
            seed: ``s`` seeds slot ``i`` with ``s + i``; a sequence holds one seed a slot, None
                letting that slot's generator run on.
            options: ``task_index`` or ``task_id`` chooses the tasks: one for all, or a sequence
                with one a slot; so does ``training_progress``, where None leaves it open.
                ``reset_mask``, a boolean array with one entry a slot, leaves the
                slots alone where it is false.

        Returns:
            The observation of every slot, the latest one where it was left alone, and the
            ``ResetInfo`` of those that were reset in Gymnasium's vector form.

        Raises:
            ValueError: if the seed or an option does not fit; nothing is reset then.
        """
        options = options or {}
        check_options(options, (*RESET_OPTIONS, "reset_mask"))
        seeds = self._read_seeds(seed)
        slots = self._read_mask(options.get("reset_mask"))
        chosen = self._read_tasks(options, slots)
        progress = self._read_progress(options.get("training_progress"))
        infos: list[Mapping[str, Any]] = []
        for slot in slots:
            generator = self._generators[slot]
            if generator is None or seeds[slot] is not None:
                generator = self._generators[slot] = seeding.np_random(seeds[slot])[0]
            index = self._world.pick(generator) if chosen is None else chosen[slot]
            facts = self._world.facts(index, progress[slot])
            self._states[slot], observation, info = self._world.begin(facts)
            self._observations[slot] = observation
            self._transcripts[slot] = [observation]
            infos.append(info)
        return tuple(self._observations), batch_infos(infos, slots, self.num_envs)

    def step(
        self, actions: Sequence[str | None]
    ) -> tuple[tuple[str, ...], FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Plays one turn in every slot that is not idle.

        Args:
            actions: One action a slot; those of idle slots are not looked at. None leaves a
                slot as it is: its observation is the latest one again, its reward 0 and
                ``is_idle`` true.

        Returns:
            Observations, rewards, terminated, truncated (both of this step alone: false for idle
            slots), and infos in Gymnasium's vector form: for each key an array and, under the key
            with an underscore before it, which slots have it. Only ``is_idle`` is there for all
            slots.

        Raises:
            ResetNeeded: if a slot that is given an action was never reset.
            ValueError: if ``actions`` is not one string or None a slot.
            RetrieverError: if the search failed. Every slot is as before: the same actions can
                be sent again.
        """
        slots, results = self._play(self._read_actions(actions))
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        pairs = zip(self._observations, actions, strict=True)
        self._observations = [text if action is None else "" for text, action in pairs]
        is_idle = np.ones(self.num_envs, dtype=np.bool_)
        for slot, result in zip(slots, results, strict=True):
            self._states[slot] = result.state
            self._observations[slot] = result.observation
            if result.state.stop_reason is not None:
                rewards[slot] = result.reward
                terminated[slot] = result.terminated
                truncated[slot] = result.truncated
            if self.render_mode is not None:
                self._transcripts[slot] += [str(actions[slot]), result.observation]
        is_idle[slots] = False
        infos = batch_infos([result.info for result in results], slots, self.num_envs)
        infos["is_idle"], infos["_is_idle"] = is_idle, np.ones(self.num_envs, dtype=np.bool_)
        return tuple(self._observations), rewards, terminated, truncated, infos

    def clone_state(self, slot: int) -> Snapshot:
        """The episode of one slot as it stands, to go on from there later, in any slot.

        The slot's generator is not part of it.

        Raises:
            ResetNeeded: if the slot was never reset.
        """
        state = self._states[slot]
        if state is None:
            raise ResetNeeded(f"clone_state needs an episode: slot {slot} has none")
        return Snapshot(state, self._observations[slot], tuple(self._transcripts[slot]))

    def restore_state(self, slot: int, snapshot: Snapshot) -> str:
        """Puts a state of :meth:`clone_state` into a slot.

        Args:
            slot: Which one; whatever it played before is over.
            snapshot: Of an environment with the same tasks and rules.

        Returns:
            The latest observation at that state.
        """
        self._states[slot] = snapshot.state
        self._observations[slot] = snapshot.observation
        self._transcripts[slot] = list(snapshot.transcript)
        return snapshot.observation

    def render(self) -> tuple[str, ...] | None:
        """A transcript for each slot, or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn('render needs a mode: make the environment with "ansi"')
            return None
        pairs = zip(self._transcripts, self._states, strict=True)
        return tuple(render_transcript(texts, state) for texts, state in pairs)

    def _play(self, actions: Sequence[str | None]) -> tuple[list[int], list[Transition]]:
        """Works out the transitions of all running slots with an action; changes nothing."""
        slots, states, texts = [], [], []
        for slot, (state, action) in enumerate(zip(self._states, actions, strict=True)):
            if action is None:
                continue
            if state is None:
                raise ResetNeeded(f"step needs an episode in every slot: slot {slot} has none")
            if state.stop_reason is None:
                slots.append(slot)
                states.append(state)
                texts.append(action)
        return slots, self._world.play(states, texts)

    def _read_actions(self, actions: Sequence[str | None]) -> Sequence[str | None]:
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise ValueError(f"actions must be {self.num_envs} strings, got {actions!r:.80}")
        for slot, (action, state) in enumerate(zip(actions, self._states, strict=True)):
            is_running = state is not None and state.stop_reason is None
            if is_running and not isinstance(action, str | None):
                raise ValueError(f"actions[{slot}] must be a str, got {type(action).__name__}")
        return actions

    def _read_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must hold {self.num_envs} seeds, got {len(seed)}")
        return [None if one is None else int(one) for one in seed]

    def _read_mask(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        array = np.asarray(mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] must be {self.num_envs} booleans, got {mask!r:.80}"
            )
        if not array.any():
            raise ValueError("options['reset_mask'] must have a true entry, got none")
        return [int(slot) for slot in np.flatnonzero(array)]

    def _read_tasks(
        self, options: Mapping[str, Any], slots: Sequence[int]
    ) -> dict[int, int] | None:
        """Task index of each slot, None if tasks are to be drawn."""
        for key in ("task_index", "task_id"):
            if key in options:
                value = options[key]
                if isinstance(value, str | int | np.integer):
                    value = [value] * self.num_envs
                if not hasattr(value, "__len__") or len(value) != self.num_envs:
                    raise ValueError(
                        f"options[{key!r}] must be one value or {self.num_envs}, got {value!r:.80}"
                    )
                return {slot: self._world.task_index(key, value[slot]) for slot in slots}
        return None

    def _read_progress(self, value: Any) -> list[float | None]:
        if value is None or isinstance(value, int | float | np.number):
            value = [value] * self.num_envs
        if not hasattr(value, "__len__") or isinstance(value, str) or len(value) != self.num_envs:
            raise ValueError(
                f"options['training_progress'] must be one value or {self.num_envs}, "
                f"got {value!r:.80}"
            )
        return [progress_of(one) for one in value]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what the dataset gives again: tasks and index."""
        return {key: value for key, value in self.__dict__.items() if key != "_world"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._world = self.world_class.open(*self._source)


def batch_infos(
    infos: Sequence[Mapping[str, Any]], slots: Sequence[int], num_envs: int
) -> dict[str, Any]:
    """Puts infos of single episodes into Gymnasium's vector form.

    Args:
        infos: One info a slot named in ``slots``, all with the same keys but for those of the
            end of an episode.
        slots: The slots that have an info, ascending.
        num_envs: Number of slots.

    Returns:
        For each key an array over all slots, 0 or None where a slot has no value, and a mask of
        the slots that have one under the key with an underscore before it.
    """
    batch: dict[str, Any] = {}
    if not infos:
        return batch
    ended = [index for index, info in enumerate(infos) if "em" in info]
    keys = [key for key in infos[0] if key not in _FINAL_KEYS]
    _add_columns(batch, keys, infos, np.asarray(slots), num_envs)
    if ended:
        final = [infos[index] for index in ended]
        _add_columns(batch, _FINAL_KEYS, final, np.asarray(slots)[ended], num_envs)
    return batch


def _add_columns(
    batch: dict[str, Any],
    keys: Sequence[str],
    infos: Sequence[Mapping[str, Any]],
    where: npt.NDArray[Any],
    num_envs: int,
) -> None:
    is_full = len(infos) == num_envs
    mask = np.full(num_envs, is_full)
    mask[where] = True
    for key in keys:
        dtype = _DTYPES.get(key, object)
        column: npt.NDArray[Any] = np.fromiter([info[key] for info in infos], dtype, len(infos))
        if not is_full:
            full = np.full(num_envs, None) if dtype is object else np.zeros(num_envs, dtype)
            full[where] = column
            column = full
        batch[key], batch["_" + key] = column, mask.copy()
