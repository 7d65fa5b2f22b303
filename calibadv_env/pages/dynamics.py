"""One step of an episode on pages: the whole decision process, pure and frozen.

As in :mod:`calibadv_env.dynamics`, whose states and facts these extend, :func:`plan` reads an
action and says what the corpus has to be asked, the caller asks it, and :func:`transition` makes
the next state, the observation, the reward and the facts of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from annotated_types import Interval

from calibadv_env import dynamics
from calibadv_env.common.checks import POSITIVE
from calibadv_env.dynamics import (
    EpisodeConfig,
    EpisodeState,
    Move,
    TaskFacts,
    Transition,
    open_think,
    settle,
    stop_reason_of,
    transition_of,
)
from calibadv_env.graders.base import Grader
from calibadv_env.info import (
    THINK_OPEN,
    PagesResetInfo,
    PagesStepInfo,
    StepInfo,
    StopReason,
)
from calibadv_env.protocol import pages, prompts
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.page_actions import (
    Call,
    Calls,
    is_page_turn_well_formed,
    parse_page_action,
)
from calibadv_env.protocol.pages import Found, Opened, Shown
from calibadv_env.protocol.passages import ScoredPassage, information_block
from calibadv_env.protocol.words import split_words

MIN_OBSERVATION_CHARS: Final = 100
"""Least room of an observation: below it a place to go on would not fit beside its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesConfig(EpisodeConfig):
    """The rules of an episode on pages; those of :class:`EpisodeConfig` hold too.

    Attributes:
        max_turns: Turns in which calls are carried out; one last turn for the answer follows.
        top_k: Sections that a search lists.
        reward: A metric or a grader; "typed" grades numbers, lists and names, each in its way.
        normalizer: Normal form of answers; "unicode" keeps the points of numbers.
        prompt: Name of the instruction, or a template; the actions are those of pages with any.
        max_observation_chars: Most characters of results in an observation.
        max_calls: Calls a turn, at most.
        call_budget: Calls an episode, at most.
        char_budget: Characters of results in an episode, at most.
    """

    max_turns: Annotated[int, Interval(ge=1)] = 12
    top_k: Annotated[int, Interval(ge=1)] = 5
    reward: str | Grader = "typed"
    prompt: str = "pages"
    normalizer: Normalizer = "unicode"
    max_observation_chars: Annotated[int, Interval(ge=MIN_OBSERVATION_CHARS)] = 1000
    max_calls: Annotated[int, Interval(ge=1)] = 1
    call_budget: Annotated[int, POSITIVE] = 50
    char_budget: Annotated[int, POSITIVE] = 50_000

    def __post_init__(self) -> None:
        """Checks every field, and that the prompt teaches no other actions."""
        if self.max_observation_chars is None:
            raise ValueError("max_observation_chars must be a number on pages, got None")
        EpisodeConfig.__post_init__(self)
        if prompts.grammar_of(self.prompt) == "markers":
            raise ValueError(f"prompt must leave markers to passages, got {self.prompt!r:.80}")


