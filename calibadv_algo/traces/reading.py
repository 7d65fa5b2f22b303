"""Turns of a log read as actions, and what was understood of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from calibadv_algo.traces.base import LoggedEpisode, LoggedTurn, Rules
from calibadv_algo.traces.calls import ReadCall, classify
from calibadv_env.info import THINK_OPEN
from calibadv_env.protocol.actions import Answer, Search, is_turn_well_formed, parse_action
from calibadv_env.protocol.json_results import FoundPassage
from calibadv_env.protocol.search_results import WHOLE, split_results
from calibadv_env.protocol.toolcalls import PlainText, thought_of, without_tags

TurnKind = Literal["search", "visit", "answer", "malformed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTurn:
    """A turn and what was made of it.

    Attributes:
        kind: What it does; a turn that searches and opens documents is a search.
        think: The thought.
        query: What was searched for, None if it does not search.
        answer: The answer, None if it gives none.
        is_sound: True if it is a thought and an action and nothing else.
        passages: What a search found.
        forms: How the results of its searches were split, one a result.
        calls: Its calls and what they do.
    """

    kind: TurnKind
    think: str
    query: str | None = None
    answer: str | None = None
    is_sound: bool
    passages: tuple[FoundPassage, ...] = ()
    forms: tuple[str, ...] = ()
    calls: tuple[ReadCall, ...] = ()


def read_turns(episode: LoggedEpisode, rules: Rules) -> list[ReadTurn]:
    """Every turn of a rollout as an action, with the passages that came back.

    Plain text may be an answer at the end alone.
    """
    turns = []
    last = len(episode.turns) - 1
    for number, turn in enumerate(episode.turns):
        plain = episode.plain_text if number == last else "malformed"
        read = _of_calls(turn, rules) if turn.calls else _of_text(turn, episode, rules, plain)
        turns.append(_with_results(read, turn, rules))
    turns[-1] = _predicted(turns[-1], episode)
    return turns


def _of_text(turn: LoggedTurn, episode: LoggedEpisode, rules: Rules, plain: PlainText) -> ReadTurn:
    """A turn in tags, or of plain text."""
    if episode.grammar == "markers":
        text = turn.action
    else:
        text = replace(rules.grammar, plain_text=plain).to_tags(_opened(turn.action))
    action = parse_action(text, episode.grammar)
    return ReadTurn(
        kind=action.kind,
        think=action.think,
        query=action.query if isinstance(action, Search) else None,
        answer=action.answer if isinstance(action, Answer) else None,
        is_sound=is_turn_well_formed(text, action.kind, episode.grammar),
    )


def _opened(action: str) -> str:
    """A turn with the opening think tag put back where the prompt had given it."""
    head, closing, _ = action.partition("</think>")
    return THINK_OPEN + action if closing and THINK_OPEN not in head else action


def _of_calls(turn: LoggedTurn, rules: Rules) -> ReadTurn:
    """A turn that calls tools: a search if one of them searches, several joined to one."""
    calls = tuple(classify(call, rules) for call in turn.calls)
    kinds = {each.kind for each in calls}
    kind: TurnKind = next(
        (each for each in ("search", "answer", "visit") if each in kinds), "malformed"
    )
    values = [without_tags(each.value).strip() for each in calls if each.kind == kind]
    is_alone = kinds <= {"search", "visit"} or (kinds == {"answer"} and len(calls) == 1)
    return ReadTurn(
        kind=kind,
        think=thought_of(turn.thought),
        query="; ".join(values) if kind == "search" else None,
        answer=values[0] if kind == "answer" else None,
        is_sound=is_alone and not without_tags(turn.tail).strip(),
        calls=calls,
    )


def _with_results(read: ReadTurn, turn: LoggedTurn, rules: Rules) -> ReadTurn:
    """A search with its passages."""
    if read.kind != "search" or not turn.observation.strip():
        return read
    searches = [each.call for each in read.calls if each.kind == "search"]
    texts = [call.result for call in searches if call.result is not None]
    if len(texts) < len(searches) or not searches:
        texts = [turn.observation]
    split = [split_results(text) for text in texts]
    forms = [
        "one passage" if each.form == WHOLE and rules.whole_results else each.form for each in split
    ]
    return replace(
        read,
        passages=tuple(passage for each in split for passage in each.passages),
        forms=tuple(forms),
    )


def _predicted(last: ReadTurn, episode: LoggedEpisode) -> ReadTurn:
    """The last turn as the answer, where it is none but holds what the log gives as the answer."""
    prediction = episode.prediction.strip()
    if last.kind != "malformed" or last.calls or not prediction:
        return last
    if prediction not in episode.turns[-1].text:
        return last
    return replace(last, kind="answer", answer=prediction, is_sound=False)


# ---- What was understood -------------------------------------------------------------------------


def account_of(episode: LoggedEpisode, turns: Sequence[ReadTurn]) -> dict[str, Any]:
    """What was understood of a rollout, as plain values that a record keeps.

    Returns:
        ``searches``, ``visits``, ``answers``: numbers of calls (or of turns in tags) by the name
        of the tool; ``not_understood``: calls that are none of these, likewise; ``results``:
        results of searches by the form in which they were split; ``answers_were_text``;
        ``taken_from``: the fields of score and answers.
    """
    calls: dict[str, Counter[str]] = {
        kind: Counter() for kind in ("search", "visit", "answer", "unknown")
    }
    for turn in turns:
        for each in turn.calls:
            calls[each.kind][each.label] += 1
        if not turn.calls and turn.kind in ("search", "answer"):
            calls[turn.kind]["(tags)" if turn.kind == "search" else "(text)"] += 1
    shown = Counter(each.call.name for turn in turns for each in turn.calls)
    for name, number in episode.counted_calls.items():
        if number > shown[name]:
            calls["unknown"][f"{name} (counted in the log, not shown)"] += number - shown[name]
    return {
        "searches": dict(calls["search"]),
        "visits": dict(calls["visit"]),
        "answers": dict(calls["answer"]),
        "not_understood": dict(calls["unknown"]),
        "results": dict(Counter(form for turn in turns for form in turn.forms)),
        "answers_were_text": episode.answers_were_text,
        "taken_from": dict(episode.taken_from),
    }
