r"""The four dialects in which a client asks search servers, and their replies. Pure: no I/O.

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
alone. verl and ASearcher speak search_r1, CalibAdv's released code speaks rerank. The server's side
is `remote.requests`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.corpus import parse_passage

Dialect: TypeAlias = Literal["search_r1", "rerank", "skyrl", "gem"]
DIALECTS: Final[tuple[Dialect, ...]] = ("search_r1", "rerank", "skyrl", "gem")
BATCH_DIALECTS: Final = frozenset({"search_r1", "rerank"})
"""Those whose requests hold many queries."""
JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
MAX_PASSAGES: Final = 50_000
"""Most passages that a request of our client asks for, and that our server gives by default."""
_ID_CHARS: Final = 16


class BadReplyError(ValueError):
    """A reply that is not of the dialect it should be.

    Attributes:
        is_readable: If true, it is JSON or msgpack at all; else something stood between.
    """

    def __init__(self, message: str, *, is_readable: bool = True) -> None:
        super().__init__(message)
        self.is_readable = is_readable


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
        return pack(record), MSGPACK_TYPE
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
        record = unpack(body) if dialect == "gem" else json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "msgpack" if dialect == "gem" else "JSON"
        message = f"must be {kind}: {error}; got {body[:80]!r}"
        raise BadReplyError(message, is_readable=False) from error
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, list):
        raise BadReplyError(f"must be an object with a list 'result', got {shown(record)}")
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


def _read_list(entries: Any, where: str, top_k: int) -> list[ScoredPassage]:
    if not isinstance(entries, list):
        raise BadReplyError(f"{where} must be a list of passages, got {shown(entries)}")
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
        raise BadReplyError(f"{where}.score must be a number, got {shown(score)}")
    record = {"contents": document} if isinstance(document, str) else document
    if not isinstance(record, dict):
        raise BadReplyError(f"{where} must be a document, got {shown(document)}")
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


def shown(value: Any) -> str:
    """Type and beginning of a value, for a message."""
    return f"{type(value).__name__} {value!r:.60}"


def pack(record: Any) -> bytes:
    """A record as msgpack."""
    packed: bytes = _msgpack().packb(record, unicode_errors="surrogatepass")
    return packed


def unpack(body: bytes) -> Any:
    """A record from msgpack.

    Raises:
        ValueError: if the bytes are none.
    """
    msgpack = _msgpack()
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass")
    except msgpack.UnpackException as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


def _msgpack() -> Any:
    return import_extra("msgpack", "http", "the dialect gem")
