"""A second look: a slower scorer puts the best passages of a fast retriever in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from calibadv_env.common.checks import require_positive
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.backends import Backend
from calibadv_env.retrieval.base import Retriever, identity_record, retriever_identity
from calibadv_env.retrieval.dense.encoders import (
    Encoder,
    TransformerCrossEncoder,
    TransformerEncoder,
)
from calibadv_env.retrieval.filled import with_fillers
from calibadv_env.retrieval.index_files import read_manifest
from calibadv_env.retrieval.opening import open_parts, write_pointer


@runtime_checkable
class Scorer(Protocol):
    """Scores the passages of one query, such as a cross-encoder does.

    A scorer whose rankings shall be recorded or cached has a property ``fingerprint``, a text that
    is equal for scorers that give equal scores.
    """

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """One score a passage; higher is better."""
        ...


class EncoderScorer:
    """Scores by the inner product of the vectors of query and passage.

    Args:
        encoder: Encoder of queries and passages.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return f"encoder:{self.encoder.fingerprint}"

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """One score for each passage of a query; higher is better."""
        vector = self.encoder.encode_queries([query])[0]
        scores: list[float] = (self.encoder.encode_passages(passages) @ vector).tolist()
        return scores


class RerankingRetriever:
    """The best passages of a retriever in the order of a scorer.

    The scorer sees one query and that query's own passages at a time, so scores never depend on
    which queries share the batch. Equal scores keep the order of the first retriever.

    Args:
        retriever: Finds the passages.
        scorer: Orders them.
        depth: How many passages are scored; more if more are wanted.

    Raises:
        ValueError: if ``depth`` is below 1.
    """

    def __init__(self, retriever: Retriever, scorer: Scorer, *, depth: int = 20) -> None:
        require_positive(depth=depth)
        self.retriever = retriever
        self.scorer = scorer
        self.depth = depth
        corpus = getattr(retriever, "corpus", None)
        if corpus is not None:
            self.corpus = corpus

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        Raises:
            RetrieverError: if the retriever fails, or the scorer gives a wrong number of scores.
        """
        # A bare string goes on as it is, so that the retriever refuses it.
        distinct = queries if isinstance(queries, str) else list(dict.fromkeys(queries))
        depth = max(self.depth, top_k) if top_k >= 1 else top_k
        answers = self.retriever.search(distinct, depth)
        found = {
            query: self._rerank(query, answer)[:top_k]
            for query, answer in zip(distinct, answers, strict=True)
        }
        return [list(found[query]) for query in queries]

    def identity(self) -> dict[str, Any]:
        """Settings, the identity of the retriever and the fingerprint of the scorer.

        Raises:
            ValueError: if the retriever has no identity or the scorer no fingerprint.
        """
        fingerprint = getattr(self.scorer, "fingerprint", None)
        if not isinstance(fingerprint, str):
            raise ValueError(
                f"scorer {type(self.scorer).__name__} has no fingerprint, so the answers cannot be "
                "recorded or cached: define a property fingerprint, a text that is equal for "
                "scorers that give equal scores"
            )
        parts = [retriever_identity(self.retriever)]
        settings = {"depth": self.depth, "parts": parts, "scorer": fingerprint}
        return identity_record(self, getattr(self, "corpus", None), **settings)

    def with_fillers(self) -> RerankingRetriever:
        """This retriever as environments of version 0 know it."""
        return RerankingRetriever(with_fillers(self.retriever), self.scorer, depth=self.depth)

    def _rerank(self, query: str, hits: Sequence[ScoredPassage]) -> list[ScoredPassage]:
        passages = [hit.passage for hit in hits]
        if not passages:
            return []
        scores = self.scorer.score(query, passages)
        if len(scores) != len(passages):
            raise RetrieverError(f"the scorer must give {len(passages)} scores, got {len(scores)}")
        scored = [ScoredPassage(p, float(s)) for p, s in zip(passages, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)


def write_reranker(
    first: str | Path,
    out: str | Path,
    model: str,
    *,
    family: str | None = None,
    depth: int = 20,
    overwrite: bool = False,
) -> Path:
    """Writes an index that puts the best passages of another one in order by a model.

    Args:
        first: The index that finds the passages.
        out: The folder to make; ``first`` is kept as a path relative to it.
        model: Folder or hub name of the model.
        family: "cross" for a cross-encoder, else a key of
            :data:`calibadv_env.retrieval.dense.families.FAMILIES`; None takes a cross-encoder.
        depth: See :class:`RerankingRetriever`.
        overwrite: If true, an index in this place gives way.

    Raises:
        ValueError: if a setting is out of range.
        DataError: if ``first`` is no index.
    """
    require_positive(depth=depth)
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    settings = {"depth": depth, "model": model, "family": family or "cross"}
    return write_pointer("rerank", [first], out, settings, overwrite=overwrite)


def open_reranker(folder: Path, *, verify: bool = False) -> RerankingRetriever:
    """Opens what :func:`write_reranker` wrote; see :func:`open_index`."""
    manifest = read_manifest(folder, "rerank")
    model, family = manifest.settings["model"], manifest.settings["family"]
    scorer: Scorer
    if family == "cross":
        scorer = TransformerCrossEncoder(model)
    else:
        scorer = EncoderScorer(TransformerEncoder(model, family))
    [first] = open_parts(folder, manifest, verify=verify)
    return RerankingRetriever(first, scorer, depth=manifest.settings["depth"])


BACKENDS: Final = (Backend(name="rerank", open=open_reranker),)
