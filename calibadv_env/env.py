"""One episode at a time: a thin shell round :mod:`calibadv_env.dynamics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Self, SupportsFloat, TypeAlias

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from calibadv_env.data.base import TaskSet
from calibadv_env.data.evidence import cluster_of, gold_entities, gold_queries, gold_texts
from calibadv_env.data.registry import Dataset, get_dataset
from calibadv_env.dynamics import (
    EpisodeConfig,
    EpisodeState,
    InvalidAction,
    NoHits,
    TaskFacts,
    TrainingTask,
    Transition,
    begin,
    plan,
    transition,
)
from calibadv_env.graders.base import Grader
from calibadv_env.graders.naming import warn_of_abstentions
from calibadv_env.info import ResetInfo
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.answers import as_passages
from calibadv_env.retrieval.base import Retriever, search_with_tasks
from calibadv_env.retrieval.filled import with_fillers
from calibadv_env.rewards import CoverEm
from calibadv_env.spaces import UnicodeText

MAX_ACTION_CHARS: Final = 1_000_000
"""Size of the action space. A longer action is still read."""

MAX_TEXT_CHARS: Final = 100_000_000
"""Size of the observation space, far above any prompt or set of passages."""

RESET_OPTIONS: Final = ("task_index", "task_id", "training_progress")
"""Options of ``reset``; they stand in the metadata too, so that a trainer knows what to send."""

RenderMode = Literal["ansi"]


WorldSource: TypeAlias = "tuple[str | Dataset, str, str | Retriever, Any]"
"""Dataset, split, retriever and rules of a :class:`World`."""


@dataclass
class World:
    """Tasks, a retriever and rules: all that episodes are made from.

    Attributes:
        tasks: The split that tasks are picked from.
        retriever: Answers the queries.
        config: The rules.
        passage: Gives the passage of an id, for rules that need the texts of gold passages.
    """

    tasks: TaskSet
    retriever: Retriever
    config: EpisodeConfig
    passage: Callable[[str], Passage] | None = None
    _facts: dict[int, TaskFacts] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, dataset: str | Dataset, split: str, retriever: str | Retriever, config: EpisodeConfig
    ) -> Self:
        """Fetches tasks and retriever; those of a dataset are shared within the process.

        Raises:
            ValueError: if the dataset, the split or the retriever is unknown.
        """
        data = get_dataset(dataset) if isinstance(dataset, str) else dataset
        data.warn_of_rules(config.max_turns, config.reward)
        passage = data.corpus().by_id if config.reward == "step_search" else None
        searcher = data.retriever(retriever)
        if config.no_hits == "first":
            searcher = with_fillers(searcher)
        tasks = data.tasks(split)
        if not data.reward:
            warn_of_abstentions(data.name, tasks, config.reward)
        return cls(tasks, searcher, config, passage)

    def facts(self, index: int, training_progress: float | None = None) -> TaskFacts:
        """The task at an index, prepared; worked out once.

        With ``training_progress`` it carries that along to the retriever.
        """
        facts = self._facts.get(index)
        if facts is None:
            task = self.tasks[index]
            facts = TaskFacts.of(
                task,
                index=index,
                num_tasks=len(self.tasks),
                split=self.tasks.split,
                gold_queries=gold_queries(task),
                gold_entities=gold_entities(task),
                cluster=cluster_of(task),
                gold_texts=() if self.passage is None else gold_texts(task, self.passage),
                normalizer=self.config.normalizer,
            )
            self._facts[index] = facts
        return facts if training_progress is None else TrainingTask.at(facts, training_progress)

    def task_index(self, key: str, value: Any) -> int:
        """Reads a reset option that chooses a task.

        Args:
            key: "task_index" or "task_id".
            value: An index or an id.

        Returns:
            The index of the task.

        Raises:
            ValueError: if there is no such task.
        """
        tasks = self.tasks
        if key == "task_id":
            try:
                return tasks.index_of(value)
            except (KeyError, TypeError) as error:
                raise ValueError(
                    f"options['task_id'] must be the id of a task in split {tasks.split!r} of "
                    f"dataset {tasks.name!r}, got {value!r}"
                ) from error
        is_index = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_index or not 0 <= value < len(tasks):
            raise ValueError(
                f"options['task_index'] must be an integer from 0 to {len(tasks) - 1}, "
                f"got {value!r}"
            )
        return int(value)

    def pick(self, rng: np.random.Generator) -> int:
        """Draws the index of a task."""
        return int(rng.integers(len(self.tasks)))

    def begin(self, facts: TaskFacts) -> tuple[EpisodeState, str, ResetInfo]:
        """Starts an episode; see :func:`calibadv_env.dynamics.begin`."""
        return begin(self.config, facts)

    def play(self, states: Sequence[EpisodeState], texts: Sequence[str]) -> list[Transition]:
        """One step of episodes, with one call of the retriever for all of them; changes nothing.

        Args:
            states: Of running episodes.
            texts: The action of each.

        Raises:
            RetrieverError: if the search failed.
        """
        config = self.config
        moves = [plan(config, *each) for each in zip(states, texts, strict=True)]
        pairs = zip(states, moves, strict=True)
        asked = [(move.query, state.task) for state, move in pairs if move.query is not None]
        found = iter(self.search([query for query, _ in asked], [task for _, task in asked]))
        return [
            transition(config, state, move, () if move.query is None else next(found))
            for state, move in zip(states, moves, strict=True)
        ]

    def search(self, queries: list[str], tasks: Sequence[TaskFacts]) -> list[list[ScoredPassage]]:
        """Asks the retriever for all queries at once, each with the task that it came from.

        Raises:
            RetrieverError: if it fails, answers another number of queries, or gives hits that are
                no passages.
        """
        if not queries:
            return []
        results = search_with_tasks(self.retriever, queries, self.config.top_k, tasks)
        return as_passages(results, len(queries), self.config.top_k)


def check_render_mode(render_mode: str | None) -> None:
    """Raises ValueError for a render mode other than "ansi" and None."""
    if render_mode not in (None, "ansi"):
        raise ValueError(f"render_mode must be None or 'ansi', got {render_mode!r}")


def check_options(options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuses reset options that would be ignored.

    Raises:
        ValueError: if a key is unknown, or two keys both pick the task.
    """
    unknown = sorted(str(key) for key in options if key not in allowed)
    if unknown:
        raise ValueError(f"options must only have the keys {allowed}, got {unknown}")
    if "task_index" in options and "task_id" in options:
        raise ValueError("options must have at most one of task_index and task_id, got both")


