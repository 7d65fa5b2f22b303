"""One episode on pages at a time: the shell of :mod:`calibadv_env.env` round other rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from calibadv_env.data.registry import Dataset, get_dataset
from calibadv_env.dynamics import EpisodeState, InvalidAction, TaskFacts, Transition
from calibadv_env.env import DeepSearchEnv, RenderMode, World
from calibadv_env.errors import RetrieverError
from calibadv_env.graders.base import Grader
from calibadv_env.info import ResetInfo
from calibadv_env.pages.dynamics import (
    PagesConfig,
    PagesMove,
    PagesState,
    Reply,
    Request,
    begin,
    plan,
    transition,
)
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.pages import Found, Opened
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.pages import Pages
from calibadv_env.rewards import CoverEm


class PagesWorld(World):
    """Tasks, pages and rules: all that episodes on pages are made from."""

    retriever: Pages
    config: PagesConfig

    @classmethod
    def open(
        cls, dataset: str | Dataset, split: str, retriever: str | Retriever, config: Any
    ) -> Self:
        """Fetches tasks and pages; those of a dataset are shared within the process.

        Raises:
            ValueError: if the dataset, the split or the retriever is unknown.
        """
        data = get_dataset(dataset) if isinstance(dataset, str) else dataset
        data.warn_of_rules(config.max_turns, config.reward)
        passage = data.corpus().by_id if config.reward == "step_search" else None
        return cls(data.tasks(split), data.pages(retriever), config, passage)

    def begin(self, facts: TaskFacts) -> tuple[EpisodeState, str, ResetInfo]:
        """Starts an episode; see :func:`calibadv_env.pages.dynamics.begin`."""
        return begin(self.config, facts)

    def play(self, states: Sequence[EpisodeState], texts: Sequence[str]) -> list[Transition]:
        """One step of episodes; the pages are asked once for each kind of call."""
        of_pages = [state for state in states if isinstance(state, PagesState)]
        moves = [plan(self.config, *each) for each in zip(of_pages, texts, strict=True)]
        replies = self._ask(of_pages, moves)
        return [
            transition(self.config, *each) for each in zip(of_pages, moves, replies, strict=True)
        ]

    def _ask(self, states: Sequence[PagesState], moves: Sequence[PagesMove]) -> list[list[Reply]]:
        """What the pages give for the requests of all moves."""
        replies: list[list[Reply]] = [[None] * len(move.requests) for move in moves]
        due = [
            (slot, place, request)
            for slot, move in enumerate(moves)
            for place, request in enumerate(move.requests)
            if request.is_due
        ]
        for kind in ("search", "open", "find"):
            asked = [each for each in due if each[2].call.kind == kind]
            if not asked:
                continue
            answers = self._answers(kind, [(states[slot], each) for slot, _, each in asked])
            if len(answers) != len(asked):
                raise RetrieverError(
                    f"pages must answer all {len(asked)} calls, got {len(answers)} answers"
                )
            for (slot, place, _), answer in zip(asked, answers, strict=True):
                replies[slot][place] = answer
        return replies

    def _answers(
        self, kind: str, asked: Sequence[tuple[PagesState, Request]]
    ) -> Sequence[Sequence[ScoredPassage] | Opened | Found]:
        """What the pages give for requests of one kind."""
        arguments = [request.call.argument for _, request in asked]
        if kind == "search":
            return self.search(arguments, [state.task for state, _ in asked])
        max_chars = self.config.max_observation_chars
        if kind == "open":
            return self.retriever.open(arguments, max_chars)
        inside = [request.page for _, request in asked]
        return self.retriever.find(list(zip(inside, arguments, strict=True)), max_chars)


class DeepSearchPagesEnv(DeepSearchEnv):
    """Answer a question by searching, opening and reading pages.

    ## Description

    The agent is given a question. In each turn it thinks and then calls: it searches for sections
    of pages, opens a page or one of its sections, or looks for words in the page that is open. It
    is told what it asked for, cut to a number of characters, and goes on until it answers.

    ## Action Space

    ``UnicodeText``: all text of one turn, ``<think>…</think>`` and one of
    ``<search>words</search>``, ``<open>page</open>``, ``<open>page#section</open>``,
    ``<find>words</find>`` and ``<answer>…</answer>``. With ``max_calls`` above 1 several calls may
    follow one another. Any text is accepted; one that holds none of these is malformed.

    ## Observation Space

    ``UnicodeText``: only the new text. At reset the instruction and the question; after calls what
    they gave, between ``<information>`` and ``</information>``; a page or section that is not
    there is said in words. After a malformed action a sentence that says what is wrong with it;
    after an answer, and after a call in the last turn, nothing.

    ## Starting State

    As in :class:`calibadv_env.env.DeepSearchEnv`.

    ## Rewards

    0 until the end; then what ``reward`` gives for the answer, or 0 if ``format_gate`` is set and
    the response is not well-formed. "typed" grades by the kind of the answer.

    ## Episode End

    Terminated by an answer, and by a malformed action if ``invalid_action="end"``. Truncated when
    the last turn brings no answer. Calls beyond a budget are not carried out, which the observation
    says; the episode goes on.

    ## Information

    See ``PagesResetInfo`` and ``PagesStepInfo`` in ``calibadv_env.info``.

    ## Arguments

    Args:
        dataset: Name of a dataset, or a ``Dataset``; every corpus is one of pages.
        split: Name of its split, or "eval".
        retriever: Searches the sections; as for :class:`calibadv_env.env.DeepSearchEnv`, or an
            object that also opens and finds (:class:`calibadv_env.retrieval.pages.Pages`).
        top_k: Sections that a search lists.
        max_turns: Turns with calls in an episode, at most.
        max_calls: Calls a turn, at most.
        call_budget: Calls an episode, at most.
        char_budget: Characters of results an episode, at most.
        reward: "typed", a metric ("f1", "em", "cover_em"), or a grader.
        format_gate: Whether an ill-formed response earns nothing.
        invalid_action: "end" or "continue".
        prompt: "pages", "question", or a template that holds ``{question}``.
        prepend_think: Whether observations end with ``<think>``; actions then come without it.
        max_observation_chars: Most characters of results in an observation.
        cover_em: What the reward "cover_em" pays.
        normalizer: Normal form in which answers are graded and looked for.
        render_mode: "ansi" for a transcript, or None.

    Raises:
        ValueError: if an argument is out of its range or names nothing that exists.

    ## Version History

    * v0: first version.
    """

    world_class: ClassVar[type[World]] = PagesWorld

    def __init__(
        self,
        *,
        dataset: str | Dataset = "pages",
        split: str = "train",
        retriever: str | Retriever = "bm25",
        top_k: int = 5,
        max_turns: int = 12,
        max_calls: int = 1,
        call_budget: int = 50,
        char_budget: int = 50_000,
        reward: str | Grader = "typed",
        format_gate: bool = True,
        invalid_action: InvalidAction = "end",
        prompt: str = "pages",
        prepend_think: bool = False,
        max_observation_chars: int = 1000,
        cover_em: CoverEm = "words",
        normalizer: Normalizer = "unicode",
        render_mode: RenderMode | None = None,
    ) -> None:
        config = PagesConfig(
            max_turns=max_turns,
            top_k=top_k,
            max_calls=max_calls,
            call_budget=call_budget,
            char_budget=char_budget,
            reward=reward,
            format_gate=format_gate,
            invalid_action=invalid_action,
            prompt=prompt,
            prepend_think=prepend_think,
            max_observation_chars=max_observation_chars,
            cover_em=cover_em,
            normalizer=normalizer,
        )
        self._start((dataset, split, retriever, config), render_mode)
