"""Episodes that go on from the middle of others.

A branch shares its prefix with the episode that it leaves: the same turns, with the tokens and
log-probabilities as they were sampled, and a state of the environment, so that nothing is sampled
or searched twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from calibadv_algo.rollout.driver import LockStep
from calibadv_algo.rollout.episodes import Episode
from calibadv_algo.rollout.slots import CloneableSlots


@dataclass(frozen=True, slots=True)
class Node:
    """A state of an episode before one of its turns, from which another episode can go on.

    Attributes:
        episode: The episode as it was then.
        snapshot: State of the environment.
    """

    episode: Episode
    snapshot: Any


@dataclass
class Branching(LockStep):
    """Plays episodes from their start or from a node.

    Attributes:
        starts: Node of each episode, by its place; empty if all play from their start.
        slots: Where the episodes are played.
        remembers: If true, the nodes on the way are kept.
        nodes: Those nodes, by place, in order.
    """

    starts: Mapping[int, Node] = field(kw_only=True)
    slots: CloneableSlots = field(kw_only=True)
    remembers: bool = field(default=True, kw_only=True)
    nodes: dict[int, list[Node]] = field(default_factory=dict)

    def start_episodes(self) -> None:
        """Fills free slots with waiting episodes."""
        if not self.starts:
            before = set(self.live)
            super().start_episodes()
            self._remember(slot for slot in self.live if slot not in before)
            return
        free = [slot for slot in range(self.slots.num_slots) if slot not in self.live]
        for slot in free[: len(self.book.waiting)]:
            index, spec = self.book.waiting.popleft()
            node = self.starts[index]
            self.slots.restore_state(slot, node.snapshot)
            turns = list(node.episode.turns)
            self.live[slot] = replace(node.episode, index=index, spec=spec, turns=turns)

    def take_turns(self) -> None:
        """Samples and plays one turn of every episode in play."""
        super().take_turns()
        self._remember(self.live)

    def _remember(self, slots: Iterable[int]) -> None:
        if not self.remembers:
            return
        for slot in slots:
            episode = self.live[slot]
            # Turns of the live episode are still added to; those of a node are not.
            still = replace(episode, turns=list(episode.turns))
            node = Node(still, self.slots.clone_state(slot))
            self.nodes.setdefault(episode.index, []).append(node)
