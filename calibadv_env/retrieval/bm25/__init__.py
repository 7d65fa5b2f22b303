"""BM25: in memory, on disk, by tantivy, and the reference implementation."""

from __future__ import annotations

from functools import partial
from typing import Final

from calibadv_env.retrieval.backends import Backend, lazily

BACKENDS: Final = (
    Backend(
        name="bm25",
        build=lazily("calibadv_env.retrieval.bm25.memory:Bm25Retriever"),
        open=lazily("calibadv_env.retrieval.bm25.index:Bm25Index"),
    ),
    Backend(
        name="bm25_unicode",
        build=partial(lazily("calibadv_env.retrieval.bm25.memory:Bm25Retriever"), words="unicode"),
    ),
    Backend(
        name="bm25_plain",
        build=partial(lazily("calibadv_env.retrieval.bm25.memory:Bm25Retriever"), words="plain"),
    ),
    Backend(
        name="rank_bm25",
        build=lazily("calibadv_env.retrieval.bm25.rank_bm25:RankBm25Retriever"),
    ),
    Backend(
        name="tantivy",
        open=lazily("calibadv_env.retrieval.bm25.tantivy_index:TantivyIndex"),
    ),
)
