"""bm25s as its manual uses it, with its numpy backend."""

from __future__ import annotations

from typing import Any

import bm25s

from benchmarks.peers.sides.texts import batches, make_texts
from benchmarks.peers.worker import Turns


def run(options: dict[str, Any], turns: Turns) -> None:
    """Builds, then searches one by one and in batches."""
    texts, queries = make_texts(options)
    found: list[Any] = []

    def build() -> int:
        index = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numpy")
        index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        found[:] = [index]
        return len(texts)

    def search(groups: list[list[str]]) -> int:
        for group in groups:
            words = bm25s.tokenize(group, show_progress=False)
            found[0].retrieve(words, k=3, show_progress=False)
        return len(queries)

    turns.repeat(
        {
            "passages indexed": build,
            "queries, one by one": lambda: search(batches(queries, 1)),
            "queries, 64 together": lambda: search(batches(queries, options["batch"])),
        }
    )
