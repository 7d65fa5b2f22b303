"""Gold evidence that a turn found, and the reward of an episode. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Literal

from calibadv_env.protocol.answers import AnswerScores, covers_words
from calibadv_env.protocol.normalizing import Normalizer, normalize_answer

CoverEm = Literal["words", "substring"]
"""What the reward ``cover_em`` pays: whole words in an answer of bounded length, or the metric of
that name (version 0 of the environments)."""


_WORD: Final = re.compile(r"\b\w\w+\b")


class _UndefinedShare(float):
    """NaN that equals itself.

    Gymnasium's environment checker compares the infos of two equal steps with ``==``; with the
    ordinary NaN it would call every task without gold passages non-deterministic.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _UndefinedShare)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, _UndefinedShare)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type[_UndefinedShare], tuple[str]]:
        return _UndefinedShare, ("nan",)


UNDEFINED_SHARE: Final = _UndefinedShare("nan")
"""The gold recall of a task that names no gold passages."""


def new_gold(
    passage_ids: Iterable[str], gold: Mapping[str, object], found: Collection[str]
) -> tuple[str, ...]:
    """Gold passages that a turn is the first to hit.

    Args:
        passage_ids: Ids in rank order.
        gold: Ids of the task's gold passages are its keys.
        found: Gold passages that earlier turns hit.

    Returns:
        Their ids in rank order, each once.
    """
    if not gold:
        return ()
    hits = [pid for pid in passage_ids if pid in gold and pid not in found]
    return tuple(dict.fromkeys(hits)) if hits else ()


def gold_recall(
    found: Iterable[str], hops_of: Mapping[str, Collection[int]], num_gold_hops: int
) -> float:
    """Share of the hops of which some gold passage has been hit.

    Args:
        found: Gold passages hit so far.
        hops_of: For each gold passage the hops whose fact it states.
        num_gold_hops: Number of hops that name gold passages.

    Returns:
        0 to 1; NaN if no hop names any.
    """
    if not num_gold_hops:
        return UNDEFINED_SHARE
    return len({hop for pid in found for hop in hops_of[pid]}) / num_gold_hops


def tfidf_similarities(text: str, others: Sequence[str]) -> tuple[float, ...]:
    """TF-IDF cosines of one text to others, fitted on these texts alone.

    Words are lower-cased runs of two or more letters, digits or underscores; a word's weight is
    its count times ``ln((1 + n) / (1 + df)) + 1`` with ``n`` texts, ``df`` of which hold it.

    **Source:** the vectoriser of scikit-learn with its defaults, as StepSearch uses it.

    Args:
        text: Compared with each of the others.
        others: At least none.

    Returns:
        One cosine a text, 0 to 1; 0 for a text without words.
    """
    counts = [Counter(_WORD.findall(each.lower())) for each in (text, *others)]
    frequency = Counter(word for count in counts for word in count)
    idf = {word: math.log((1 + len(counts)) / (1 + df)) + 1 for word, df in frequency.items()}
    vectors = [{word: n * idf[word] for word, n in count.items()} for count in counts]
    norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    first = vectors[0]
    products = (
        sum(value * first[word] for word, value in vector.items() if word in first)
        for vector in vectors[1:]
    )
    return tuple(
        min(1.0, product / (norms[0] * norm)) if product else 0.0
        for product, norm in zip(products, norms[1:], strict=True)
    )


def gold_similarity(texts: Sequence[str], gold_texts: Sequence[str]) -> tuple[float, ...]:
    """How near the passages of a turn come to each piece of gold evidence.

    Both are normalised as answers are: articles and punctuation do not count.

    **Source:** StepSearch (arXiv 2505.15107), the information gain of a search;
    ``qa_step.py`` of its code compares bodies without titles.

    Args:
        texts: Bodies of the passages of one turn.
        gold_texts: Bodies of the gold evidence.

    Returns:
        For each gold text the highest cosine of a passage to it, 0 without passages.
    """
    if not texts:
        return (0.0,) * len(gold_texts)
    golds = [normalize_answer(gold) for gold in gold_texts]
    rows = [tfidf_similarities(normalize_answer(text), golds) for text in texts]
    return tuple(max(column) for column in zip(*rows, strict=True))


def answer_reward(
    answer: str | None,
    golden_answers: Sequence[str],
    scores: AnswerScores,
    reward: str,
    cover_em: CoverEm = "words",
    normalizer: Normalizer = "squad",
) -> float:
    """What an answer earns by the metric that is the reward.

    **Differs:** the references pay ``cover_em`` for an accepted answer anywhere in the letters of
    the answer, however long that is, so that one constant answer with all candidates is always
    right and "Puncak Jaya" contains ".ca". Here it counts whole words and bounds the answer's
    length (:func:`calibadv_env.protocol.answers.covers_words`), unless ``cover_em`` is
    "substring".

    Args:
        answer: What the agent answered; None if it did not.
        golden_answers: Accepted answers.
        scores: Metrics of the answer.
        reward: ``cover_em``, ``em``, or ``f1`` and ``step_search`` (F1).
        cover_em: What the reward of that name pays.
        normalizer: Name of the normal form of answers.

    Returns:
        0 to 1.
    """
    match reward:
        case "cover_em" if cover_em == "words":
            return float(answer is not None and covers_words(answer, golden_answers, normalizer))
        case "cover_em":
            return scores.cover_em
        case "em":
            return scores.em
        case _:
            return scores.f1


def gated(score: float, *, is_format_valid: bool, format_gate: bool) -> float:
    """The reward of an episode: what its answer earns, times the format gate.

    **Source:** CalibAdv's reward manager, where the format multiplies the score and adds
    nothing.

    Args:
        score: What the answer earns.
        is_format_valid: Whether the response is well-formed.
        format_gate: Whether an ill-formed response earns nothing.

    Returns:
        0 to 1.
    """
    return 0.0 if format_gate and not is_format_valid else float(score)
