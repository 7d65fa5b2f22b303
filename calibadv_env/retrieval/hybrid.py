"""Several retrievers as one: their rankings are fused by rank, so scores need not compare."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from calibadv_env.common.checks import require_not_negative, require_positive
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.backends import Backend
from calibadv_env.retrieval.base import (
    ONLY_MATCHES,
    Retriever,
    check_search,
    identity_record,
    retriever_identity,
    take,
)
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.filled import FilledUp, with_fillers
from calibadv_env.retrieval.index_files import read_manifest
from calibadv_env.retrieval.opening import open_parts, write_pointer

_T = TypeVar("_T", bound=Hashable)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[_T]], constant: float = 60.0
) -> dict[_T, float]:
    """Fuses rankings: an item's score is the sum over rankings of ``1 / (constant + rank)``.

    Ranks count from 1; a ranking without the item adds nothing.

    **Source:** Cormack, Clarke and Büttcher (2009), "Reciprocal Rank Fusion outperforms
    Condorcet and individual Rank Learning Methods", SIGIR; 60 is their constant.

    Args:
        rankings: Lists of distinct items, best first.
        constant: How little the first ranks stand out, at least 0.

    Raises:
        ValueError: if the constant is negative.
    """
    require_not_negative(constant=constant)
    scores: dict[_T, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (constant + rank)
    return scores


class HybridRetriever:
    """Asks several retrievers over one corpus and fuses what they give.

    A passage with the score 0 is one that a BM25 elsewhere gives when it has no match, and is left
    out. Ties stand in corpus order.

    Args:
        corpus: Passages that all of them search.
        retrievers: At least two.
        depth: How many passages each is asked for; more if more are wanted.
        constant: See :func:`reciprocal_rank_fusion`.

    Raises:
        ValueError: if there are fewer than two retrievers or a setting is out of range.
    """

    def __init__(
        self,
        corpus: Corpus,
        retrievers: Sequence[Retriever],
        *,
        depth: int = 100,
        constant: float = 60.0,
    ) -> None:
        if len(retrievers) < 2:
            raise ValueError(f"retrievers must be at least two, got {len(retrievers)}")
        require_positive(depth=depth)
        require_not_negative(constant=constant)
        self.corpus = corpus
        self.retrievers = tuple(retrievers)
        self.depth = depth
        self.constant = constant

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        Raises:
            RetrieverError: if one of the retrievers fails.
        """
        count = check_search(queries, top_k, self.corpus)
        depth = max(self.depth, count)
        answers = [retriever.search(queries, depth) for retriever in self.retrievers]
        return [self._fuse(parts, count) for parts in zip(*answers, strict=True)]

    def identity(self) -> dict[str, Any]:
        """Settings and the identities of the parts.

        Raises:
            ValueError: if a part has none.
        """
        parts = [retriever_identity(part) for part in self.retrievers]
        settings = {"depth": self.depth, "constant": self.constant, "parts": parts}
        return identity_record(self, self.corpus, **settings, **{ONLY_MATCHES: True})

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        parts = [with_fillers(part) for part in self.retrievers]
        return FilledUp(
            HybridRetriever(self.corpus, parts, depth=self.depth, constant=self.constant)
        )

    def _fuse(self, parts: Sequence[Sequence[ScoredPassage]], count: int) -> list[ScoredPassage]:
        rankings = [[hit.passage for hit in part if hit.score != 0.0] for part in parts]
        scores = reciprocal_rank_fusion(rankings, self.constant)
        best = sorted(scores.items(), key=lambda item: -item[1])
        if len(best) > count:
            last = best[count - 1][1]
            best = [item for item in best if item[1] >= last]
        hits = [(self.corpus.index_of(passage.id), score) for passage, score in best]
        hits = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:count]
        return take(self.corpus.passages, hits)


def write_hybrid(
    parts: Sequence[str | Path],
    out: str | Path,
    *,
    depth: int = 100,
    constant: float = 60.0,
    overwrite: bool = False,
) -> Path:
    """Writes an index that fuses others, by their paths.

    Args:
        parts: At least two indexes of one corpus.
        out: The folder to make; the parts are kept as paths relative to it.
        depth: See :class:`HybridRetriever`.
        constant: See :class:`HybridRetriever`.
        overwrite: If true, an index in this place gives way.

    Raises:
        ValueError: if a setting is out of range.
        DataError: if a part is no index, or the parts are of different corpora.
    """
    if len(parts) < 2:
        raise ValueError(f"parts must be at least two indexes, got {len(parts)}")
    require_positive(depth=depth)
    settings = {"depth": depth, "constant": constant}
    return write_pointer("hybrid", parts, out, settings, overwrite=overwrite)


def open_hybrid(folder: Path, *, verify: bool = False) -> HybridRetriever:
    """Opens what :func:`write_hybrid` wrote; see :func:`open_index`."""
    manifest = read_manifest(folder, "hybrid")
    retrievers = open_parts(folder, manifest, verify=verify)
    depth, constant = manifest.settings["depth"], manifest.settings["constant"]
    return HybridRetriever(retrievers[0].corpus, retrievers, depth=depth, constant=constant)


BACKENDS: Final = (Backend(name="hybrid", open=open_hybrid),)
