"""Typed keys of the ``info`` dictionaries: the seam between environment and algorithms.

Names and types alone: no logic, no third-party import.
"""

from __future__ import annotations

from typing import Final, Literal, NotRequired, TypedDict

STOP_STRINGS: Final[tuple[str, ...]] = ("</search>", "</answer>")
"""Strings that end a turn; whatever a policy writes after one of them is not read."""

Grammar = Literal["tags", "markers"]
"""How actions are written: between ``<search>`` and ``</search>``, or between the markers of
R1-Searcher. The prompt settles it (``calibadv_env.protocol.prompts.grammar_of``)."""

QUERY_OPEN: Final[str] = "<|begin_of_query|>"
"""Marker before a query."""

QUERY_CLOSE: Final[str] = "<|end_of_query|>"
"""Marker behind a query."""

DOCUMENTS_OPEN: Final[str] = "<|begin_of_documents|>"
"""Marker before the passages that a query found."""

DOCUMENTS_CLOSE: Final[str] = "<|end_of_documents|>"
"""Marker behind them."""

MARKER_STOP_STRINGS: Final[tuple[str, ...]] = (QUERY_CLOSE, "</answer>")
"""Strings that end a turn where actions are written between markers."""

THINK_OPEN: Final[str] = "<think>"
"""The tag that every well-formed turn begins with (see ``prepend_think``)."""

ActionKind = Literal["search", "open", "find", "answer", "malformed"]
"""Kind of an action; only environments of pages have "open" and "find"."""

CALL_KINDS: Final[tuple[ActionKind, ...]] = ("search", "open", "find")
"""Actions that ask the corpus for something; these are the turns that credit is given to."""

PAGE_STOP_STRINGS: Final[tuple[str, ...]] = ("</search>", "</open>", "</find>", "</answer>")
"""Strings that end a turn in the environments of pages, where a turn holds one call."""

StopReason = Literal["answered", "malformed", "no_answer"]
"""Why an episode ended: an answer; an invalid action under ``invalid_action="end"``; the last
turn was spent without an answer (reported as ``truncated``)."""


PassageText = tuple[str, str]
"""Title and text of a passage."""


class ResetInfo(TypedDict):
    """Facts that ``reset`` reports.

    Attributes:
        task_id: Unique id of the task within its dataset.
        task_index: Position of the task in its split, ``0 <= task_index < num_tasks``.
        num_tasks: Number of tasks in the split.
        split: The split that the task belongs to; never "eval", but the one that it stands for.
        question: The bare question, without the instruction round it.
        golden_answers: Accepted answers.
        max_turns: Number of searches that the episode allows.
        has_gold: Whether the task names gold passages.
        hops: Number of reasoning steps, 0 where the dataset does not say.
        gold_queries: For each hop the wordings of a query that would find its evidence; empty
            where the dataset names none.
        gold_entities: Names that a correct chain of reasoning comes past; empty where unknown.
        cluster: Name of what questions hang together by, such as the country that the last fact is
            about: intervals resample clusters, since questions of one share facts.
        normalizer: Name of the normal form in which answers are graded.
    """

    task_id: str
    task_index: int
    num_tasks: int
    split: str
    question: str
    golden_answers: tuple[str, ...]
    max_turns: int
    has_gold: bool
    hops: int
    gold_queries: tuple[tuple[str, ...], ...]
    gold_entities: tuple[str, ...]
    cluster: str
    normalizer: str


