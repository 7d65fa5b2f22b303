"""Answer metrics, the format rules, and the reward that they make. Pure.

Two judges of the format live here. :func:`is_turn_well_formed` looks at one action alone and is
what the environments use, so that text in a retrieved passage can neither break a response nor
complete one. :func:`is_format_valid` looks at a whole response as one string, as the references
do, and is there for transcripts from elsewhere.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from calibadv_env.info import (
    DOCUMENTS_CLOSE,
    DOCUMENTS_OPEN,
    QUERY_CLOSE,
    QUERY_OPEN,
    ActionKind,
    Grammar,
)
from calibadv_env.protocol.prompts import INVALID_ACTION_TEXT

RewardName = Literal["f1", "em", "cover_em", "step_search"]
"""Which answer metric is the reward. ``step_search`` is F1, and every step reports how far its
passages agree with the gold evidence, from which StepSearch makes a reward for each search."""

_DELETE_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_TAG: Final = re.compile(r"</?(?:think|search|information|answer)>")
_END_OF_TEXT: Final = "<|endoftext|>"

_PLAIN_TURN: Final = re.compile(r"\s*<think>[^<]*</think>\s*<(search|answer)>[^<]*</\1>\s*")
"""The usual well-formed turn, one without any other ``<``: decides most cases at once."""

_MARKERS: Final = re.compile(
    "|".join(
        [
            "</?(?:think|answer)>",
            *map(re.escape, (QUERY_OPEN, QUERY_CLOSE, DOCUMENTS_OPEN, DOCUMENTS_CLOSE)),
        ]
    )
)
_TURN_MARKERS: Final[dict[ActionKind, list[str]]] = {
    "search": [QUERY_OPEN, QUERY_CLOSE],
    "answer": ["</think>", "<answer>", "</answer>"],
}
_WORD: Final = re.compile(r"\b\w\w+\b")

_TURN_TAGS: Final[dict[ActionKind, list[str]]] = {
    "search": ["<think>", "</think>", "<search>", "</search>"],
    "answer": ["<think>", "</think>", "<answer>", "</answer>"],
}
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


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """How well an answer agrees with the accepted ones; each 0 to 1."""

    em: float
    f1: float
    cover_em: float


NO_ANSWER: Final = AnswerScores(0.0, 0.0, 0.0)
"""What a missing answer scores."""


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
    """Highest token F1 between the prediction and an accepted answer.

    ``2 * overlap / (num_predicted + num_golden)`` over multisets of normalised words.

    **Source:** SQuAD 1.1.

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 to 1; 0 where nothing overlaps, two empty texts included.
    """
    predicted = normalize_answer(prediction)
    return max((_f1(predicted, normalize_answer(golden)) for golden in golden_answers), default=0.0)


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
    goldens = [normalize_answer(golden) for golden in golden_answers]
    return AnswerScores(
        em=float(predicted in goldens),
        f1=max((_f1(predicted, golden) for golden in goldens), default=0.0),
        cover_em=float(any(_is_covered(golden, predicted) for golden in goldens)),
    )


def compose_reward(
    scores: AnswerScores, *, reward: RewardName, is_format_valid: bool, format_gate: bool
) -> float:
    """The reward of an episode: an answer metric, times the format gate.

    **Source:** CalibAdv's reward manager, where the format multiplies the score and adds
    nothing.

    Args:
        scores: Metrics of the answer.
        reward: Which one counts.
        is_format_valid: Whether the response is well-formed.
        format_gate: Whether an ill-formed response earns nothing.

    Returns:
        0 to 1.
    """
    if format_gate and not is_format_valid:
        return 0.0
    return float(scores.f1 if reward == "step_search" else getattr(scores, reward))


def is_turn_well_formed(text: str, kind: ActionKind, grammar: Grammar = "tags") -> bool:
    """Whether one action is exactly a thought and a search, or a thought and an answer.

    The whole text as written is judged, also what stands behind the closing tag: the only tags
    are ``<think> </think>`` and the pair of the action, in this order, with nothing but white
    space outside the two blocks.

    **Source:** the format state machine of CalibAdv, cut at turn boundaries.

    **Differs:** the reference runs over the joined text of actions and observations, so that a
    tag in a retrieved passage invalidates a sound response, and a policy may write its own
    ``<information>`` block. Here passages are not looked at and such a block is an error.

    Args:
        text: The action, with an opening think tag that was given to the policy put back.
        kind: What the action was read as.
        grammar: How actions are written. With ``markers`` an episode is one thought that the
            prompt opens: a search is any text and one marked query, an answer closes the thought.

    Returns:
        The verdict; a malformed action is never well-formed.
    """
    if grammar == "markers":
        return _is_marked_turn_well_formed(text, kind)
    expected = _TURN_TAGS.get(kind)
    if expected is None:
        return False
    plain = _PLAIN_TURN.fullmatch(text)
    if plain is not None:
        return plain.group(1) == kind
    text = text.replace(_END_OF_TEXT, "")
    tags = list(islice(_TAG.finditer(text), 5))
    if [tag.group() for tag in tags] != expected:
        return False
    outside = (
        text[: tags[0].start()],
        text[tags[1].end() : tags[2].start()],
        text[tags[3].end() :],
    )
    return not any(gap.strip() for gap in outside)


def _is_marked_turn_well_formed(text: str, kind: ActionKind) -> bool:
    """The same for the markers of R1-Searcher."""
    text = text.replace(_END_OF_TEXT, "")
    marks = list(islice(_MARKERS.finditer(text), 4))
    if [mark.group() for mark in marks] != _TURN_MARKERS.get(kind):
        return False
    gaps = [text[marks[-1].end() :]]
    if kind == "answer":
        gaps.append(text[marks[0].end() : marks[1].start()])
    return not any(gap.strip() for gap in gaps)


def is_format_valid(response: str) -> bool:
    """Whether a whole response is well-formed, judged on its text alone.

    One or more rounds of think, search, information, then think and answer; no tag inside a
    block, only white space between blocks, at least one search, no corrective sentence.
    ``<|endoftext|>`` is ignored.

    **Source:** the format state machine of CalibAdv (``qa_em_format``).

    **Differs:** nothing in the verdict. A tag inside a passage breaks the format here as it does
    there; the environments use :func:`is_turn_well_formed` and are not misled.

    Args:
        response: Actions and observations joined, without the prompt.

    Returns:
        The verdict.
    """
    response = response.replace(_END_OF_TEXT, "")
    if INVALID_ACTION_TEXT.strip() in response:
        return False
    state, position, has_search = "start", 0, False
    for tag in _TAG.finditer(response):
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

    **Source:** StepSearch (arXiv 2505.15107), the information gain of a search.

    Args:
        texts: The passages of one turn.
        gold_texts: The gold evidence.

    Returns:
        For each gold text the highest cosine of a passage to it, 0 without passages.
    """
    if not texts:
        return (0.0,) * len(gold_texts)
    rows = [tfidf_similarities(text, gold_texts) for text in texts]
    return tuple(max(column) for column in zip(*rows, strict=True))


def _f1(predicted: str, golden: str) -> float:
    words, golden_words = predicted.split(), golden.split()
    if set(words).isdisjoint(golden_words):
        return 0.0
    overlap = sum((Counter(words) & Counter(golden_words)).values())
    return 2 * overlap / (len(words) + len(golden_words))


def _is_covered(golden: str, predicted: str) -> bool:
    return golden in predicted if golden else not predicted
