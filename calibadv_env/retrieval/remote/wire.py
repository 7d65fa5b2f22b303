r"""The four dialects in which search servers and clients of search agents speak. Pure: no I/O.

========== ======================================== ==============================================
dialect    request                                  reply
========== ======================================== ==============================================
search_r1  JSON ``queries``, ``topk``               ``result[query][rank]``, document an object
rerank     JSON ``queries``, ``topk_retrieval``,    ``result[query][rank]``, document the string
           ``topk_rerank``                          ``"Title"\ntext``
skyrl      JSON ``query``, ``topk``                 ``result[0][rank]``, document an object
gem        msgpack ``query``, ``topk``              msgpack ``result[rank]``, document an object
========== ======================================== ==============================================

All have ``return_scores``. With it an entry is ``{"document", "score"}``, without it the document
alone. verl and ASearcher speak search_r1, CalibAdv's released code speaks rerank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.corpus import parse_passage

Dialect: TypeAlias = Literal["search_r1", "rerank", "skyrl", "gem"]
DIALECTS: Final[tuple[Dialect, ...]] = ("search_r1", "rerank", "skyrl", "gem")
BATCH_DIALECTS: Final = frozenset({"search_r1", "rerank"})
"""Those whose requests hold many queries."""
JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
_MSGPACK_TYPES: Final = frozenset(
    {MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"}
)
_ID_CHARS: Final = 16
_JSON: Final = json.JSONEncoder(allow_nan=False)

Results: TypeAlias = Sequence[Sequence[ScoredPassage]]


class BadRequestError(ValueError):
    """A request that cannot be answered.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class BadReplyError(ValueError):
    """A reply that is not of the dialect it should be.

    Attributes:
        is_readable: If true, it is JSON or msgpack at all; else something stood between.
    """

    def __init__(self, message: str, *, is_readable: bool = True) -> None:
        super().__init__(message)
        self.is_readable = is_readable


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits(Checked):
    """Limits of a request.

    Attributes:
        default_top_k: Passages a query where the request does not say.
        max_top_k: Most passages a query.
        max_queries: Most queries in a request.
        max_query_chars: Longest query. The default is what an environment lets a policy write.
    """

    default_top_k: Annotated[int, POSITIVE] = 3
    max_top_k: Annotated[int, POSITIVE] = 1000
    max_queries: Annotated[int, POSITIVE] = 4096
    max_query_chars: Annotated[int, POSITIVE] = 1_000_000

    def __post_init__(self) -> None:
        """Refuses limits that allow nothing."""
        Checked.__post_init__(self)
        if self.default_top_k > self.max_top_k:
            raise ValueError(
                f"default_top_k must not exceed max_top_k, got {self.default_top_k} and "
                f"{self.max_top_k}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A parsed request and the form of its answer.

    Attributes:
        queries: What to search for; at least one.
        top_k: Passages a query.
        with_scores: If true, entries have a score beside the document.
        is_msgpack: If true, the reply is msgpack, else JSON.
        is_flat: If true, the reply is the list of the only query, not a list of lists.
        as_strings: If true, documents are strings.
    """

    queries: tuple[str, ...]
    top_k: int
    with_scores: bool
    is_msgpack: bool
    is_flat: bool
    as_strings: bool


def is_msgpack_body(body: bytes, content_type: str | None) -> bool:
    """True for a body in msgpack: by its type, else (GEM's client sends none) by its first byte.

    A msgpack map begins with a byte that no JSON text can begin with.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _MSGPACK_TYPES:
        return True
    return bool(body) and (0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF))


def parse_request(body: bytes, content_type: str | None, limits: RequestLimits) -> SearchRequest:
    """The request in a body and its content type, in any of the dialects.

    Raises:
        BadRequestError: if it is malformed or asks for too much; the message names the field.
    """
    is_msgpack = is_msgpack_body(body, content_type)
    try:
        record = _unpack(body) if is_msgpack else json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "msgpack" if is_msgpack else "JSON"
        raise BadRequestError(f"the body must be {kind}: {error}", 400) from error
    if not isinstance(record, dict):
        raise BadRequestError(f"the body must be an object, got {type(record).__name__}", 400)
    is_rerank = "topk_rerank" in record or "topk_retrieval" in record
    _read_count(record, "topk_retrieval", limits)
    if record.get("not_sort"):
        raise BadRequestError("not_sort must be false: passages come best first")
    return SearchRequest(
        queries=_read_queries(record, limits),
        top_k=_read_count(record, "topk_rerank" if is_rerank else "topk", limits),
        with_scores=_read_flag(record, "return_scores"),
        is_msgpack=is_msgpack,
        is_flat=is_msgpack and "query" in record,
        as_strings=is_rerank,
    )


def encode_reply(request: SearchRequest, results: Results) -> tuple[bytes, str]:
    """Body and media type of the answer to a request: the passages of each query.

    Raises:
        ValueError: if a score is not finite.
    """
    rows = [[_entry(found, request) for found in one] for one in results]
    result: Any = rows[0] if request.is_flat else rows
    if request.is_msgpack:
        return _pack({"result": result}), MSGPACK_TYPE
    return _JSON.encode({"result": result}).encode("ascii"), JSON_TYPE


def encode_request(
    dialect: Dialect, queries: Sequence[str], top_k: int, num_candidates: int
) -> tuple[bytes, str]:
    """Body and media type of a request. Scores are always asked for.

    Args:
        dialect: The dialect.
        queries: What to search for; one, unless the dialect takes more.
        top_k: Passages a query.
        num_candidates: What a rerank server is told to choose from, at least.
    """
    record: dict[str, Any] = {"return_scores": True}
    if dialect == "rerank":
        candidates = max(top_k, num_candidates)
        record |= {"queries": list(queries), "topk_retrieval": candidates, "topk_rerank": top_k}
    elif dialect == "search_r1":
        record |= {"queries": list(queries), "topk": top_k}
    else:
        record |= {"query": queries[0], "topk": top_k}
    if dialect == "gem":
        return _pack(record), MSGPACK_TYPE
    return json.dumps(record).encode("ascii"), JSON_TYPE


def decode_reply(
    dialect: Dialect, body: bytes, num_queries: int, top_k: int, *, is_probe: bool = False
) -> list[list[ScoredPassage]]:
    """The passages of each query in a reply, best first.

    Documents may be objects or strings in every dialect. A document without an id, as in rerank,
    gets one from its content.

    Args:
        dialect: The dialect.
        body: The bytes.
        num_queries: How many queries were sent.
        top_k: Passages that were asked for.
        is_probe: If true, the dialect is only a guess: strings then tell a rerank server, which
            reads the same requests but not their ``topk``.

    Raises:
        BadReplyError: if the reply is not of this form, or its counts are wrong.
    """
    try:
        record = _unpack(body) if dialect == "gem" else json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "msgpack" if dialect == "gem" else "JSON"
        shown = f"{body[:80]!r}"
        raise BadReplyError(f"must be {kind}: {error}; got {shown}", is_readable=False) from error
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, list):
        raise BadReplyError(f"must be an object with a list 'result', got {_shown(record)}")
    lists = [result] if dialect == "gem" else result
    if len(lists) != num_queries:
        raise BadReplyError(f"result must hold {num_queries} lists, got {len(lists)}")
    read = [_read_list(one, f"result[{i}]", top_k) for i, one in enumerate(lists)]
    if is_probe and dialect != "rerank" and any(_is_string(hit) for one in lists for hit in one):
        raise BadReplyError("documents must be objects, got strings, as rerank servers give")
    return read


