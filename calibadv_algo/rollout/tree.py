"""Trees of episodes: another episode goes on from the middle of one that was played.

A branch shares its prefix with the episode that it leaves: the same turns, with the tokens and
log-probabilities as they were sampled, and a clone of the environment's state, so nothing is
sampled or searched twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np

from calibadv_algo.rollout.branching import Branching, Node
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import (
    EpisodeBook,
    EpisodeSpec,
    FinishedEpisodes,
    RolloutBatch,
    RolloutStats,
    count_lost_groups,
    derived_seed,
)
from calibadv_algo.rollout.slots import CloneableSlots
from calibadv_algo.rollout.tree_config import TREE_KEY, TreeSearch
from calibadv_algo.types import Trajectory

_CHAIN_STREAM, _CHOICE_STREAM = 2, 3


@dataclass(slots=True)
class _Tree:
    """Nodes and leaves of one tree so far."""

    question: EpisodeSpec
    number: int
    rng: np.random.Generator
    nodes: list[Node] = field(default_factory=list)
    leaves: list[Trajectory] = field(default_factory=list)

    def spec(self, chain: int) -> EpisodeSpec:
        """The episode of one chain: the question's, with a seed of its own."""
        return replace(self.question, seed=chain_seed(self.question.seed, self.number, chain))

    def drawn_nodes(self, count: int) -> list[Node]:
        """Nodes to expand, each once as long as there are enough."""
        if not self.nodes:
            return []
        places = self.rng.choice(len(self.nodes), size=count, replace=count > len(self.nodes))
        return [self.nodes[int(place)] for place in places]

    def drawn_leaves(self, count: int) -> list[Trajectory]:
        """Leaves to keep, in the order in which they were played."""
        size = min(count, len(self.leaves))
        places = sorted(
            self.rng.choice(max(1, len(self.leaves)), size=size, replace=False).tolist()
        )
        kept = [self.leaves[place] for place in places]
        return [
            replace(leaf, reset_info={**leaf.reset_info, TREE_KEY: self.number}) for leaf in kept
        ]


@dataclass(frozen=True, slots=True)
class TreePlayer(Player):
    """Plays the episodes of a group as trees, where a :class:`Player` plays them one by one.

    **Source:** Tree-GRPO (arXiv 2509.21240), where a node is one step of thought, action and
    observation.

    **Differs:** nodes of a round are drawn without repetition as long as a tree has enough of
    them, and may be drawn again in a later round; the paper does not say.

    Attributes:
        tree: Shape of the trees; its ``group_size`` is the number of episodes of a group.
    """

    tree: TreeSearch = field(default_factory=TreeSearch)

    def play(
        self,
        specs: Sequence[EpisodeSpec],
        *,
        policy_version: int = 0,
        journal: FinishedEpisodes | None = None,
    ) -> RolloutBatch:
        """Grows trees for every group; all seeds come from that of the group's first spec.

        Args:
            specs: One for each episode of a group, or the first one alone.
            policy_version: Recorded in every trajectory.
            journal: Groups that it knows whole are not played again. Groups are recorded when
                all of the call are there, if they have a trajectory for each spec.

        Returns:
            The kept leaves, whole trajectories, by group and tree; each has its tree's number in
            ``reset_info["tree_id"]``. Statistics count what was played, thrown-away leaves
            included; a prefix counts once.

        Raises:
            RolloutError: if every episode of a round was dropped.
            EngineError: if the engine failed.
            ValueError: if an environment cannot be cloned.
        """
        groups: dict[str, list[EpisodeSpec]] = {}
        for spec in specs:
            groups.setdefault(spec.group_id, []).append(spec)
        known = _known_groups(groups, journal)
        questions = [members[0] for name, members in groups.items() if name not in known]
        batch = self._grow(questions, policy_version)
        played: dict[str, list[Trajectory]] = {}
        for each in batch.trajectories:
            played.setdefault(each.group_id, []).append(each)
        for name, leaves in played.items():
            if journal is not None and len(leaves) == len(groups[name]):
                for spec, leaf in zip(groups[name], leaves, strict=True):
                    journal.record(spec, leaf)
        return _with_known(batch, [*groups], known, played)

    def _grow(self, questions: Sequence[EpisodeSpec], policy_version: int) -> RolloutBatch:
        """Grows all trees of some questions, round by round."""
        began = time.perf_counter()
        tree = self.tree
        trees = [
            _Tree(question, number, np.random.default_rng([question.seed, _CHOICE_STREAM, number]))
            for question in questions
            for number in range(tree.num_trees)
        ]
        rounds = [self._play_round([each.spec(0) for each in trees], {}, policy_version)]
        rounds[0].plant(trees)
        for number in range(tree.num_rounds):
            chosen = [
                (each, place, node)
                for each in trees
                for place, node in enumerate(each.drawn_nodes(tree.num_expansions))
            ]
            if not chosen:
                break
            first = 1 + number * tree.num_expansions
            specs = [each.spec(first + place) for each, place, _ in chosen]
            starts = {i: node for i, (_, _, node) in enumerate(chosen)}
            rounds.append(self._play_round(specs, starts, policy_version))
            rounds[-1].plant([each for each, _, _ in chosen])
        kept = tuple(leaf for each in trees for leaf in each.drawn_leaves(tree.num_leaves))
        return _joined(questions, rounds, kept, tree.group_size, time.perf_counter() - began)

    def _play_round(
        self, specs: Sequence[EpisodeSpec], starts: Mapping[int, Node], policy_version: int
    ) -> _Round:
        """Plays first chains, or the expansions of one round."""
        book = self.open_book(specs, policy_version)
        steps = Branching(self, book, starts=starts, slots=cast(CloneableSlots, self.slots))
        return _Round(steps.run(), book, steps.nodes, starts)


