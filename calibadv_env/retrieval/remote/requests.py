r"""Requests as a search server reads them, and the replies that it writes. Pure: no I/O.

The route ``/retrieve`` answers the dialects of `remote.wire`. Two more routes answer what ReSearch
and its server over FlashRAG speak:

================= ================================ ================================================
route             request                          reply
================= ================================ ================================================
``/search``       JSON ``query`` (a string),       ``[document, …]``, with scores
                  ``top_n``, ``return_score``      ``[[document, …], [score, …]]``
``/batch_search`` JSON ``query`` (a list of        ``[[document, …], …]``, with scores
                  strings), ``top_n``,             ``[[[document, …], …], [[score, …], …]]``
                  ``return_score``
================= ================================ ================================================

The number of passages has many names; all of `TOP_K_NAMES` are understood everywhere, and an
unknown field that looks like yet another one is refused, since a reply of another size would not be
noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.remote.wire import (
    JSON_TYPE,
    MAX_PASSAGES,
    MSGPACK_TYPE,
    contents_of,
    document_of,
    pack,
    shown,
    unpack,
)

Route: TypeAlias = Literal["/retrieve", "/search", "/batch_search"]
ROUTES: Final[tuple[Route, ...]] = ("/retrieve", "/search", "/batch_search")
TOP_K_NAMES: Final = ("topk", "top_k", "topK", "k", "top_n", "topn")
Results: TypeAlias = Sequence[Sequence[ScoredPassage]]

_KNOWN: Final = frozenset(
    (
        *TOP_K_NAMES,
        "return_scores",
        "return_score",
        "queries",
        "query",
        "topk_retrieval",
        "topk_rerank",
        "not_sort",
    )
)
_SIZE: Final = re.compile(
    r"top|limit|size|count|num|max|hits|results|docs|documents|passages|^n_|_n$|^n$|_k$|^k_",
    re.IGNORECASE,
)
"""Names under which servers are told a number of passages."""
_SPLIT_DEFAULT: Final = 10
"""Passages a query on the routes of ReSearch where a request names none; its own default."""
_MSGPACK_TYPES: Final = frozenset(
    {MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"}
)
_JSON: Final = json.JSONEncoder(allow_nan=False)


class BadRequestError(ValueError):
    """A request that cannot be answered.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits(Checked):
    """Limits of a request.

    Attributes:
        default_top_k: Passages a query where the request does not say.
        max_top_k: Most passages a query.
        max_queries: Most queries in a request.
        max_query_chars: Longest query. The default is what an environment lets a policy write.
        max_passages: Most passages in a reply: queries times passages a query.
        max_reply_bytes: Longest reply.
    """

    default_top_k: Annotated[int, POSITIVE] = 3
    max_top_k: Annotated[int, POSITIVE] = 1000
    max_queries: Annotated[int, POSITIVE] = 4096
    max_query_chars: Annotated[int, POSITIVE] = 1_000_000
    max_passages: Annotated[int, POSITIVE] = MAX_PASSAGES
    max_reply_bytes: Annotated[int, POSITIVE] = 128 * 1024 * 1024

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
        with_scores: If true, the reply has scores.
        is_msgpack: If true, the reply is msgpack, else JSON.
        is_flat: If true, the reply is the list of the only query, not a list of lists.
        as_strings: If true, documents are strings.
        is_split: If true, the reply is the lists themselves, and scores have lists of their own.
        ignored: Fields that nothing understood.
    """

    queries: tuple[str, ...]
    top_k: int
    with_scores: bool
    is_msgpack: bool
    is_flat: bool
    as_strings: bool
    is_split: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def num_passages(self) -> int:
        """Most passages that the reply holds."""
        return len(self.queries) * self.top_k


def is_msgpack_body(body: bytes, content_type: str | None) -> bool:
    """True for a body in msgpack: by its type, else (GEM's client sends none) by its first byte.

    A msgpack map begins with a byte that no JSON text can begin with.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _MSGPACK_TYPES:
        return True
    return bool(body) and (0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF))


def parse_request(
    body: bytes, content_type: str | None, limits: RequestLimits, route: Route = "/retrieve"
) -> SearchRequest:
    """The request in a body and its content type, in any of the dialects of a route.

    Raises:
        BadRequestError: if it is malformed or asks for too much; the message names the field.
    """
    is_msgpack = is_msgpack_body(body, content_type)
    try:
        record = unpack(body) if is_msgpack else json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "msgpack" if is_msgpack else "JSON"
        raise BadRequestError(f"the body must be {kind}: {error}", 400) from error
    if not isinstance(record, dict):
        raise BadRequestError(f"the body must be an object, got {type(record).__name__}", 400)
    is_split = route != "/retrieve"
    is_rerank = not is_split and ("topk_rerank" in record or "topk_retrieval" in record)
    _read_count(record, "topk_retrieval", limits)
    if record.get("not_sort"):
        raise BadRequestError("not_sort must be false: passages come best first")
    request = SearchRequest(
        queries=_read_queries(record, limits, route),
        top_k=_read_top_k(record, limits, is_rerank=is_rerank, is_split=is_split),
        with_scores=_read_flag(record, "return_scores") | _read_flag(record, "return_score"),
        is_msgpack=is_msgpack,
        is_flat=route == "/search" or (is_msgpack and not is_split and "query" in record),
        as_strings=is_rerank,
        is_split=is_split,
        ignored=_ignored(record),
    )
    if request.num_passages > limits.max_passages:
        raise BadRequestError(
            f"a reply holds at most {limits.max_passages:,} passages, {len(request.queries):,} "
            f"queries times {request.top_k} are {request.num_passages:,}; split the request",
            413,
        )
    return request


