"""Responses that hold all turns of a rollout in one text, cut into turns."""

from __future__ import annotations

import re
from typing import Final

from calibadv_algo.traces.base import LoggedTurn

_STOP: Final = re.compile(
    r"</search>|</answer>|</tool_call>(?:\s*<tool_call>.*?</tool_call>)*", re.S
)
_ROLE: Final = r"(?:<\|im_end\|>|<\|eot_id\|>)?\s*(?:(?:<\|im_start\|>)?(?:{})\s*\n)?"
_BLOCK: Final = r"(?:<information>.*?</information>|<tool_response>.*?</tool_response>)"
_OBSERVATION: Final = re.compile(
    rf"\s*{_ROLE.format('user|tool|ipython')}\s*((?:{_BLOCK}\s*)+){_ROLE.format('assistant')}", re.S
)
_CORRECTION: Final = re.compile(r"\s*My previous action is invalid\..*?try again\.\n?", re.S)
_SPECIAL: Final = re.compile(r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>))+\s*$")


def split_response(response: str) -> tuple[LoggedTurn, ...]:
    """Turns of a response, which is everything after the prompt; one empty turn for an empty one.

    A turn ends with ``</search>``, ``</answer>`` or ``</tool_call>``, whichever comes first; the
    block of ``<information>`` or ``<tool_response>`` behind it is the observation, with or
    without the role markers of a chat template round it. Search-R1's corrective sentence ends a
    malformed turn. What follows an answer belongs to it, since there is no observation.
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
        found = _OBSERVATION.match(response, stop.end()) or _CORRECTION.match(response, stop.end())
        rest_is_mine = found is None and stop.group() == "</answer>"
        end = len(response) if rest_is_mine else stop.end()
        turns.append(_turn(response[position:end], found.group() if found else ""))
        position = found.end() if found else end
        if _SPECIAL.fullmatch(response, position):
            break
    return tuple(turns) or (_turn(response, ""),)


def _turn(action: str, observation: str) -> LoggedTurn:
    text = _SPECIAL.sub("", action)
    return LoggedTurn(action=text, text=text, observation=observation)
