"""Answers compared with accepted ones, and looked for in passages. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from calibadv_env.info import PassageText
from calibadv_env.protocol.normalizing import (
    Form,
    NormalForm,
    Normalizer,
    answer_form,
    form_for,
    normal,
    normalize_answer,
    unicode_form,
)

__all__ = [
    "MAX_WORDS_ROUND_ANSWER",
    "NO_ANSWER",
    "AnswerScores",
    "SearchableAnswers",
    "character_f1",
    "contains_answer",
    "contains_words",
    "cover_exact_match",
    "covers_words",
    "exact_match",
    "f1_score",
    "grade_answer",
    "normalize_answer",
    "official_f1",
    "searchable_answers",
    "token_f1",
]

SearchableAnswers: TypeAlias = tuple[tuple[NormalForm, tuple[str, ...]], ...]
"""Accepted answers between blanks, by the normal form in which texts are searched for them."""

_CLOSED_ANSWERS: Final = frozenset({"yes", "no", "noanswer"})

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


def exact_match(
    prediction: str, golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> float:
    """1 if the prediction equals an accepted answer after normalisation, else 0.

    **Source:** SQuAD 1.1.

    **Differs:** of answers of which normalisation leaves nothing ("A", "The The") the letters
    decide; by the source all of them equal each other.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form.

    Returns:
        0 or 1; 0 without accepted answers.
    """
    return float(any(a == b for a, b, _ in _pairs(prediction, golden_answers, normalizer)))


def f1_score(
    prediction: str, golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> float:
    """Highest F1 of normalised words between the prediction and an accepted answer.

    **Source:** SQuAD 1.1.

    **Differs:** an answer of which normalisation leaves nothing is right or wrong as a whole.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form; ``unicode`` counts characters in scripts without
            spaces.

    Returns:
        0 to 1; 0 where nothing overlaps. Numbers that are equal by rights are equal:
        ``2pr / (p + r)`` of other code gives 0.8 in several roundings, so that ties between
        trajectories hang on them.
    """
    pairs = _pairs(prediction, golden_answers, normalizer)
    return max((_form_f1(answer, golden) for answer, golden, _ in pairs), default=0.0)


def official_f1(
    prediction: str, golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> float:
    """F1 in which yes, no and noanswer agree with nothing but themselves.

    **Source:** the evaluation scripts of HotpotQA and 2WikiMultihopQA; FlashRAG's F1.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form.

    Returns:
        0 to 1, at most :func:`f1_score`: "no one" against "no" is 0 here and 0.67 there.
    """
    fitting = (
        (answer, golden)
        for answer, golden, _ in _pairs(prediction, golden_answers, normalizer)
        if golden == answer or not _CLOSED_ANSWERS.intersection((golden.text, answer.text))
    )
    return max((_form_f1(answer, golden) for answer, golden in fitting), default=0.0)


def character_f1(prediction: str, golden_answers: Iterable[str]) -> float:
    """Highest F1 of characters between the prediction and an accepted answer.

    **Source:** DRCD (arXiv 1806.00920) and KorQuAD 1.0 (arXiv 1909.07005), which report F1 of
    characters.

    **Differs:** the characters are those of :func:`calibadv_env.protocol.normalizing.unicode_form`,
    without blanks. CMRC 2018 counts something else: :func:`calibadv_env.protocol.cmrc.cmrc_f1`.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 to 1; 0 where nothing overlaps.
    """
    letters = unicode_form(prediction).replace(" ", "")
    goldens = (unicode_form(golden).replace(" ", "") for golden in golden_answers)
    return max((token_f1(letters, golden) for golden in goldens), default=0.0)


def cover_exact_match(
    prediction: str, golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> float:
    """1 if an accepted answer stands in the prediction after normalisation, else 0.

    **Source:** the sub-string match of Search-R1.

    **Differs:** an accepted answer of which normalisation leaves nothing is only equalled; the
    plain sub-string test would find it everywhere. In the form ``unicode`` whole words count:
    "no" does not stand in "nothing".

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form.

    Returns:
        0 or 1; 0 without accepted answers.
    """
    return float(any(_is_covered(*pair) for pair in _pairs(prediction, golden_answers, normalizer)))


def grade_answer(
    answer: str | None, golden_answers: Sequence[str], normalizer: Normalizer = "squad"
) -> AnswerScores:
    """All three metrics of an answer.

    Args:
        answer: What the agent answered; None if it did not.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form.

    Returns:
        Its scores. A missing answer and one of white space alone score 0, also where the
        accepted answer is one of which normalisation leaves nothing.
    """
    if answer is None or not answer.strip():
        return NO_ANSWER
    pairs = list(_pairs(answer, golden_answers, normalizer))
    return AnswerScores(
        em=float(any(given == golden for given, golden, _ in pairs)),
        f1=max((_form_f1(given, golden) for given, golden, _ in pairs), default=0.0),
        cover_em=float(any(_is_covered(*pair) for pair in pairs)),
    )


def contains_words(text: str, words: str, normalizer: Normalizer = "squad") -> bool:
    """Tells if words stand in a text at word boundaries, both normalised; no words never do."""
    form = form_for(words, normalizer)
    wanted = normal(words, form)
    return bool(wanted) and f" {wanted} " in f" {normal(text, form)} "


def covers_words(
    answer: str, golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> bool:
    """Tells if an accepted answer stands in an answer as whole words, with few words round it.

    This is ``cover_em`` as a reward. "Puncak Jaya" does not cover ".ca"; a list of all candidates
    covers nothing. Like every test of containment it pays "not Rabat", and an answer that hedges
    between a few candidates.

    Args:
        answer: What the agent answered.
        golden_answers: Accepted answers.
        normalizer: Name of the normal form.

    Returns:
        True if one of them stands in the answer after normalisation and the answer has at most
        ``MAX_WORDS_ROUND_ANSWER`` words more; an accepted answer without words is only equalled.
    """
    if not answer.strip():
        return False
    for given, golden, _ in _pairs(answer, golden_answers, normalizer):
        if given == golden:
            return True
        num_words = len(given.text.split()) - len(golden.text.split())
        if num_words <= MAX_WORDS_ROUND_ANSWER and _has_words(golden, given):
            return True
    return False


def searchable_answers(
    golden_answers: Iterable[str], normalizer: Normalizer = "squad"
) -> SearchableAnswers:
    """Accepted answers as :func:`contains_answer` takes them; those without words drop out."""
    found: dict[NormalForm, list[str]] = {}
    for golden in golden_answers:
        form = form_for(golden, normalizer)
        answer = normal(golden, form)
        if answer:
            found.setdefault(form, []).append(f" {answer} ")
    return tuple([(form, tuple(answers)) for form, answers in found.items()])


def contains_answer(passages: Collection[PassageText], answers: SearchableAnswers) -> bool:
    """Tells if an accepted answer stands in a passage, as whole words.

    Args:
        passages: Titles and texts.
        answers: Accepted answers as :func:`searchable_answers` gives them.

    Returns:
        True if one of them stands in the title or the text of one passage. "Oman" does not
        stand in "Romania".
    """
    for form, wanted in answers:
        for title, body in passages:
            text = _searchable(title, body, form)
            for answer in wanted:
                if answer in text:
                    return True
    return False


@lru_cache(maxsize=16_384)
def _searchable(title: str, text: str, form: NormalForm) -> str:
    """Normalised title and text, padded; the bar keeps an answer from spanning both."""
    return f" {normal(title, form)} | {normal(text, form)} "


def _pairs(
    prediction: str, golden_answers: Iterable[str], normalizer: Normalizer
) -> Iterator[tuple[Form, Form, NormalForm]]:
    """The answer beside each accepted one, both in the form in which they are compared."""
    for golden in golden_answers:
        form = form_for(golden, normalizer)
        yield answer_form(prediction, form), answer_form(golden, form), form


def _form_f1(answer: Form, golden: Form) -> float:
    if answer.is_bare or golden.is_bare:
        return float(answer == golden)
    return token_f1(answer.text.split(), golden.text.split())


def _is_covered(answer: Form, golden: Form, form: NormalForm) -> bool:
    if form == "unicode" or answer.is_bare or golden.is_bare:
        return answer == golden or _has_words(golden, answer)
    return golden.text in answer.text


def _has_words(golden: Form, answer: Form) -> bool:
    is_bare = golden.is_bare or answer.is_bare
    return not is_bare and f" {golden.text} " in f" {answer.text} "
