"""Scripted, deliberately imperfect searchers, and what they do in the environment.

A policy that is to learn search by reinforcement has to begin somewhere: it must write
well-formed turns and copy names from passages into queries. The script here follows a task's
chain of facts and errs on purpose, above all by answering one hop too early, so that a policy
cloned from it has something left to learn. With a source of names every entity of an episode can
be renamed at random, consistently over question, queries and passages: facts cannot be
memorised then, and copying is the only strategy that works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.protocol.passages import HEAD
from calibadv_env.vector import DeepSearchVectorEnv

SegmentKind = Literal["prompt", "action", "observation"]

_FIXED_TEXT: Final = rf"</?\w+>|{HEAD}"
"""Tags and the heads of passages, which stay as they are whatever entities are called."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an episode's text.

    Attributes:
        text: Exactly as the policy would have written or read it.
        kind: Who wrote it: the task, the searcher or the environment.
    """

    text: str
    kind: SegmentKind


Demonstration = tuple[Segment, ...]
"""The segments of one episode: prompt, action, observation, action, …, action."""


class NameSource(Protocol):
    """Knows which entity names stand where."""

    @property
    def names(self) -> Sequence[str]:
        """Every entity name of the world, in a fixed order."""
        ...

    def entities_of(self, passage_id: str) -> Sequence[str]:
        """Entity names that stand in a passage."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearcherConfig:
    """How the scripted searcher errs. All are probabilities in [0, 1].

    Attributes:
        stop_early: After each hop but the last: answer with what has been found so far.
        wrong_relation: In each search: ask for another relation than the one needed.
        wrong_copy: After each search: carry on with a wrong name from the passages.
        retry: After a search that missed: search for the same fact again, this time rightly.
        rename: For each entity of an episode: give it another name throughout.
    """

    stop_early: float = 0.52
    wrong_relation: float = 0.12
    wrong_copy: float = 0.08
    retry: float = 0.5
    rename: float = 0.8

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("stop_early", "wrong_relation", "wrong_copy", "retry", "rename"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")


def chain_of(task: QATask) -> Sequence[Mapping[str, str]]:
    """The chain of facts that leads to a task's answer.

    Returns:
        One mapping a hop with the keys ``subject``, ``relation`` and ``object``.

    Raises:
        ValueError: if the task's metadata holds no such chain.
    """
    chain: Sequence[Mapping[str, str]] | None = task.metadata.get("chain")
    if not chain:
        raise ValueError(f"task {task.id!r} has no metadata['chain'] to follow")
    return chain


def search_action(relation: str, subject: str) -> str:
    """The turn that asks for one fact.

    A space follows each opening tag, so that a byte-pair tokenizer sees a name in the same form
    here as inside a sentence.
    """
    return f"<think> need {relation} of {subject}</think><search> {subject} {relation}</search>"


def answer_action(value: str) -> str:
    """The turn that answers."""
    return f"<think> found {value}</think><answer> {value}</answer>"


class _Searcher:
    """One scripted episode: what to do next, given what came back."""

    def __init__(
        self,
        task: QATask,
        config: SearcherConfig,
        relations: Sequence[str],
        names: NameSource,
        rng: np.random.Generator,
    ) -> None:
        chain = chain_of(task)
        self._chain = chain
        self._config = config
        self._relations = relations
        self._names = names
        self._rng = rng
        self._hop = 0
        self._subject = chain[0]["subject"]
        self._is_done = False
        self._is_retry = False

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def act(self, searches_left: int) -> str:
        """The next turn."""
        if self._is_done or searches_left == 0:
            return answer_action(self._subject)
        relation = self._chain[self._hop]["relation"]
        if not self._is_retry and self._chance(self._config.wrong_relation):
            relation = self._relations[int(self._rng.integers(len(self._relations)))]
        return search_action(relation, self._subject)

    def read(self, passage_ids: Sequence[str], searches_left: int) -> None:
        """Picks a name from the passages and decides how to go on."""
        wanted = self._chain[self._hop]["object"]
        seen = [name for pid in passage_ids for name in self._names.entities_of(pid)]
        is_hit = wanted in seen
        if not is_hit and searches_left > 1 and self._chance(self._config.retry):
            self._is_retry = True
            return
        self._is_retry = False
        others = [name for name in seen if name not in (self._subject, wanted)]
        if is_hit and not (others and self._chance(self._config.wrong_copy)):
            self._subject = wanted
        elif others:
            self._subject = others[int(self._rng.integers(len(others)))]
        self._hop += 1
        is_last = self._hop == len(self._chain)
        self._is_done = is_last or self._chance(self._config.stop_early)


class ChainNames:
    """Names for datasets that list none of their own: those of the tasks' chains.

    Args:
        tasks: Tasks with ``metadata["chain"]``, and gold passages for each of its hops.

    Raises:
        ValueError: if a task has no chain, or gold passages for another number of hops.
    """

    def __init__(self, tasks: TaskSet) -> None:
        by_passage: dict[str, dict[str, None]] = {}
        names: dict[str, None] = {}
        for task in tasks:
            chain = chain_of(task)
            if len(task.gold_passages) != len(chain):
                raise ValueError(
                    f"gold_passages of task {task.id!r} must be given for each of the "
                    f"{len(chain)} hops of its chain, got {len(task.gold_passages)}"
                )
            for hop, golds in zip(chain, task.gold_passages, strict=True):
                pair = (str(hop["subject"]), str(hop["object"]))
                names.update(dict.fromkeys(pair))
                for gold in golds:
                    by_passage.setdefault(gold, {}).update(dict.fromkeys(pair))
        self._names = tuple(names)
        self._by_passage = {key: tuple(value) for key, value in by_passage.items()}

    @property
    def names(self) -> Sequence[str]:
        """Every name of the chains, in order of first use."""
        return self._names

    def entities_of(self, passage_id: str) -> Sequence[str]:
        """Names in a passage; empty for one that is nobody's gold."""
        return self._by_passage.get(passage_id, ())


def rename(
    demonstration: Demonstration,
    entities: Sequence[str],
    names: Sequence[str],
    probability: float,
    rng: np.random.Generator,
) -> Demonstration:
    """Renames entities, consistently over the whole episode.

    Args:
        demonstration: The episode.
        entities: Names that stand in it.
        names: Names to draw from.
        probability: Chance of each entity to be renamed, 0 to 1.
        rng: Source of randomness.

    Returns:
        The episode with every whole-word occurrence replaced, longer names first, so that a name
        inside another one is left alone. Tags and the heads of passages stay as they are, even
        if an entity is called "1" or "answer".
    """
    unique = sorted(set(entities), key=lambda name: (-len(name), name))
    drawn = [names[index] for index in rng.integers(len(names), size=2 * len(unique) + 1)]
    fresh = iter(dict.fromkeys(name for name in drawn if name not in unique))
    mapping = {name: next(fresh, name) if rng.random() < probability else name for name in unique}
    if not mapping:
        return demonstration
    alternatives = "|".join(re.escape(name) for name in unique)
    pattern = re.compile(rf"{_FIXED_TEXT}|(?<!\w)(?P<name>{alternatives})(?!\w)")

    def replacement(match: re.Match[str]) -> str:
        return mapping[match["name"]] if match["name"] is not None else match.group()

    return tuple(
        Segment(pattern.sub(replacement, segment.text), segment.kind) for segment in demonstration
    )


class Demonstrator:
    """Plays scripted episodes in a vector environment.

    Args:
        tasks: Tasks with ``metadata["chain"]``: a list of subject, relation and object.
        names: Which names stand in which passage, and what to rename to.
        config: How to err.
        env: The environment to play in, on the same tasks.
        rng: Source of all randomness.

    Raises:
        ValueError: if a task has no chain.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        names: NameSource,
        config: SearcherConfig,
        env: DeepSearchVectorEnv,
        rng: np.random.Generator,
    ) -> None:
        self._tasks = tasks
        self._names = names
        self._config = config
        self._env = env
        self._rng = rng
        self._relations = sorted({str(hop["relation"]) for task in tasks for hop in chain_of(task)})

    def play(self, *, max_hops: int | None = None) -> list[Demonstration]:
        """Plays one episode in every slot.

        Args:
            max_hops: Only tasks of at most so many hops; None for all.

        Returns:
            One demonstration a slot.

        Raises:
            ValueError: if no task is that short.
        """
        allowed = [
            index
            for index, task in enumerate(self._tasks)
            if max_hops is None or task.hops <= max_hops
        ]
        if not allowed:
            raise ValueError(f"max_hops must leave at least one task, got {max_hops}")
        picks = [allowed[i] for i in self._rng.integers(len(allowed), size=self._env.num_envs)]
        prompts, reset_info = self._env.reset(options={"task_index": picks})
        budget = int(reset_info["max_turns"][0])
        searchers = [
            _Searcher(self._tasks[i], self._config, self._relations, self._names, self._rng)
            for i in picks
        ]
        segments = [[Segment(prompt, "prompt")] for prompt in prompts]
        entities = [
            {name for hop in chain_of(self._tasks[i]) for name in _ends(hop)} for i in picks
        ]
        is_running = np.ones(len(picks), dtype=bool)
        searches = 0
        while is_running.any():
            actions = [
                searcher.act(budget - searches) if running else ""
                for searcher, running in zip(searchers, is_running, strict=True)
            ]
            observations, _, terminated, truncated, infos = self._env.step(actions)
            searches += 1
            for slot in np.flatnonzero(is_running):
                segments[slot].append(Segment(actions[slot], "action"))
                passage_ids = infos["passage_ids"][slot]
                for passage_id in passage_ids:
                    entities[slot].update(self._names.entities_of(passage_id))
                if not (terminated[slot] or truncated[slot]):
                    segments[slot].append(Segment(observations[slot], "observation"))
                    searchers[slot].read(passage_ids, budget - searches)
            is_running &= ~(terminated | truncated)
        return [
            rename(tuple(played), sorted(names), self._names.names, self._config.rename, self._rng)
            for played, names in zip(segments, entities, strict=True)
        ]

    def stream(self, *, max_hops: int | None = None) -> Iterator[Demonstration]:
        """Plays for ever; see :meth:`play`."""
        while True:
            yield from self.play(max_hops=max_hops)


def _ends(hop: Mapping[str, Any]) -> tuple[str, str]:
    return str(hop["subject"]), str(hop["object"])