def progress_of(value: Any) -> float | None:
    """Reads the reset option "training_progress".

    Args:
        value: The share of the training that is over; None outside of a training.

    Raises:
        ValueError: if it is no number from 0 to 1.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(
            f"options['training_progress'] must be a number from 0 to 1, got {value!r}"
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An episode as it stands; see ``clone_state`` and ``restore_state``.

    Attributes:
        state: Everything that its future depends on.
        observation: The latest observation.
        transcript: The texts so far.
    """

    state: EpisodeState
    observation: str
    transcript: tuple[str, ...]


class DeepSearchEnv(gymnasium.Env[str, str]):
    r"""Answer a question by searching a corpus.

    ## Description

    The agent is given a question. In each turn it thinks and then either searches, and is
    shown passages, or answers, which ends the episode.

    ## Action Space

    ``UnicodeText``: all text of one turn, ``<think>…</think><search>…</search>`` or
    ``<think>…</think><answer>…</answer>``. Text after the first ``</search>`` or ``</answer>`` is
    not read. Any text is accepted; one that holds neither a search nor an answer is malformed.

    ## Observation Space

    ``UnicodeText``: only the new text. At reset the instruction and the question; after a search
    the passages between ``<information>`` and ``</information>``, or a sentence that there are
    none; after a malformed action a
    sentence that says what is wrong with it; after an answer, and after a search in the last
    turn, nothing. With ``prepend_think`` every observation but the last ends with ``<think>``.

    ## Starting State

    A task of the split, drawn with the environment's generator, or the one that
    ``options={"task_index": i}`` or ``options={"task_id": s}`` names.

    ## Rewards

    0 until the end; then the metric named by ``reward`` between the answer and the accepted ones,
    or 0 if ``format_gate`` is set and the response is not well-formed.

    ## Episode End

    Terminated by an answer, and by a malformed action if ``invalid_action="end"``. Truncated when
    the last turn brings no answer. At most ``max_turns + 1`` actions are taken: the search of the
    last one is not carried out. With ``invalid_action="continue"`` a malformed action uses up a
    turn.

    ## Information

    See ``ResetInfo`` and ``StepInfo`` in ``calibadv_env.info``.

    ## Arguments

    Args:
        dataset: Name of a dataset, or a ``Dataset``.
        split: Name of its split, or "eval" for the one to evaluate on: test, else dev, else
            train.
        retriever: "bm25", "rank_bm25", "memory", or an object that searches.
        top_k: Passages a search.
        max_turns: Searches in an episode, at most.
        reward: "f1", "em", "cover_em", or "step_search": F1, and facts for rewards of searches.
        format_gate: Whether an ill-formed response earns nothing.
        invalid_action: "end", as in CalibAdv, or "continue", as in Search-R1.
        prompt: "search_r1", "question", "r1_searcher", which has an action grammar of its own,
            or a template that holds ``{question}``.
        prepend_think: Whether observations end with ``<think>``; actions then come without it.
        max_observation_chars: Most characters of passages in an observation, None for all.
        no_hits: Passages of a search that finds fewer than ``top_k``: "none" gives what matches,
            and says so where nothing does; "first" fills up with the first passages of the
            corpus, at the score 0.
        cover_em: What the reward "cover_em" pays: "words", an accepted answer as whole words in an
            answer of bounded length; "substring", anywhere in its letters, as the metric does.
        normalizer: Normal form in which answers are graded and looked for in passages: "squad",
            "unicode", or "auto", which chooses by the script of each accepted answer.
        render_mode: "ansi" for a transcript, or None.

    Raises:
        ValueError: if an argument is out of its range or names nothing that exists.

    ## Version History

    * v1: a search gives only passages that match. Of one that finds nothing the observation says
      so (``no_hits="none"``). The reward "cover_em" counts whole words in an answer of bounded
      length (``cover_em="words"``). Answers in scripts without spaces or with vowel signs are
      graded in the form ``unicode`` (``normalizer="auto"``).
    * v0: first version. A search that found too little was filled up with the first passages of the
      corpus, which could count as gold hits (``no_hits="first"``). The reward "cover_em" was the
      metric (``cover_em="substring"``). All answers had SQuAD's form (``normalizer="squad"``).
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi"],
        "render_fps": 1,
        "reset_options": RESET_OPTIONS,
    }
    world_class: ClassVar[type[World]] = World

    def __init__(
        self,
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
        self._start((dataset, split, retriever, config), render_mode)

    def _start(self, source: WorldSource, render_mode: RenderMode | None) -> None:
        """Opens the world and sets everything up, before the first reset."""
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.action_space = UnicodeText(MAX_ACTION_CHARS)
        self.observation_space = UnicodeText(MAX_TEXT_CHARS)
        self._source = source
        self._world = self.world_class.open(*source)
        self._state: EpisodeState | None = None
        self._transcript: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds the environment's own generator; None lets it run on.
            options: ``{"task_index": i}`` or ``{"task_id": s}`` to choose the task, which then
                is not drawn; ``{"training_progress": p}``, 0 to 1, for a retriever that grows
                harder in the course of a training.

        Returns:
            The instruction with the question, and a ``ResetInfo``.

        Raises:
            ValueError: if an option is unknown or names no task.
        """
        options = options or {}
        check_options(options, RESET_OPTIONS)
        keys = [key for key in ("task_index", "task_id") if key in options]
        chosen = [self._world.task_index(key, options[key]) for key in keys]
        progress = progress_of(options.get("training_progress"))
        super().reset(seed=seed)
        index = chosen[0] if chosen else self._world.pick(self.np_random)
        facts = self._world.facts(index, progress)
        self._state, observation, info = self._world.begin(facts)
        self._transcript = [observation]
        return observation, dict(info)

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Plays one turn.

        Args:
            action: All text of the turn.

        Returns:
            The new text, the reward, whether the episode is terminated or truncated, and a
            ``StepInfo``.

        Raises:
            ResetNeeded: before the first reset and after the end of an episode.
            ValueError: if the action is not a string.
            RetrieverError: if the search failed. The episode is as before: the same action can
                be sent again.
        """
        if self._state is None or self._state.stop_reason is not None:
            raise ResetNeeded("step needs a running episode: call reset first")
        if not isinstance(action, str):
            raise ValueError(f"action must be a str, got {type(action).__name__}")
        [result] = self._world.play([self._state], [action])
        self._state = result.state
        self._transcript += [action, result.observation]
        return (
            result.observation,
            result.reward,
            result.terminated,
            result.truncated,
            dict(result.info),
        )

    def clone_state(self) -> Snapshot:
        """The episode as it stands, to go on from there later, here or in another environment.

        The generator that draws tasks is not part of it.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("clone_state needs an episode: call reset first")
        return Snapshot(self._state, self._transcript[-1], tuple(self._transcript))

    def restore_state(self, snapshot: Snapshot) -> str:
        """Goes back, or over, to a state of :meth:`clone_state`.

        Args:
            snapshot: Of an environment with the same tasks and rules.

        Returns:
            The latest observation at that state.
        """
        self._state = snapshot.state
        self._transcript = list(snapshot.transcript)
        return snapshot.observation

    def render(self) -> str | None:
        """The transcript of the episode so far, or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn('render needs a mode: make the environment with "ansi"')
            return None
        return render_transcript(self._transcript, self._state)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what the dataset gives again: tasks and index."""
        return {key: value for key, value in self.__dict__.items() if key != "_world"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._world = self.world_class.open(*self._source)


def render_transcript(texts: list[str], state: EpisodeState | None) -> str:
    """An episode for people to read.

    Args:
        texts: The first observation, then action and observation in turns.
        state: The state of the episode, None before the first reset.

    Returns:
        The texts under headings, and how the episode ended.
    """
    if state is None:
        return "(no episode yet)\n"
    parts = [f"=== task {state.task.id} ===\n{texts[0].strip()}\n"]
    for turn, start in enumerate(range(1, len(texts), 2), start=1):
        parts.append(f"--- turn {turn}: action ---\n{texts[start].strip()}\n")
        if texts[start + 1]:
            parts.append(f"--- turn {turn}: observation ---\n{texts[start + 1].strip()}\n")
    if state.stop_reason is not None:
        accepted = " | ".join(state.task.golden_answers)
        parts.append(f"=== end: {state.stop_reason}; accepted answers: {accepted} ===\n")
    return "".join(parts)
