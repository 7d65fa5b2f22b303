"""Long documents cut into passages, by the package semantic-text-splitter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus

FOLDER_WORDS: Final = 100
"""Words of a passage where the files of a folder are read as documents and nothing else is said."""

_UNSPACED: Final = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
"""A word; in scripts that are written without blanks a letter."""


@dataclass(frozen=True, kw_only=True)
class Cutting(Checked):
    """How long documents are cut into passages.

    Cuts fall between paragraphs, sentences or words, whichever is the largest unit that fits.
    Equal documents are cut alike. A passage is called ``<id>#1``, ``<id>#2``, … by its position,
    and has the title of its document; a document that is short enough stays what it is.

    Attributes:
        words: Most words of a passage (letters, in scripts without blanks); None leaves documents
            whole.
        overlap: Most words that a passage repeats of the one before.
    """

    words: Annotated[int | None, POSITIVE] = None
    overlap: Annotated[int, NOT_NEGATIVE] = 0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        Checked.__post_init__(self)
        if self.words is not None and self.overlap >= self.words:
            raise ValueError(f"overlap must be below words ({self.words}), got {self.overlap}")

    def passages(self, document: Passage) -> list[Passage]:
        """The passages of a document."""
        if self.words is None or count_words(document.text) <= self.words:
            return [document]
        parts = _splitter(self.words, self.overlap).chunks(document.text)
        if len(parts) < 2:
            return [document]
        return [
            Passage(f"{document.id}#{number}", document.title, part)
            for number, part in enumerate(parts, start=1)
        ]

    def corpus(self, documents: Corpus) -> Corpus:
        """The passages of all documents; the very corpus if none of them is cut."""
        if self.words is None:
            return documents
        passages = list(self._all(documents))
        return documents if len(passages) == len(documents) else Corpus(passages)

    def _all(self, documents: Corpus) -> Iterator[Passage]:
        for document in documents:
            yield from self.passages(document)


def count_words(text: str) -> int:
    """The number of words of a text, as a passage is measured."""
    return sum(1 for _ in _WORD.finditer(text))


@lru_cache(maxsize=8)
def _splitter(words: int, overlap: int) -> Any:
    # Imported at need: only long documents want it, and not every machine has the package.
    package = import_extra("semantic_text_splitter", "documents", "cutting documents into passages")
    return package.TextSplitter.from_callback(count_words, words, overlap)
