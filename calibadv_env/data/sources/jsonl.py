"""Questions and documents as lines of JSON, the format of FlashRAG and of this package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from calibadv_env.data.base import read_task_lines
from calibadv_env.data.reading import Reader, Row
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus, read_passages


class JsonlReader(Reader):
    """Lines of JSON; also reads what no other reader does, whatever its name."""

    name = "jsonl"
    suffixes = (".jsonl",)

    def rows(self, source: str, split: str = "") -> Iterator[Row]:
        """Tasks as :func:`calibadv_env.data.base.read_tasks` reads them."""
        for place, task in read_task_lines(source):
            yield Row(place=place, task=task, split=task.metadata.get("split"))

    def passages(self, source: str) -> Iterator[tuple[str, Passage]]:
        """Passages as :func:`calibadv_env.retrieval.corpus.read_passages` reads them."""
        return read_passages(source)

    def corpus(self, source: str) -> Corpus:
        """Passages as :meth:`Corpus.from_jsonl` reads them."""
        return Corpus.from_jsonl(source)


READERS: Final = (JsonlReader(),)
