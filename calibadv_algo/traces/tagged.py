"""Responses that hold all turns of a rollout in one text, cut into turns."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from calibadv_algo.traces.base import Call, LoggedTurn
from calibadv_algo.traces.calls import calls_in_text
from calibadv_env.info import Grammar

_STOP: Final = re.compile(
    r"</search>|</answer>|</tool_call>(?:\s*<tool_call>.*?</tool_call>)*"
    r"|<\|end_of_query\|>|<\|end_search_query\|>|<\|end_click_link\|>|</use_mcp_tool>"
    r"|</call_tool>|</access>"
    r"|^[ \t]*Action(?: \d+)?:[ \t]*[^\n]*"
    r"(?:[\])][ \t]*$|\n[ \t]*Action Input(?: \d+)?:.*?(?=\n[ \t]*(?:Observation|Thought)|\Z))",
    re.S | re.M,
)
_TAGS: Final = (
    "information|tool_response|result|tool_output|tool_result|observation|documents|search_results?"
)
_BLOCK: Final = (
    rf"(?:<(?:{_TAGS})>.*?</(?:{_TAGS})>"
    r"|<\|begin_(?:of_documents|search_result|click_result)\|>.*?"
    r"<\|end_(?:of_documents|search_result|click_result)\|>)"
)
_ROLE: Final = r"(?:<\|im_end\|>|<\|eot_id\|>)?\s*(?:(?:<\|im_start\|>)?(?:{})\s*\n)?"
_OBSERVATION: Final = re.compile(
    rf"\s*{_ROLE.format('user|tool|ipython')}\s*((?:{_BLOCK}\s*)+){_ROLE.format('assistant')}", re.S
)
_REACT_OBSERVATION: Final = re.compile(
    r"\s*Observation(?: \d+)?:.*?(?=\n[ \t]*(?:Thought|Action|Final Answer)(?: \d+)?:|\Z)", re.S
)
_CORRECTION: Final = re.compile(r"\s*My previous action is invalid\..*?try again\.\n?", re.S)
_SPECIAL: Final = re.compile(r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>))+\s*$")
_RESULT: Final = re.compile(rf"<({_TAGS})>(.*?)</\1>", re.S)

_MARKED: Final = {
    "<|begin_search_query|>": "<|begin_of_query|>",
    "<|end_search_query|>": "<|end_of_query|>",
}
"""Marks of Search-o1 and WebThinker, and those of R1-Searcher that mean the same."""

_BOXED: Final = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_FINAL: Final = re.compile(
    r"^[ \t]*(?:\*\*)?Final Answer(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*(.+)", re.M | re.S | re.I
)


def split_response(response: str) -> tuple[LoggedTurn, ...]:
    """Turns of a response, which is everything after the prompt; one empty turn for an empty one.

    A turn ends with ``</search>``, ``</answer>``, ``</tool_call>`` or the like of another system,
    whichever comes first; the block of ``<information>``, ``<tool_response>``, ``<result>`` …
    behind it is the observation, with or without the role markers of a chat template round it.
    Search-R1's corrective sentence ends a malformed turn. What follows an answer belongs to it,
    since there is no observation.
    """
    turns: list[LoggedTurn] = []
    position = 0
    while response[position:].strip():
        stop = _STOP.search(response, position)
        correction = _CORRECTION.search(response, position)
        if correction and (stop is None or correction.start() < stop.start()):
            turns.append(_turn(response[position : correction.start()], correction.group()))
            position = correction.end()
            continue
        if stop is None:
            turns.append(_turn(response[position:], ""))
            break
        found = (
            _OBSERVATION.match(response, stop.end())
            or _CORRECTION.match(response, stop.end())
            or _REACT_OBSERVATION.match(response, stop.end())
        )
        rest_is_mine = found is None and stop.group() == "</answer>"
        end = len(response) if rest_is_mine else stop.end()
        turns.append(_turn(response[position:end], found.group() if found else ""))
        position = found.end() if found else end
        if _SPECIAL.fullmatch(response, position):
            break
    return tuple(turns) or (_turn(response, ""),)


def _turn(action: str, observation: str) -> LoggedTurn:
    text = _SPECIAL.sub("", action)
    found = calls_in_text(text)
    if found is None:
        return LoggedTurn(action=text, text=text, observation=observation)
    return LoggedTurn(
        action=text,
        text=text,
        observation=observation,
        calls=_with_results(found.calls, observation),
        thought=found.head,
        tail=found.tail,
    )


def _with_results(calls: tuple[Call, ...], observation: str) -> tuple[Call, ...]:
    """Calls with their results, where there is one block a call."""
    results = results_in(observation)
    if len(results) != len(calls):
        return calls
    return tuple(replace(call, result=text) for call, text in zip(calls, results, strict=True))


def results_in(observation: str) -> list[str]:
    """The blocks of an observation, one a call where systems write it so."""
    return [body for _, body in _RESULT.findall(observation)]


def grammar_of(turns: tuple[LoggedTurn, ...]) -> tuple[tuple[LoggedTurn, ...], Grammar]:
    r"""Turns in a grammar that we read, and which it is.

    The marks of Search-o1 and WebThinker become those of R1-Searcher, whose grammar has one
    thought over all turns. An answer in ``\\boxed{}`` or behind "Final Answer:" at the end is an
    answer in tags, where the last turn has no other.
    """
    is_marked = any("_of_query|>" in turn.text or "_search_query|>" in turn.text for turn in turns)
    if not is_marked:
        return (*turns[:-1], _as_chat(turns, _answered(turns[-1]))), "tags"
    renamed = [replace(turn, action=_renamed(turn.action)) for turn in turns]
    # The prompt opens the one thought in this grammar; logs that have it are read alike.
    first = renamed[0].action.lstrip()
    renamed[0] = replace(renamed[0], action=first.removeprefix("<think>"))
    last = _answered(renamed[-1])
    if last is not renamed[-1] and "</think>" not in last.action:
        head, tag, rest = last.action.partition("<answer>")
        last = replace(last, action=f"{head}</think>{tag}{rest}")
    return (*renamed[:-1], last), "markers"


def _as_chat(turns: tuple[LoggedTurn, ...], last: LoggedTurn) -> LoggedTurn:
    """The last turn of a conversation with tools: the text before its answer is a thought."""
    if last is turns[-1] or not any(turn.calls for turn in turns):
        return last
    head, tag, rest = last.action.partition("<answer>")
    thought = re.sub(r"</?(?:think|search|information)>", "", head)
    return replace(last, action=f"<think>{thought}</think>{tag}{rest}")


def _renamed(text: str) -> str:
    for theirs, ours in _MARKED.items():
        text = text.replace(theirs, ours)
    return text


def _answered(turn: LoggedTurn) -> LoggedTurn:
    """A last turn with its answer in tags, where it is written in another way."""
    if turn.calls or "</answer>" in turn.action or "</search>" in turn.action:
        return turn
    found = _FINAL.search(turn.action)
    boxed = list(_BOXED.finditer(turn.action))
    if boxed:
        answer = re.sub(r"\\text(?:bf|it)?\{([^{}]*)\}", r"\1", boxed[-1].group(1))
    elif found is not None:
        answer = found.group(1)
    else:
        return turn
    head = turn.action[: boxed[-1].start() if boxed else found.start() if found else 0]
    clean = re.sub(r"</?answer>|</?search>", "", answer).strip()
    return replace(turn, action=f"{head}<answer>{clean}</answer>")
