"""What shapings read out of texts: answers, format, retrieval markup. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from calibadv_algo.types import Trajectory

THINK_OPEN: Final = "<think>"
QUERY_OPEN: Final = "<|begin_of_query|>"
QUERY_CLOSE: Final = "<|end_of_query|>"
DOCUMENT_MARKERS: Final = ("<|begin_of_documents|>", "<|end_of_documents|>")

_TAG: Final = re.compile(r"</?(?:think|search|information|answer)>")
_SEARCH_TAGS: Final = ["<think>", "</think>", "<search>", "</search>"]
_ANSWER_TAGS: Final = ["<think>", "</think>", "<answer>", "</answer>"]
_DELETE_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_CJK: Final = re.compile("[\u4e00-\u9fff]")


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (the script of SQuAD 1.1)."""
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of two multisets of words, 0 where nothing overlaps, two empty ones included."""
    overlap = sum((Counter(first) & Counter(second)).values())
    return 2 * overlap / (len(first) + len(second)) if overlap else 0.0


def best_f1(text: str, others: Sequence[str]) -> float:
    """Highest F1 of normalised words between a text and one of several, 0 without any."""
    words = normalize_answer(text).split()
    return max((token_f1(words, normalize_answer(other).split()) for other in others), default=0.0)


def whole_actions(trajectory: Trajectory) -> list[str]:
    """The text of every turn, with an opening think tag that was given to the policy put back."""
    if not trajectory.prompt_text.endswith(THINK_OPEN) or is_marked(trajectory):
        return [turn.action_text for turn in trajectory.turns]
    return [THINK_OPEN + turn.action_text for turn in trajectory.turns]


def is_marked(trajectory: Trajectory) -> bool:
    """Whether the prompt teaches the markers of R1-Searcher in place of search tags."""
    return QUERY_OPEN in trajectory.prompt_text


def is_well_formed_turn(text: str) -> bool:
    """Whether a turn is a thought and a search, or a thought and an answer, and nothing else.

    Args:
        text: The whole turn, its opening think tag included.

    Returns:
        The verdict on the tags and on what stands between the two blocks.
    """
    tags = list(_TAG.finditer(text))
    if [tag.group() for tag in tags] not in (_SEARCH_TAGS, _ANSWER_TAGS):
        return False
    gaps = (text[: tags[0].start()], text[tags[1].end() : tags[2].start()], text[tags[3].end() :])
    return not any(gap.strip() for gap in gaps)


def well_formed_turns(trajectory: Trajectory) -> list[bool]:
    """The verdict of :func:`is_well_formed_turn` on every turn."""
    return [is_well_formed_turn(text) for text in whole_actions(trajectory)]


def is_well_formed_response(trajectory: Trajectory) -> bool:
    """Whether every turn is well-formed, all but the last are searches and the last answers.

    **Source:** the state machine of Search-R1's ``main_ppo_format`` (v0.3): rounds of think,
    search, information, then think and answer. A response without any search can be valid.

    **Differs:** judged turn by turn on what the policy wrote, so that a tag in a retrieved
    passage cannot break a response.
    """
    if not all(well_formed_turns(trajectory)):
        return False
    is_answer = [text.rstrip().endswith("</answer>") for text in whole_actions(trajectory)]
    return is_answer[-1] and not any(is_answer[:-1])


def has_cjk(text: str) -> bool:
    """Whether a text has a Chinese character."""
    return _CJK.search(text) is not None
