"""The F1 of CMRC 2018, which Chinese reading comprehension is graded by. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_HAN: Final = re.compile("[\u4e00-\u9fa5]")
_MARKS: Final = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Marks that do not count; the script lists them, and others do count."""
_WORD: Final = re.compile(r"\w+(?:\.\w+|,\d+)*|[^\w\s]")


def has_han(text: str) -> bool:
    """True for a text with a Chinese character, as the script tells them."""
    return _HAN.search(text) is not None


def cmrc_f1(prediction: str, golden_answers: Iterable[str]) -> float:
    """Highest F1 of the longest common run between the prediction and an accepted answer.

    A Chinese character is a segment, a word between them too; with ``run`` the number of segments
    of the longest run that stands in both, F1 is ``2 * run / (segments + segments)``.

    **Source:** the evaluation script of CMRC 2018 (arXiv 1810.07366), version 5, which papers use
    for DRCD as well.

    **Differs:** words between Chinese characters are parted at white space and marks, where the
    script calls ``nltk.word_tokenize``; both agree on words and numbers, not on "don't".

    Args:
        prediction: The answer.
        golden_answers: Accepted answers.

    Returns:
        0 to 1; 0 where no segment is common.
    """
    given = segments(prediction)
    return max((_run_f1(given, segments(golden)) for golden in golden_answers), default=0.0)


def segments(text: str) -> list[str]:
    """Chinese characters and the words between them, in lower case, without the marks."""
    kept = "".join(sign for sign in text.lower().strip() if sign not in _MARKS)
    return _WORD.findall(_HAN.sub(lambda found: f" {found.group()} ", kept))


def _run_f1(first: Sequence[str], second: Sequence[str]) -> float:
    run = longest_run(first, second)
    return 2 * run / (len(first) + len(second)) if run else 0.0


def longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of segments that stands in both, by dynamic programming."""
    best, above = 0, [0] * (len(second) + 1)
    for one in first:
        row = [0] * (len(second) + 1)
        for place, other in enumerate(second, start=1):
            if one == other:
                row[place] = above[place - 1] + 1
        best, above = max(best, *row), row
    return best
