"""Words and settings that every BM25 here shares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from bm25s.stopwords import STOPWORDS_EN

from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, Checked

WORD: Final = re.compile(r"(?u)\b\w\w+\b")
"""The words of bm25s, after lower-casing."""
STOP_WORDS: Final = tuple(dict.fromkeys(STOPWORDS_EN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings(Checked):
    """Settings of BM25.

    Attributes:
        k1: How slowly repeated words saturate, at least 0.
        b: How much long passages are discounted, 0 to 1.
    """

    k1: Annotated[float, NOT_NEGATIVE] = 1.2
    b: Annotated[float, FRACTION] = 0.75

    def as_record(self) -> dict[str, Any]:
        """The settings and the fixed choices beside them, for the manifest."""
        return {
            "k1": self.k1,
            "b": self.b,
            "method": "lucene",
            "words": WORD.pattern,
            "stop_words": "english",
        }
