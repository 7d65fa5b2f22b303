"""Flags on how documents are read and cut, for every command that takes a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from calibadv_env.data.cutting import Cutting
from calibadv_env.data.loading import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFlags:
    """How documents are read and cut."""

    columns: str = ""
    """Keys of the documents where guessing fails: text=KEY,title=KEY,id=KEY."""
    passage_words: int | None = None
    """Cut longer documents into passages of so many words; None leaves them whole, but for the
    files of a folder of texts, which become passages of 100 words."""
    passage_overlap: int = 0
    """Words that a passage repeats of the one before."""

    def options(self) -> Options:
        """The same for the library.

        Raises:
            ValueError: if a flag is out of its range.
        """
        return Options(
            corpus_columns=mapping_of(self.columns),
            cutting=Cutting(words=self.passage_words, overlap=self.passage_overlap),
        )


def mapping_of(text: str) -> dict[str, str]:
    """A mapping of columns as a flag gives it: question=KEY,answers=KEY.

    Raises:
        ValueError: if it has another form.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, key = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"columns must be NAME=KEY,NAME=KEY, got {text!r}")
        found[name.strip()] = key.strip()
    return found
