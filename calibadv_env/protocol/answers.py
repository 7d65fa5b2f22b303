"""Answers compared with accepted ones, and looked for in passages. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from calibadv_env.info import PassageText

_DELETE_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_CLOSED_ANSWERS: Final = frozenset({"yes", "no", "noanswer"})
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")

MAX_WORDS_ROUND_ANSWER: Final = 10
"""Most words that an answer may have beyond the accepted one where covering it is the reward: room
for a sentence, none for a list of candidates."""


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """How well an answer agrees with the accepted ones; each 0 to 1."""

    em: float
    f1: float
    cover_em: float


NO_ANSWER: Final = AnswerScores(0.0, 0.0, 0.0)
"""Scores of a missing answer."""


def normalize_answer(text: str) -> str:
    """Reduces an answer to what counts.

    Lower-cases, deletes ASCII punctuation, replaces the words a, an, the by a space, and joins
    what is left with single spaces; in this order.

    **Source:** the evaluation script of SQuAD 1.1.

    Args:
        text: Any text.

    Returns:
        The normalised text; "" if nothing is left.
    """
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of two multisets of words: ``2 * overlap / (len(first) + len(second))``.

    Args:
        first: Words.
        second: Words.

    Returns:
        0 to 1; 0 where nothing overlaps, two empty sequences included.
    """
    if set(first).isdisjoint(second):
        return 0.0
    overlap = sum((Counter(first) & Counter(second)).values())
    return 2 * overlap / (len(first) + len(second))


def exact_match(prediction: str, golden_answers: Iterable[str]) -> float:
    """1 if the prediction equals an accepted answer after normalisation, else 0.

    **Source:** SQuAD 1.1.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 or 1; 0 without accepted answers.
    """
    predicted = normalize_answer(prediction)
    return float(any(predicted == normalize_answer(golden) for golden in golden_answers))


def f1_score(prediction: str, golden_answers: Iterable[str]) -> float:
    """Highest F1 of normalised words between the prediction and an accepted answer.

    **Source:** SQuAD 1.1.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 to 1; 0 where nothing overlaps, two empty texts included. Numbers that are equal by
        rights are equal: ``2pr / (p + r)`` of other code gives 0.8 in several roundings, so that
        ties between trajectories hang on them.
    """
    words = normalize_answer(prediction).split()
    goldens = (normalize_answer(golden).split() for golden in golden_answers)
    return max((token_f1(words, golden) for golden in goldens), default=0.0)


def official_f1(prediction: str, golden_answers: Iterable[str]) -> float:
    """F1 in which yes, no and noanswer agree with nothing but themselves.

    **Source:** the evaluation scripts of HotpotQA and 2WikiMultihopQA; FlashRAG's F1.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 to 1, at most :func:`f1_score`: "no one" against "no" is 0 here and 0.67 there.
    """
    predicted = normalize_answer(prediction)
    goldens = [normalize_answer(golden) for golden in golden_answers]
    fitting = [
        golden
        for golden in goldens
        if golden == predicted or not _CLOSED_ANSWERS.intersection((golden, predicted))
    ]
    words = predicted.split()
    return max((token_f1(words, golden.split()) for golden in fitting), default=0.0)


def cover_exact_match(prediction: str, golden_answers: Iterable[str]) -> float:
    """1 if an accepted answer stands in the prediction after normalisation, else 0.

    **Source:** the sub-string match of Search-R1.

    **Differs:** an accepted answer of which normalisation leaves nothing is contained only in a
    prediction of which it leaves nothing; the plain sub-string test would find it everywhere.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 or 1; 0 without accepted answers.
    """
    predicted = normalize_answer(prediction)
    return float(any(_is_covered(normalize_answer(golden), predicted) for golden in golden_answers))


def grade_answer(answer: str | None, golden_answers: Sequence[str]) -> AnswerScores:
    """All three metrics of an answer.

    Args:
        answer: What the agent answered; None if it did not.
        golden_answers: Accepted answers.

    Returns:
        Its scores. A missing answer and one of white space alone score 0, also where the
        accepted answer is one of which normalisation leaves nothing.
    """
    if answer is None or not answer.strip():
        return NO_ANSWER
    predicted = normalize_answer(answer)
    words = predicted.split()
    goldens = [normalize_answer(golden) for golden in golden_answers]
    return AnswerScores(
        em=float(predicted in goldens),
        f1=max((token_f1(words, golden.split()) for golden in goldens), default=0.0),
        cover_em=float(any(_is_covered(golden, predicted) for golden in goldens)),
    )


def _is_covered(golden: str, predicted: str) -> bool:
    return golden in predicted if golden else not predicted


def contains_words(text: str, words: str) -> bool:
    """Tells if words stand in a text at word boundaries, both normalised; no words never do."""
    wanted = normalize_answer(words)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(text)} "


def covers_words(answer: str, golden_answers: Iterable[str]) -> bool:
    """Tells if an accepted answer stands in an answer as whole words, with few words round it.

    This is ``cover_em`` as a reward. "Puncak Jaya" does not cover ".ca"; a list of all candidates
    covers nothing. Like every test of containment it pays "not Rabat", and an answer that hedges
    between a few candidates.

    Args:
        answer: What the agent answered.
        golden_answers: Accepted answers.

    Returns:
        True if one of them stands in the answer after normalisation and the answer has at most
        ``MAX_WORDS_ROUND_ANSWER`` words more; an accepted answer without words is only equalled.
    """
    if not answer.strip():
        return False
    predicted = normalize_answer(answer)
    num_words = len(predicted.split())
    for golden in golden_answers:
        wanted = normalize_answer(golden)
        is_short = num_words <= len(wanted.split()) + MAX_WORDS_ROUND_ANSWER
        if wanted == predicted or (wanted and is_short and f" {wanted} " in f" {predicted} "):
            return True
    return False


def searchable_answers(golden_answers: Iterable[str]) -> tuple[str, ...]:
    """Accepted answers, normalised and between spaces; those of which nothing is left drop out."""
    normalized = [normalize_answer(golden) for golden in golden_answers]
    return tuple([f" {answer} " for answer in normalized if answer])


def contains_answer(passages: Iterable[PassageText], answers: Sequence[str]) -> bool:
    """Tells if an accepted answer stands in a passage, as whole words.

    Args:
        passages: Titles and texts.
        answers: Accepted answers as :func:`searchable_answers` gives them.

    Returns:
        True if one of them stands in the title or the text of one passage. "Oman" does not
        stand in "Romania".
    """
    for title, body in passages:
        text = _searchable(title, body)
        for answer in answers:
            if answer in text:
                return True
    return False


@lru_cache(maxsize=16_384)
def _searchable(title: str, text: str) -> str:
    """Normalised title and text, padded; the bar keeps an answer from spanning both."""
    return f" {normalize_answer(title)} | {normalize_answer(text)} "
