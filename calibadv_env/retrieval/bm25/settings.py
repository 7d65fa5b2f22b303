"""What every BM25 here agrees on: the words, and k1 and b."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from bm25s.stopwords import STOPWORDS_EN

WORD: Final = re.compile(r"(?u)\b\w\w+\b")
"""The words of bm25s, after lower-casing."""
STOP_WORDS: Final = tuple(dict.fromkeys(STOPWORDS_EN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings:
    """What BM25 scores depend on besides the passages.

    Attributes:
        k1: How slowly repeated words saturate, at least 0.
        b: How much long passages are discounted, 0 to 1.
    """

    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if not self.k1 >= 0:
            raise ValueError(f"k1 must be at least 0, got {self.k1}")
        if not 0 <= self.b <= 1:
            raise ValueError(f"b must be between 0 and 1, got {self.b}")

    def as_record(self) -> dict[str, Any]:
        """The settings and the fixed choices beside them, for the manifest."""
        return {
            "k1": self.k1,
            "b": self.b,
            "method": "lucene",
            "words": WORD.pattern,
            "stop_words": "english",
        }