def chain_seed(question_seed: int, tree: int, chain: int) -> int:
    """Seed of one chain of a tree: 63 bits."""
    return derived_seed(question_seed, _CHAIN_STREAM, tree, chain)


@dataclass(frozen=True, slots=True)
class _Round:
    """Episodes that were played at one time: first chains, or the expansions of one round."""

    batch: RolloutBatch
    book: EpisodeBook
    nodes: Mapping[int, Sequence[Node]]
    starts: Mapping[int, Node]

    def plant(self, trees: Sequence[_Tree]) -> None:
        """Adds leaves and nodes; the i-th episode belongs to the i-th tree given."""
        for index, tree in enumerate(trees):
            if index in self.book.finished:
                tree.leaves.append(self.book.finished[index])
                tree.nodes.extend(self.nodes.get(index, ()))


def _joined(
    questions: Sequence[EpisodeSpec],
    rounds: Sequence[_Round],
    kept: tuple[Trajectory, ...],
    group_size: int,
    total_s: float,
) -> RolloutBatch:
    """One batch of all rounds: what is kept, and counts of everything."""
    sums: dict[str, Any] = {
        item.name: sum(getattr(each.batch.stats, item.name) for each in rounds)
        for item in fields(RolloutStats)
    }
    prefix_turns = sum(
        len(each.starts[index].episode.turns)
        for each in rounds
        for index in each.book.finished
        if index in each.starts
    )
    planned = [spec for spec in questions for _ in range(group_size)]
    sums |= {
        "num_episodes": len(kept),
        "num_turns": sums["num_turns"] - prefix_turns,
        "num_groups_lost": count_lost_groups(planned, kept),
        "total_s": total_s,
    }
    dropped = tuple(item for each in rounds for item in each.batch.dropped)
    return RolloutBatch(kept, dropped, RolloutStats(**sums))


def _known_groups(
    groups: Mapping[str, Sequence[EpisodeSpec]], journal: FinishedEpisodes | None
) -> dict[str, list[Trajectory]]:
    """The groups of which a journal has every episode."""
    if journal is None:
        return {}
    found = {name: [journal.find(spec) for spec in specs] for name, specs in groups.items()}
    complete = {name: [each for each in f if each is not None] for name, f in found.items()}
    return {name: each for name, each in complete.items() if len(each) == len(groups[name])}


def _with_known(
    batch: RolloutBatch,
    order: Sequence[str],
    known: Mapping[str, Sequence[Trajectory]],
    played: Mapping[str, Sequence[Trajectory]],
) -> RolloutBatch:
    """Puts the groups from the journal among those that were played."""
    if not known:
        return batch
    trajectories = [each for name in order for each in known.get(name, played.get(name, []))]
    reused = [each for members in known.values() for each in members]
    stats = replace(
        batch.stats,
        num_episodes=len(trajectories),
        num_turns=batch.stats.num_turns + sum(len(each.turns) for each in reused),
        num_reused=batch.stats.num_reused + len(reused),
    )
    return RolloutBatch(tuple(trajectories), batch.dropped, stats)