@dataclass(frozen=True, slots=True)
class PagesState(EpisodeState):
    """Everything that the future of an episode on pages depends on.

    Attributes:
        page: The page that is open, "" for none.
        num_calls: Calls carried out so far.
        num_chars: Characters of results so far.
        opened: Sections opened so far.
        asked: Calls made so far.
    """

    page: str = ""
    num_calls: int = 0
    num_chars: int = 0
    opened: frozenset[str] = frozenset()
    asked: frozenset[tuple[str, str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Request:
    """A call with what it needs to be carried out.

    Attributes:
        call: The call.
        page: The page that a find looks into; "" if none is open, and for other calls.
        is_due: Whether the corpus is to be asked.
    """

    call: Call
    page: str = ""
    is_due: bool = True


@dataclass(frozen=True, slots=True)
class PagesMove(Move):
    """A turn that has been read but not yet carried out.

    Attributes:
        requests: Its calls; empty if there is none, and in the last turn.
    """

    requests: tuple[Request, ...] = ()


Reply: TypeAlias = Sequence[ScoredPassage] | Opened | Found | None
"""What the corpus gives for a request; None for one that is not due."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What the policy is told of one call.

    Attributes:
        text: As it stands in the observation.
        shown: Sections with what is shown of them.
        scores: Their scores, 0 but for searches.
        is_missing: Whether the call asked for what is not there.
    """

    text: str
    shown: tuple[Shown, ...] = ()
    scores: tuple[float, ...] = ()
    is_missing: bool = False


def begin(config: PagesConfig, task: TaskFacts) -> tuple[PagesState, str, PagesResetInfo]:
    """Starts an episode: its state, the first observation and what ``reset`` reports."""
    state, observation, info = dynamics.begin(config, task)
    calls = "one call" if config.max_calls == 1 else f"up to {config.max_calls} calls"
    reset = PagesResetInfo(
        **info,
        max_calls=config.max_calls,
        call_budget=config.call_budget,
        char_budget=config.char_budget,
        answer_kind=task.answer_kind,
    )
    if config.prompt == "pages":
        observation = observation.replace("{calls}", calls, 1)
    return PagesState(state.task), observation, reset


def plan(config: PagesConfig, state: PagesState, text: str) -> PagesMove:
    """Reads an action. Calls in the last turn, which is for the answer, are not carried out."""
    whole = THINK_OPEN + text if config.prepend_think else text
    action = parse_page_action(whole, config.max_calls)
    requests: list[Request] = []
    if isinstance(action, Calls) and state.turn < config.max_turns:
        left = config.call_budget - state.num_calls if state.num_chars < config.char_budget else 0
        page = state.page
        for call in action.calls:
            is_find = call.kind == "find"
            is_due = len(requests) < left and (not is_find or bool(page))
            requests.append(Request(call, page if is_find else "", is_due))
            if call.kind == "open" and is_due:
                page = pages.parse_place(call.argument).page
    is_well_formed = is_page_turn_well_formed(whole, action)
    return PagesMove(whole, action, None, is_well_formed, tuple(requests))


def transition(
    config: PagesConfig, state: PagesState, move: PagesMove, replies: Sequence[Reply]
) -> Transition:
    """Carries a move out.

    Args:
        config: The rules.
        state: A state of a running episode.
        move: What :func:`plan` made of the action.
        replies: What the corpus gave for each of its requests.

    Returns:
        The next state, the observation and the facts. The arguments are left as they were.
    """
    stop_reason = stop_reason_of(config, state, move.action)
    room = min(config.max_observation_chars, max(1, config.char_budget - state.num_chars))
    share = room // max(1, len(move.requests))
    results = [_result(*each, share) for each in zip(move.requests, replies, strict=True)]
    after, facts = _advance(config, state, move, results, stop_reason)
    reward = 0.0
    if stop_reason is not None:
        reward = settle(config, after, move.action, facts, has_asked=after.num_calls > 0)
    observation = _observe(config, move, results, stop_reason)
    return transition_of(after, observation, reward, facts)


def _result(request: Request, reply: Reply, max_chars: int) -> _Result:
    """What the policy is told of a call, cut to a number of characters."""
    if reply is None:
        is_lost = request.call.kind == "find" and not request.page
        return _Result(pages.NO_PAGE_OPEN if is_lost else pages.NOT_CARRIED_OUT, is_missing=is_lost)
    if isinstance(reply, Opened):
        opened, text = pages.opened_within(reply, max_chars)
        none = (0.0,) * len(opened.sections)
        return _Result(text, opened.sections, none, reply.problem != "")
    if isinstance(reply, Found):
        found, text = pages.found_within(reply, max_chars)
        none = (0.0,) * len(found.sentences)
        return _Result(text, found.sentences, none, bool(reply.problem))
    hits, text = pages.hits_within(reply, request.call.argument, max_chars)
    scores = tuple([float(hit.score) for hit in reply[: len(hits)]])
    return _Result(text, tuple(hits), scores, not hits)


def _observe(
    config: PagesConfig,
    move: PagesMove,
    results: Sequence[_Result],
    stop_reason: StopReason | None,
) -> str:
    """The text that follows: results, the corrective sentence, or nothing."""
    if results:
        body = "\n".join([result.text for result in results])
        if isinstance(move.action, Calls) and move.action.num_over:
            body += f"\nNot carried out: more than {config.max_calls} calls in a turn."
        block = information_block(body, compact=prompts.is_compact(config.prompt))
        return open_think(config, block)
    if stop_reason == "malformed":
        return prompts.INVALID_PAGE_TEXT
    return open_think(config, prompts.INVALID_PAGE_TEXT) if stop_reason is None else ""


def _advance(
    config: PagesConfig,
    state: PagesState,
    move: PagesMove,
    results: Sequence[_Result],
    stop_reason: StopReason | None,
) -> tuple[PagesState, PagesStepInfo]:
    """The state after a move, and the facts that hold at every step."""
    task, gold = state.task, state.task.hops_of
    shown: list[Shown] = []
    opened: list[Shown] = []
    read: list[str] = []
    gold_new: list[str] = []
    scores: tuple[float, ...] = ()
    num_searches, num_calls, num_chars = state.num_searches, state.num_calls, state.num_chars
    for request, result in zip(move.requests, results, strict=True):
        kind = request.call.kind
        shown += result.shown
        scores += result.scores
        num_chars += len(result.text)
        if request.is_due:
            num_calls += 1
            num_searches += kind == "search"
        if kind == "open":
            opened += result.shown
        of_gold = [each.id for each in result.shown if each.id in gold]
        known = state.seen if kind == "search" else state.found
        gold_new += [each for each in of_gold if each not in known]
        if kind != "search":
            read += of_gold
    ids = tuple([each.id for each in shown])
    texts = tuple([(each.title, each.text) for each in shown])
    after = PagesState(
        task,
        state.turn + 1,
        num_searches,
        (*state.thinks, split_words(move.action.think)),
        state.seen.union(ids) if ids else state.seen,
        state.found.union(read) if read else state.found,
        state.is_format_valid and move.is_well_formed,
        dynamics.shown_so_far(config, state, ids, texts),
        stop_reason,
        pages.page_of(opened[-1].id) if opened else state.page,
        num_calls,
        num_chars,
        state.opened.union([each.id for each in opened]) if opened else state.opened,
        state.asked.union(map(_asked, move.requests)) if results else state.asked,
    )
    facts = dynamics.facts_of(state, after, move, dynamics.Shown(ids, texts, scores))
    facts["gold_new"] = tuple(dict.fromkeys(gold_new)) if gold_new else ()
    return after, _facts(config, state, after, move, results, opened, facts)


def _facts(
    config: PagesConfig,
    state: PagesState,
    after: PagesState,
    move: PagesMove,
    results: Sequence[_Result],
    opened: Sequence[Shown],
    facts: StepInfo,
) -> PagesStepInfo:
    """The facts of environments of passages, and those of pages."""
    calls = move.action.calls if isinstance(move.action, Calls) else ()
    gold = state.task.hops_of
    opened_ids = tuple(dict.fromkeys([each.id for each in opened])) if opened else ()
    hops_read = {hop for each in after.found for hop in gold[each]} if after.found else ()
    facts["query"] = next((call.argument for call in calls if call.kind == "search"), None)
    links = [target for each in opened for _, target in each.links]
    return PagesStepInfo(
        **facts,
        calls=tuple([call.kind for call in calls]),
        arguments=tuple([call.argument for call in calls]),
        results=tuple([result.text for result in results]),
        opened_ids=opened_ids,
        gold_opened=tuple([i for i in opened_ids if i in gold and i not in state.opened]),
        hops_read=tuple([hop in hops_read for hop in range(state.task.num_gold_hops)]),
        links=tuple(dict.fromkeys(links)) if links else (),
        page=after.page,
        num_calls=after.num_calls,
        num_chars=after.num_chars,
        num_repeats=sum([_asked(request) in state.asked for request in move.requests]),
        num_missing=sum([result.is_missing for result in results]),
        turns_left=max(0, config.max_turns - after.turn),
        calls_left=max(0, config.call_budget - after.num_calls),
        chars_left=max(0, config.char_budget - after.num_chars),
    )


def _asked(request: Request) -> tuple[str, str, str]:
    """A call in the form in which repeats are told."""
    return request.call.kind, request.call.argument, request.page