def encode_reply(
    request: SearchRequest, results: Results, max_bytes: int | None = None
) -> tuple[bytes, str]:
    """Body and media type of the answer to a request: the passages of each query.

    Raises:
        BadRequestError: if the body would be longer than ``max_bytes``.
        ValueError: if a score is not finite.
    """
    if request.is_msgpack:
        lists = [[_entry(found, request) for found in one] for one in results]
        shape = lists[0] if request.is_flat else lists
        body = pack(shape if request.is_split else {"result": shape})
        _check_length(len(body), max_bytes)
        return body, MSGPACK_TYPE
    texts = []
    size = 0
    for one in results:  # query by query, so that a long reply lets other threads in between
        texts.append(_JSON.encode([_entry(found, request) for found in one]))
        size += len(texts[-1])
        _check_length(size, max_bytes)
    text = texts[0] if request.is_flat else f"[{', '.join(texts)}]"
    if request.is_split and request.with_scores:
        scores: Any = [[float(found.score) for found in one] for one in results]
        text = f"[{text}, {_JSON.encode(scores[0] if request.is_flat else scores)}]"
    elif not request.is_split:
        text = f'{{"result": {text}}}'
    return text.encode("ascii"), JSON_TYPE


def _check_length(size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise BadRequestError(
            f"the reply would be longer than {max_bytes:,} bytes; ask for less", 413
        )


def _entry(found: ScoredPassage, request: SearchRequest) -> Any:
    passage = found.passage
    document = contents_of(passage) if request.as_strings else document_of(passage)
    if request.is_split or not request.with_scores:
        return document
    entry = {"document": document, "score": float(found.score)}
    return {**entry, "id": passage.id} if request.as_strings else entry


def _read_queries(
    record: Mapping[str, Any], limits: RequestLimits, route: Route
) -> tuple[str, ...]:
    if ("queries" in record) == ("query" in record):
        raise BadRequestError("the body must have either 'queries' or 'query'")
    name = "queries" if "queries" in record else "query"
    is_list = name == "queries" or route == "/batch_search"
    if is_list and route == "/search":
        raise BadRequestError("/search answers one 'query'; /batch_search answers lists")
    queries = record[name] if is_list else [record[name]]
    if not isinstance(queries, list) or not queries:
        raise BadRequestError(f"{name} must be a list of at least one, got {shown(queries)}")
    if len(queries) > limits.max_queries:
        raise BadRequestError(
            f"{name} must be at most {limits.max_queries:,} in a request, got {len(queries):,}",
            413,
        )
    for index, query in enumerate(queries):
        where = f"{name}[{index}]" if is_list else name
        if not isinstance(query, str):
            raise BadRequestError(f"{where} must be a string, got {shown(query)}")
        if len(query) > limits.max_query_chars:
            raise BadRequestError(
                f"{where} must have at most {limits.max_query_chars:,} characters, got "
                f"{len(query):,}",
                413,
            )
    return tuple(queries)


def _read_top_k(
    record: Mapping[str, Any], limits: RequestLimits, *, is_rerank: bool, is_split: bool
) -> int:
    """Passages a query, by whichever name; a rerank request has a name of its own."""
    given = {
        name: count
        for name in TOP_K_NAMES
        if name in record and (count := _read_count(record, name, limits)) is not None
    }
    if is_rerank:
        return _read_count(record, "topk_rerank", limits) or limits.default_top_k
    if len(set(given.values())) > 1:
        several = " and ".join(f"{name} {count}" for name, count in given.items())
        raise BadRequestError(f"the number of passages must be given once, got {several}")
    default = min(_SPLIT_DEFAULT, limits.max_top_k) if is_split else limits.default_top_k
    return next(iter(given.values()), default)


def _read_count(record: Mapping[str, Any], name: str, limits: RequestLimits) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequestError(f"{name} must be a whole number or null, got {shown(value)}")
    if not 1 <= value <= limits.max_top_k:
        raise BadRequestError(f"{name} must be from 1 to {limits.max_top_k}, got {value}")
    return value


def _read_flag(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false, got {shown(value)}")
    return value


def _ignored(record: Mapping[Any, Any]) -> tuple[str, ...]:
    """Fields that are not known; one that may be a number of passages is refused."""
    unknown = [name for name in record if name not in _KNOWN]
    for name in unknown:
        if isinstance(name, str) and _SIZE.search(name) and _is_number(record[name]):
            raise BadRequestError(
                f"the field {name[:40]!r} is not known; the number of passages is 'topk' (also "
                f"{', '.join(TOP_K_NAMES[1:])})"
            )
    return tuple(str(name) for name in unknown)


def _is_number(value: Any) -> bool:
    is_text = isinstance(value, str) and value.strip().isdecimal()
    return is_text or (isinstance(value, int | float) and not isinstance(value, bool))
