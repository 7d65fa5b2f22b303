"""Questions and documents as lines of JSON, the format of FlashRAG and of this package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from calibadv_env.common.jsonl import read_parsed
from calibadv_env.data.base import parse_task
from calibadv_env.data.reading import Reader, Row
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, parse_passage


class JsonlReader(Reader):
    """Lines of JSON; also reads what no other reader does, whatever its name."""

    name = "jsonl"
    suffixes = (".jsonl",)

    def rows(self, source: str, split: str = "") -> Iterator[Row]:
        """Tasks as :func:`calibadv_env.data.base.read_tasks` reads them."""
        for place, task in read_parsed(source, parse_task):
            yield Row(place=place, task=task, split=task.metadata.get("split"))

    def passages(self, source: str) -> Iterator[tuple[str, Passage]]:
        """Passages as :meth:`Corpus.from_jsonl` reads them; ids may repeat."""
        return read_parsed(source, parse_passage)

    def corpus(self, source: str) -> Corpus:
        """Passages as :meth:`Corpus.from_jsonl` reads them."""
        return Corpus.from_jsonl(source)


READERS: Final = (JsonlReader(),)