def contents_of(passage: Passage) -> str:
    r"""A passage as one string: the title in quotes, a line break, the text."""
    return f'"{passage.title}"\n{passage.text}' if passage.title else f"\n{passage.text}"


def document_of(passage: Passage) -> dict[str, str]:
    """A passage as an object with ``id`` and ``contents``.

    ``title`` and ``text`` are added where the contents alone would not give them back.
    """
    document = {"id": passage.id, "contents": contents_of(passage)}
    if "\n" in passage.title or passage.text != passage.text.strip():
        document |= {"title": passage.title, "text": passage.text}
    return document


def content_id(text: str) -> str:
    """An id for a passage that has none: equal texts, equal ids."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:_ID_CHARS]}"


def _read_queries(record: Mapping[str, Any], limits: RequestLimits) -> tuple[str, ...]:
    if ("queries" in record) == ("query" in record):
        raise BadRequestError("the body must have either 'queries' or 'query'")
    name = "queries" if "queries" in record else "query"
    queries = record[name] if name == "queries" else [record[name]]
    if not isinstance(queries, list) or not queries:
        raise BadRequestError(f"queries must be a list of at least one, got {_shown(queries)}")
    if len(queries) > limits.max_queries:
        raise BadRequestError(
            f"queries must be at most {limits.max_queries:,} in a request, got {len(queries):,}",
            413,
        )
    for index, query in enumerate(queries):
        where = f"queries[{index}]" if name == "queries" else "query"
        if not isinstance(query, str):
            raise BadRequestError(f"{where} must be a string, got {_shown(query)}")
        if len(query) > limits.max_query_chars:
            raise BadRequestError(
                f"{where} must have at most {limits.max_query_chars:,} characters, got "
                f"{len(query):,}",
                413,
            )
    return tuple(queries)


def _read_count(record: Mapping[str, Any], name: str, limits: RequestLimits) -> int:
    value = record.get(name)
    if value is None:
        return limits.default_top_k
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequestError(f"{name} must be a whole number or null, got {_shown(value)}")
    if not 1 <= value <= limits.max_top_k:
        raise BadRequestError(f"{name} must be from 1 to {limits.max_top_k}, got {value}")
    return value


def _read_flag(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false, got {_shown(value)}")
    return value


def _entry(found: ScoredPassage, request: SearchRequest) -> Any:
    passage = found.passage
    document = contents_of(passage) if request.as_strings else document_of(passage)
    if not request.with_scores:
        return document
    entry = {"document": document, "score": float(found.score)}
    return {**entry, "id": passage.id} if request.as_strings else entry


def _read_list(entries: Any, where: str, top_k: int) -> list[ScoredPassage]:
    if not isinstance(entries, list):
        raise BadReplyError(f"{where} must be a list of passages, got {_shown(entries)}")
    if len(entries) > top_k:
        raise BadReplyError(f"{where} must hold at most {top_k} passages, got {len(entries)}")
    return [_read_entry(one, f"{where}[{rank}]", rank) for rank, one in enumerate(entries)]


def _read_entry(entry: Any, where: str, rank: int) -> ScoredPassage:
    """A document alone scores by its rank."""
    is_scored = isinstance(entry, dict) and "document" in entry
    document = entry["document"] if is_scored else entry
    score = entry.get("score") if is_scored else None
    if score is None:
        score = 1.0 / (rank + 1)
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise BadReplyError(f"{where}.score must be a number, got {_shown(score)}")
    record = {"contents": document} if isinstance(document, str) else document
    if not isinstance(record, dict):
        raise BadReplyError(f"{where} must be a document, got {_shown(document)}")
    passage_id = record.get("id", entry.get("id") if is_scored else None)
    if passage_id is None:
        passage_id = content_id(json.dumps(record, sort_keys=True))
    try:
        passage = _parse_document({**record, "id": str(passage_id)})
    except ValueError as error:
        raise BadReplyError(f"{where}: {error}") from error
    return ScoredPassage(passage, float(score))


def _parse_document(record: Mapping[str, Any]) -> Passage:
    """Unlike a corpus, a server may hold a passage without any text."""
    contents = record.get("contents")
    if isinstance(contents, str) and not contents.strip() and "text" not in record:
        return Passage(str(record["id"]), "", "")
    return parse_passage(record)


def _is_string(entry: Any) -> bool:
    document = entry.get("document", entry) if isinstance(entry, dict) else entry
    return isinstance(document, str)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"


def _pack(record: Any) -> bytes:
    packed: bytes = _msgpack().packb(record, unicode_errors="surrogatepass")
    return packed


def _unpack(body: bytes) -> Any:
    msgpack = _msgpack()
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass")
    except msgpack.UnpackException as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


def _msgpack() -> Any:
    return import_extra("msgpack", "http", "the dialect gem")
