"""Continuations: episodes played again from the middle, to measure what a state is worth.

A state is the prefix of a recorded episode. Its tokens are those that were sampled; the state of
the environment is made by playing the recorded actions once more, which also shows that the
environment gives the same episode for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from calibadv_algo.errors import RolloutError
from calibadv_algo.rollout.branching import Branching, Node
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import (
    Episode,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    slot_start,
)
from calibadv_algo.rollout.slots import (
    CloneableSlots,
    EnvSlots,
    Failures,
    SlotFailure,
    SlotReset,
    SlotStart,
    SlotStep,
)
from calibadv_algo.types import Trajectory, context_of

Place = tuple[int, int]
"""Where a state stands: place of the episode, and number of the turn that follows."""

StateName = tuple[str, tuple[int, ...]]
"""Group and tokens of a state: equal states of a group have the same name."""


class ReplayError(RolloutError):
    """An environment did not give the same episode for the same actions."""


@dataclass(frozen=True, slots=True)
class Replay:
    """An episode as its start and its actions, each with the text that followed."""

    start: SlotStart
    played: tuple[tuple[str, str], ...]


class ReplaySlots:
    """Slots of environments without ``clone_state``: a state is reached by its actions again.

    The environment must give the same episode for the same start and actions.
    """

    def __init__(self, slots: EnvSlots) -> None:
        """Wraps slots.

        Raises:
            ValueError: if they cannot be stepped one by one.
        """
        if not slots.can_step_part:
            raise ValueError(
                "continuing an episode needs an environment that can be cloned, or slots that "
                "are stepped one by one; this vector environment has neither clone_state nor "
                "partial steps"
            )
        self._slots = slots
        self._replays: dict[int, Replay] = {}

    @property
    def num_slots(self) -> int:
        """Number of episodes that can be played at a time."""
        return self._slots.num_slots

    @property
    def can_step_part(self) -> bool:
        """Always, as asked for."""
        return True

    def reset(
        self, starts: Mapping[int, SlotStart], catch: Failures
    ) -> dict[int, SlotReset | SlotFailure]:
        """Begins episodes and notes how."""
        results = self._slots.reset(starts, catch)
        for slot, result in results.items():
            if not isinstance(result, SlotFailure):
                self._replays[slot] = Replay(starts[slot], ())
        return results

    def step(
        self, actions: Mapping[int, str], catch: Failures
    ) -> dict[int, SlotStep | SlotFailure]:
        """Plays turns and notes them."""
        results = self._slots.step(actions, catch)
        for slot, result in results.items():
            if not isinstance(result, SlotFailure):
                before = self._replays[slot]
                played = (*before.played, (actions[slot], result.text))
                self._replays[slot] = Replay(before.start, played)
        return results

    def clone_state(self, slot: int) -> Replay:
        """The way to the state of a slot."""
        return self._replays[slot]

    def restore_state(self, slot: int, snapshot: Any) -> None:
        """Goes that way again.

        Raises:
            ReplayError: if it leads elsewhere.
        """
        self.reset({slot: snapshot.start}, ())
        for action, text in snapshot.played:
            step = self.step({slot: action}, ())[slot]
            _check_same(text, step)

    def close(self) -> None:
        """Closes the environments."""
        self._slots.close()


def as_cloneable(slots: EnvSlots) -> CloneableSlots:
    """Slots whose states can be kept: by cloning where the environment can, else by replay.

    Raises:
        ValueError: if neither is possible.
    """
    if getattr(slots, "can_clone", False):
        return cast("CloneableSlots", slots)
    return ReplaySlots(slots)


def walk(
    slots: CloneableSlots,
    episodes: Sequence[tuple[EpisodeSpec, Trajectory]],
    places: Iterable[Place],
) -> dict[Place, Node]:
    """Nodes of recorded episodes, made by playing their actions again; nothing is sampled.

    Args:
        slots: Where they are played.
        episodes: Each with the spec that it was played by.
        places: Where a node is wanted.

    Returns:
        The nodes by place.

    Raises:
        ReplayError: if an environment gives another episode for the same actions.
    """
    nodes: dict[Place, Node] = {}
    turns: list[list[int]] = [[] for _ in episodes]
    for index, turn in sorted(set(places)):
        turns[index].append(turn)
    for first in range(0, len(episodes), slots.num_slots):
        chunk = range(first, min(first + slots.num_slots, len(episodes)))
        live = {slot: index for slot, index in enumerate(chunk) if turns[index]}
        starts = {slot: slot_start(episodes[index][0]) for slot, index in live.items()}
        for slot, reset in slots.reset(starts, ()).items():
            _check_same(episodes[live[slot]][1].prompt_text, reset)
        number = 0
        while live:
            for slot, index in live.items():
                if number in turns[index]:
                    before = prefix(*episodes[index], number)
                    nodes[index, number] = Node(before, slots.clone_state(slot))
            live = {slot: index for slot, index in live.items() if number < turns[index][-1]}
            actions = {
                slot: episodes[index][1].turns[number].action_text for slot, index in live.items()
            }
            for slot, step in slots.step(actions, ()).items():
                _check_same(episodes[live[slot]][1].turns[number].observation_text, step)
            number += 1
    return nodes


def prefix(spec: EpisodeSpec, trajectory: Trajectory, num_turns: int) -> Episode:
    """An episode as it was before one of its turns, its tokens as they were sampled."""
    turns = list(trajectory.turns[:num_turns])
    return Episode(
        index=0,
        spec=spec,
        prompt_text=trajectory.prompt_text,
        prompt_ids=trajectory.prompt_ids,
        reset_info=trajectory.reset_info,
        context=prefix_ids(trajectory, num_turns),
        turns=turns,
        starts_segment=any(
            each.context_ids for each in trajectory.turns[num_turns : num_turns + 1]
        ),
    )


def state_names(spec: EpisodeSpec, trajectory: Trajectory) -> list[StateName]:
    """Names of the states before the turns of an episode."""
    turns = range(len(trajectory.turns))
    return [(spec.group_id, prefix_ids(trajectory, turn)) for turn in turns]


def prefix_ids(trajectory: Trajectory, num_turns: int) -> tuple[int, ...]:
    """Context that a turn of an episode was sampled from."""
    return context_of(trajectory, num_turns)


def play_on(
    player: Player,
    slots: CloneableSlots,
    specs: Sequence[EpisodeSpec],
    nodes: Sequence[Node],
    *,
    policy_version: int = 0,
    journal: FinishedEpisodes | None = None,
) -> RolloutBatch:
    """Plays episodes on from nodes, one for each spec.

    Args:
        player: Engine and settings of the sampling.
        slots: Those of the player, cloneable.
        specs: Their seeds are those of the continuations.
        nodes: Where each goes on.
        policy_version: Recorded in every trajectory.
        journal: Told of every end.

    Returns:
        Whole episodes, prefixes included, whose rewards include those of their prefixes.

    Raises:
        RolloutError: if every episode was dropped.
        EngineError: if the engine failed.
    """
    book = player.open_book(specs, policy_version, journal)
    starts = dict(enumerate(nodes))
    return Branching(player, book, starts=starts, slots=slots, remembers=False).run()


def _check_same(text: str, result: SlotReset | SlotStep | SlotFailure) -> None:
    """Raises ReplayError if an environment says something else than it did."""
    if isinstance(result, SlotFailure):
        raise result.error
    if result.text != text:
        raise ReplayError(
            "the environment gave another observation for the same actions, so the values of "
            f"its states cannot be measured: {text[:80]!r} became {result.text[:80]!r}"
        )