class StepInfo(TypedDict):
    """Facts about one turn; every key is present at every step unless marked otherwise.

    Attributes:
        task_id: As in :class:`ResetInfo`.
        task_index: As in :class:`ResetInfo`.
        turn: Number of the action just taken, from 1.
        num_searches: Searches carried out so far in the episode, this one included.
        action: Kind of the action.
        think: Text of the thought, "" if there is none.
        query: The search query; None unless the action is a search.
        answer: The answer; None unless the action is an answer.
        passage_ids: Ids of the retrieved passages in rank order; empty unless a search ran.
        passages: Their titles and texts, whole even where the observation is cut. Algorithms read
            them here: the form in which an observation prints them is the environment's affair.
        passage_scores: Their retrieval scores.
        gold_new: Gold passages hit by this turn and by no earlier one.
        gold_recall: Share of the task's hops whose gold has been hit so far, 0 to 1; NaN when
            the task names no gold passages.
        answer_in_passages: Whether an accepted answer stands in this turn's passages.
        num_passages_new: Distinct passages of this turn not seen in an earlier turn.
        num_passages_seen: Distinct passages of this turn seen in an earlier turn.
        think_similarity: Highest word-level similarity of this thought to an earlier one, 0 to 1.
        stop_reason: Why the episode ended; None while it runs.
        gold_similarity: For each text of the gold evidence the highest TF-IDF cosine, 0 to 1, of
            one of this turn's passages to it. Only with the reward "step_search".
        em: Exact match, 0 or 1. Only at the end of an episode.
        f1: Token F1, 0 to 1. Only at the end of an episode.
        cover_em: Whether an accepted answer is contained in the answer. Only at the end.
        is_format_valid: Whether the whole response is well-formed. Only at the end.
    """

    task_id: str
    task_index: int
    turn: int
    num_searches: int
    action: ActionKind
    think: str
    query: str | None
    answer: str | None
    passage_ids: tuple[str, ...]
    passages: tuple[PassageText, ...]
    passage_scores: tuple[float, ...]
    gold_new: tuple[str, ...]
    gold_recall: float
    answer_in_passages: bool
    num_passages_new: int
    num_passages_seen: int
    think_similarity: float
    stop_reason: StopReason | None
    gold_similarity: NotRequired[tuple[float, ...]]
    em: NotRequired[float]
    f1: NotRequired[float]
    cover_em: NotRequired[float]
    is_format_valid: NotRequired[bool]


class PagesResetInfo(ResetInfo):
    """Facts that ``reset`` of an environment of pages reports.

    Attributes:
        max_calls: Calls a turn, at most.
        call_budget: Calls an episode, at most.
        char_budget: Characters that an episode may read, at most.
        answer_kind: How answers are graded: "name", "number", "list" or "unanswerable"; "" where
            the task does not say.
    """

    max_calls: int
    call_budget: int
    char_budget: int
    answer_kind: str


class PagesStepInfo(StepInfo):
    """Facts about one turn in an environment of pages.

    The keys of :class:`StepInfo` keep their meaning, read for calls: ``action`` is the kind of
    the turn's first call; ``passage_ids`` are the sections that its calls showed, ``passages`` what
    was shown of them. ``gold_new`` are the gold sections that a search is the first to show, or an
    open or find the first to read; ``gold_recall`` counts what was read.

    Attributes:
        calls: Kinds of the calls of the turn, in order.
        arguments: What each asked for.
        results: What each was told, as the observation has it.
        opened_ids: Sections that were opened.
        gold_opened: Gold sections that this turn is the first to open.
        hops_read: For each hop of the task whether some gold section of it has been read so far.
        links: Pages that the text which was opened links to.
        page: The page that is open after the turn, "" for none.
        num_calls: Calls carried out so far.
        num_chars: Characters of results read so far.
        num_repeats: Calls of this turn that an earlier turn made too.
        num_missing: Calls of this turn that asked for what is not there.
        turns_left: Turns in which calls can still be carried out.
        calls_left: Calls that can still be carried out.
        chars_left: Characters that can still be read.
    """

    calls: tuple[ActionKind, ...]
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    opened_ids: tuple[str, ...]
    gold_opened: tuple[str, ...]
    hops_read: tuple[bool, ...]
    links: tuple[str, ...]
    page: str
    num_calls: int
    num_chars: int
    num_repeats: int
    num_missing: int
    turns_left: int
    calls_left: int
    chars_left: int
