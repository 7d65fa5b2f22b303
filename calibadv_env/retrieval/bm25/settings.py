"""Words and settings that every BM25 here shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from bm25s.stopwords import STOPWORDS_EN

from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, Checked
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.bm25.words import WordChoice, WordRules, manifest_words, rules_for

STOP_WORDS: Final = tuple(dict.fromkeys(STOPWORDS_EN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings(Checked):
    """Settings of BM25.

    Attributes:
        k1: How slowly repeated words saturate, at least 0.
        b: How much long passages are discounted, 0 to 1.
        words: Rules for words; "auto" chooses by the scripts of the corpus.
    """

    k1: Annotated[float, NOT_NEGATIVE] = 1.2
    b: Annotated[float, FRACTION] = 0.75
    words: WordChoice = "auto"

    def for_corpus(self, passages: Sequence[Passage]) -> Bm25Settings:
        """The settings with the rules for words that a corpus needs, where these were left open."""
        return replace(self, words=rules_for(passages, self.words))

    @property
    def rules(self) -> WordRules:
        """The rules for words, once they are settled."""
        return "unicode" if self.words == "unicode" else "plain"

    def as_record(self) -> dict[str, Any]:
        """The settings and the fixed choices beside them, for the manifest."""
        return {
            "k1": self.k1,
            "b": self.b,
            "method": "lucene",
            **manifest_words(self.rules),
            "stop_words": "english",
        }
