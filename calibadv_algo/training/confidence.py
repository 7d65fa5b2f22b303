"""Confidence in an answer: the probability that a policy gave it, and what its text says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from calibadv_algo.types import Trajectory

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import Tokenizer

AnswerScorer = Callable[[Trajectory], float | None]
"""Probability that a policy gave the answer of an episode, None if nobody knows."""

_ANSWER_CLOSE: Final = "</answer>"
_STATED: Final = re.compile(
    r"(?:<confidence>|\bconfidence\b(?:\s+level)?[*_\s]*(?::|=|\bis\b)[*_]*)\s*"
    r"(\d{1,3}(?:\.\d{1,9})?)(?![\d.,]*\d)(?!\s*(?:/|of\b|out\b|-\s*\d))\s*(%?)",
    re.IGNORECASE,
)


def answer_scorer(tokenizer: Tokenizer) -> AnswerScorer:
    """A scorer of episodes that an engine with log-probabilities sampled.

    Args:
        tokenizer: The policy's.
    """
    return lambda trajectory: answer_probability(trajectory, tokenizer)


def answer_probability(trajectory: Trajectory, tokenizer: Tokenizer) -> float | None:
    """Probability of the whole answer, given everything that stands before it.

    ``prod_j pi(y_j | y_<j, context)`` over the tokens of the last turn that hold a character of
    the answer: not its mean by token, and not the tags. A token that holds a piece of a tag as
    well counts. Where turns are sampled, it is the probability at the sampling temperature;
    greedy turns have that of the untempered policy.

    Args:
        trajectory: An episode with the sampled log-probabilities.
        tokenizer: The policy's.

    Returns:
        A number between 0 and 1; None without an answer, or where it is not found in the text.
    """
    answer = trajectory.final_info.get("answer")
    if not isinstance(answer, str) or not answer:
        return None
    turn = trajectory.turns[-1]
    ids = list(turn.action_ids)

    def text(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=False))

    whole = text(len(ids))
    closed = whole.rfind(_ANSWER_CLOSE)
    start = whole.rfind(answer, 0, closed if closed >= 0 else len(whole))
    if start < 0:
        return None
    first = _smallest(len(ids), lambda count: len(text(count)) > start) - 1
    last = _smallest(len(ids), lambda count: text(count).startswith(whole[: start + len(answer)]))
    return math.exp(min(0.0, sum(turn.logprobs[first:last])))


def stated_confidence(trajectory: Trajectory) -> float | None:
    """Confidence that the turn of the answer states: ``<confidence>`` or ``Confidence: 85 %``.

    A number of at most 1 without a per cent sign is a probability, any other one of at most 100 a
    percentage; the last statement behind the thought counts. Scales (``8/10``) and numbers with a
    decimal comma are not understood and count as no statement.

    Returns:
        A number between 0 and 1; None without an answer or without a statement.
    """
    if trajectory.final_info.get("answer") is None:
        return None
    said = trajectory.turns[-1].action_text.rpartition("</think>")[2]
    found = [*_STATED.finditer(said)]
    if not found:
        return None
    value = float(found[-1][1])
    if found[-1][2] or value > 1:
        value /= 100
    return value if value <= 1 else None


def _smallest(most: int, holds: Callable[[int], bool]) -> int:
    """Smallest number up to ``most`` at which a condition holds that does not cease to hold."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
