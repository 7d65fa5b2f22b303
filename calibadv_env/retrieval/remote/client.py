"""Retriever over a search server, in whichever of the four dialects it speaks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from calibadv_env.common.checks import require_not_negative, require_positive
from calibadv_env.common.http import (
    CallError,
    HttpClient,
    HttpSettings,
    UnusableReplyError,
    bearer,
    require_http,
)
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import check_search
from calibadv_env.retrieval.remote.specs import read_spec
from calibadv_env.retrieval.remote.wire import (
    BATCH_DIALECTS,
    DIALECTS,
    MAX_PASSAGES,
    BadReplyError,
    Dialect,
    decode_reply,
    encode_request,
)

DialectOrAuto: TypeAlias = Literal["auto", "search_r1", "rerank", "skyrl", "gem"]

_PROBED: Final[tuple[Dialect, ...]] = ("search_r1", "skyrl", "rerank", "gem")
"""The order in which dialects are tried."""
_OTHER_DIALECT: Final = frozenset({400, 415, 422, 500})
"""Statuses with which servers answer a request in a dialect that they do not know."""
_MAX_CHARS_PER_REQUEST: Final = 4_000_000
_POLL_S: Final = 0.1
_OPTIONS: Final[Mapping[str, type]] = {
    "dialect": str,
    "timeout_s": float,
    "max_retries": int,
    "backoff_s": float,
    "max_backoff_s": float,
    "max_connections": int,
    "max_concurrency": int,
    "ready_timeout_s": float,
    "max_queries_per_request": int,
    "num_candidates": int,
    "token_variable": str,
    "seed": int,
}


class HttpRetriever:
    """Client of a search server.

    A failure is an exception, never a passage: a server that is down, too slow, or answers
    something else than passages raises :class:`RetrieverError` from its cause. What may pass
    (no connection, a timeout, a reply that cannot be read, or a status among
    :data:`~calibadv_env.common.http.RETRIED_STATUSES`) is tried again, after a pause that grows
    and that the server may lengthen with Retry-After; anything else is raised at once. One attempt
    takes ``timeout_s`` at most.

    Connections belong to a process and are opened at the first search, so it can be pickled, be
    inherited by a fork and be shared by threads.

    Args:
        url: The server, ``http://host:port`` for its route ``/retrieve``, or the whole address.
        dialect: What the server speaks; see :mod:`calibadv_env.retrieval.remote.wire`. "auto"
            tries one after the other at the first search of a process.
        timeout_s: Most seconds for one attempt.
        max_retries: Attempts after the first.
        backoff_s: Pause before the first retry; it doubles, with jitter.
        max_backoff_s: Longest such pause.
        max_connections: Most connections of a process.
        max_concurrency: Most requests of a process at a time.
        ready_timeout_s: Seconds that the first search waits for a server that is not there or
            says that it is not ready; 0 does not wait.
        max_queries_per_request: Longer batches are sent in parts, side by side.
        num_candidates: What a rerank server is told to choose from.
        token_variable: Environment variable with a token for the server, read at each call and
            stored nowhere; empty sends none.
        seed: Seed of the jitter.

    Raises:
        ValueError: if an argument is out of its range.
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        dialect: DialectOrAuto = "auto",
        timeout_s: float = 30.0,
        max_retries: int = 4,
        backoff_s: float = 0.25,
        max_backoff_s: float = 8.0,
        max_connections: int = 16,
        max_concurrency: int = 16,
        ready_timeout_s: float = 0.0,
        max_queries_per_request: int = 256,
        num_candidates: int = 10,
        token_variable: str = "",
        seed: int = 0,
    ) -> None:
        if dialect != "auto" and dialect not in DIALECTS:
            known = ", ".join(("auto", *DIALECTS))
            raise ValueError(f"dialect must be one of {known}, got {dialect!r}")
        require_positive(
            max_queries_per_request=max_queries_per_request, num_candidates=num_candidates
        )
        require_not_negative(ready_timeout_s=ready_timeout_s)
        self.url = _retrieve_url(url)
        self.dialect = dialect
        self.ready_timeout_s = ready_timeout_s
        self.max_queries_per_request = max_queries_per_request
        self.num_candidates = num_candidates
        self.token_variable = token_variable
        settings = HttpSettings(
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            max_backoff_s=max_backoff_s,
            max_connections=max_connections,
            max_concurrency=max_concurrency,
            seed=seed,
        )
        self._http = HttpClient(settings)
        self._spoken: Dialect | None = None if dialect == "auto" else dialect
        self._is_awaited = ready_timeout_s == 0

    @classmethod
    def from_spec(cls, spec: str) -> HttpRetriever:
        """Makes a retriever from one string.

        Args:
            spec: An address, with settings behind ``#`` if need be:
                ``http://host:8000#dialect=gem&timeout_s=5``.

        Raises:
            ValueError: if a setting is unknown or cannot be read.
        """
        url, options = read_spec(spec, _OPTIONS)
        return cls(url, **options)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Passages as the server ranks them; see :class:`calibadv_env.retrieval.base.Retriever`.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if the server could not be reached or its answer is no answer.
        """
        check_search(queries, top_k)
        if not queries:
            return []
        if not self._is_awaited:
            self.wait_until_ready(self.ready_timeout_s)
        try:
            if self._spoken is None:
                self._spoken = self._find_dialect(queries[0], top_k)
            most = min(self.max_queries_per_request, max(1, MAX_PASSAGES // top_k))
            size = most if self._spoken in BATCH_DIALECTS else 1
            ask = partial(self._ask, self._spoken, top_k)
            answers = self._http.map(ask, split_batch(queries, size, _MAX_CHARS_PER_REQUEST))
        except CallError as error:
            raise RetrieverError(str(error)) from error.__cause__
        return [found for answer in answers for found in answer]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for the server.

        Asks its route ``/ready``. A server without that route is ready when it answers at all.

        Args:
            timeout_s: Most seconds to wait.

        Raises:
            RetrieverError: if it was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._get_ready(timeout_s=min(5.0, timeout_s or 5.0))
                break
            except CallError as error:
                if error.status in (404, 405):
                    break
                if time.monotonic() >= deadline:
                    raise RetrieverError(
                        f"the server was not ready within {timeout_s} s: {error}"
                    ) from error
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        self._is_awaited = True

    def identity(self) -> dict[str, Any]:
        """Corpus and settings of a server of ours, as it tells them; the address of another server.

        Raises:
            RetrieverError: if the server does not answer.
        """
        if not self._is_awaited:
            self.wait_until_ready(self.ready_timeout_s)
        try:
            record = json.loads(self._get_ready())
        except CallError as error:
            if error.status not in (404, 405):
                raise RetrieverError(str(error)) from error.__cause__
            record = None
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("identity"), dict):
            identity: dict[str, Any] = record["identity"]
            return identity
        if isinstance(record, dict) and "identity" in record:
            raise RetrieverError(
                f"{self.url}: the retriever behind the server has no method identity(), so its "
                "answers cannot be recorded or cached; define one there"
            )
        return {"kind": "HttpRetriever", "url": self.url, "dialect": self.dialect}

    def close(self) -> None:
        """Closes the connections of this process."""
        self._http.close()

    def __repr__(self) -> str:
        """Names the server."""
        return f"HttpRetriever({self.url!r}, dialect={self.dialect!r})"

    def _ask(
        self, dialect: Dialect, top_k: int, queries: Sequence[str], *, is_probe: bool = False
    ) -> list[list[ScoredPassage]]:
        body, content_type = encode_request(dialect, queries, top_k, self.num_candidates)

        def decode(reply: bytes) -> list[list[ScoredPassage]]:
            try:
                return decode_reply(dialect, reply, len(queries), top_k, is_probe=is_probe)
            except BadReplyError as error:
                if error.is_readable:
                    raise
                raise UnusableReplyError(f"the reply {error}") from error

        headers = {"content-type": content_type, "accept": content_type, **self._token()}
        try:
            return self._http.post(self.url, body, headers, decode)
        except BadReplyError as error:
            raise RetrieverError(
                f"{self.url}: the reply is not one of dialect {dialect!r}: {error}"
            ) from error

    def _find_dialect(self, query: str, top_k: int) -> Dialect:
        """Asks in one dialect after the other until a reply can be read."""
        causes: list[str] = []
        last: Exception | None = None
        for dialect in _PROBED:
            try:
                self._ask(dialect, top_k, [query], is_probe=True)
            except CallError as error:
                is_other = error.status is None and isinstance(error.__cause__, UnusableReplyError)
                if not is_other and error.status not in _OTHER_DIALECT:
                    raise
                last = error
            except RetrieverError as error:
                last = error
            else:
                return dialect
            causes.append(f"{dialect}: {last}")
        raise RetrieverError(
            f"{self.url} speaks none of the dialects; " + "; ".join(causes)
        ) from last

    def _get_ready(self, timeout_s: float | None = None) -> bytes:
        """The body of the route ``/ready``, which stands beside the route that is asked."""
        parts = urlsplit(self.url)
        folder = parts.path.rpartition("/")[0]
        url = urlunsplit(parts._replace(path=f"{folder}/ready", query=""))
        return self._http.get(url, timeout_s, self._token())

    def _token(self) -> dict[str, str]:
        return bearer(self.token_variable) if self.token_variable else {}


def split_batch(queries: Sequence[str], max_queries: int, max_chars: int) -> list[list[str]]:
    """Cuts a batch into requests, in order.

    Args:
        queries: The batch.
        max_queries: Most queries of a request.
        max_chars: Most characters of a request, unless a single query is longer.
    """
    parts: list[list[str]] = []
    size = 0
    for query in queries:
        if not parts or len(parts[-1]) == max_queries or size + len(query) > max_chars:
            parts.append([])
            size = 0
        parts[-1].append(query)
        size += len(query)
    return parts


def _retrieve_url(url: str) -> str:
    require_http(url=url)
    parts = urlsplit(url)
    if not parts.netloc:
        raise ValueError(f"url must name a host, got {url!r}")
    return urlunsplit(parts._replace(path="/retrieve")) if parts.path in ("", "/") else url
