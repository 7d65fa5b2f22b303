"""Our BM25, in memory or on disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.sides.texts import batches, make_texts
from benchmarks.peers.worker import Turns
from calibadv_algo.cli.main import main as calibadv
from calibadv_env.common.jsonl import write_jsonl
from calibadv_env.retrieval import Corpus, Passage, make_retriever
from calibadv_env.retrieval.opening import open_index


def run(options: dict[str, Any], turns: Turns) -> None:
    """Builds, then searches one by one and in batches."""
    texts, queries = make_texts(options)
    folder = Path(tempfile.mkdtemp())
    found: list[Any] = []
    if options.get("disk"):
        write_jsonl(
            folder / "corpus.jsonl", ({"id": str(n), "text": t} for n, t in enumerate(texts))
        )

    def build() -> int:
        if options.get("disk"):
            arguments = ["index", "bm25", str(folder / "corpus.jsonl"), str(folder / "index")]
            assert calibadv([*arguments, "--overwrite"]) == 0
            found[:] = [open_index(folder / "index")]
        else:
            corpus = Corpus([Passage(str(n), "", text) for n, text in enumerate(texts)])
            found[:] = [make_retriever("bm25", corpus)]
        return len(texts)

    def search(groups: list[list[str]]) -> int:
        for group in groups:
            found[0].search(group, 3)
        return len(queries)

    try:
        turns.repeat(
            {
                "passages indexed": build,
                "queries, one by one": lambda: search(batches(queries, 1)),
                "queries, 64 together": lambda: search(batches(queries, options["batch"])),
            }
        )
    finally:
        shutil.rmtree(folder)
