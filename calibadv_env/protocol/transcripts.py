"""Whole responses as one string, read as the reference codes read them. Pure.

For transcripts from elsewhere. The environments judge turn by turn
(:func:`calibadv_env.protocol.actions.is_turn_well_formed`), so that text in a retrieved passage
can neither break a response nor complete one.
"""

from __future__ import annotations

from typing import Final

from calibadv_env.protocol.actions import END_OF_TEXT, TAG
from calibadv_env.protocol.prompts import INVALID_ACTION_TEXT

_NEXT_STATE: Final = {
    ("start", "<think>"): "in_think",
    ("in_think", "</think>"): "after_think",
    ("after_think", "<search>"): "in_search",
    ("in_search", "</search>"): "after_search",
    ("after_search", "<information>"): "in_information",
    ("in_information", "</information>"): "after_information",
    ("after_information", "<think>"): "in_think",
    ("after_think", "<answer>"): "in_answer",
    ("in_answer", "</answer>"): "end",
}


def is_format_valid(response: str) -> bool:
    """Tells if a whole response is well-formed, judged on its text alone.

    One or more rounds of think, search, information, then think and answer; no tag inside a
    block, only white space between blocks, at least one search, no corrective sentence.
    ``<|endoftext|>`` is ignored.

    **Source:** the format state machine of CalibAdv (``qa_em_format``).

    **Differs:** nothing in the verdict. A tag inside a passage breaks the format here as it does
    there; the environments judge single turns and are not misled.

    Args:
        response: Actions and observations joined, without the prompt.

    Returns:
        The verdict.
    """
    response = response.replace(END_OF_TEXT, "")
    if INVALID_ACTION_TEXT.strip() in response:
        return False
    state, position, has_search = "start", 0, False
    for tag in TAG.finditer(response):
        is_inside = state.startswith("in_")
        if not is_inside and response[position : tag.start()].strip():
            return False
        following = _NEXT_STATE.get((state, tag.group()))
        if following is None:
            return False
        has_search = has_search or following == "in_search"
        state, position = following, tag.end()
    return state == "end" and has_search and not response[position:].strip()


def extract_answer(response: str) -> str | None:
    """The last answer block of a response.

    **Source:** ``extract_solution`` of Search-R1 and CalibAdv.

    **Differs:** reads the response only. The references also search the prompt, whose example
    answer they then have to count away, and Search-R1 grades it when there is no other.

    Args:
        response: Actions and observations joined, without the prompt.

    Returns:
        The stripped content between the last ``</answer>`` that closes a block and the opening
        tag of that block; None if there is none. Blocks are taken from left to right and do not
        overlap.
    """
    found: str | None = None
    position = 0
    while True:
        start = response.find("<answer>", position)
        end = response.find("</answer>", start + 8) if start >= 0 else -1
        if end < 0:
            return found
        found = response[start + 8 : end].strip()
        position = end + 9
