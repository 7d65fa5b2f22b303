"""tantivy on disk with one writing thread, its English stemmer, and the stored texts read."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import tantivy

from benchmarks.peers.sides.texts import batches, make_texts
from benchmarks.peers.worker import Turns


def run(options: dict[str, Any], turns: Turns) -> None:
    """Builds, then searches one by one; it has no batches of its own."""
    texts, queries = make_texts(options)
    folder = Path(tempfile.mkdtemp())
    found: list[Any] = []

    def build() -> int:
        found.clear()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("id", stored=True, tokenizer_name="raw")
        schema.add_text_field("text", stored=True, tokenizer_name="en_stem")
        index = tantivy.Index(schema.build(), path=str(folder))
        writer = index.writer(heap_size=256_000_000, num_threads=1)
        for number, text in enumerate(texts):
            writer.add_document(tantivy.Document(id=[str(number)], text=[text]))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        found[:] = [index, index.searcher()]
        return len(texts)

    def search(groups: list[list[str]]) -> int:
        index, searcher = found
        for group in groups:
            for query in group:
                parsed, _ = index.parse_query_lenient(query, ["text"])
                for _, address in searcher.search(parsed, 3).hits:
                    document = searcher.doc(address)
                    document["id"], document["text"]
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
        shutil.rmtree(folder, ignore_errors=True)
