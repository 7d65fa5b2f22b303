"""A search server: routes that answer every dialect of `remote.requests`.

============= ===============================================================================
route         answer
============= ===============================================================================
/retrieve     passages; 4xx with the reason, 500 if the search failed, 503 with Retry-After while
              the index is loading, when the queue is full and when too many bytes are held
/search       the same in the form of ReSearch, for one query
/batch_search the same for several
/open, /find  pages that are opened, and words found in them (`remote.page_requests`); 404 where
              the retriever has no corpus here
/health       200 as soon as the process runs
/ready        200 once the index is loaded, with what is served; 503 before
/metrics      counters for Prometheus
============= ===============================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final

from annotated_types import Interval

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.base import Retriever, retriever_identity
from calibadv_env.retrieval.pages import Pages, pages_of
from calibadv_env.retrieval.remote.access import Access, AccessRules
from calibadv_env.retrieval.remote.asgi import (
    BodyError,
    Receive,
    Reply,
    Send,
    failure,
    read_body,
    send_reply,
)
from calibadv_env.retrieval.remote.batcher import (
    BatchLimits,
    ExpiredError,
    QueueFullError,
    SearchBatcher,
)
from calibadv_env.retrieval.remote.connections import (
    ConnectionLimits,
    ConnectionWatch,
    protocol_class,
    watching,
)
from calibadv_env.retrieval.remote.page_requests import (
    PAGE_ROUTES,
    PageRoute,
    answer_page_request,
)
from calibadv_env.retrieval.remote.requests import (
    ROUTES,
    BadRequestError,
    RequestLimits,
    Results,
    Route,
    SearchRequest,
    encode_reply,
    parse_request,
)
from calibadv_env.retrieval.remote.server_logs import RepeatFilter
from calibadv_env.retrieval.remote.server_metrics import ServerMetrics
from calibadv_env.retrieval.remote.wire import JSON_TYPE

LoadRetriever = Callable[[], Retriever]

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_QUICK_BYTES: Final = 256 * 1024
"""A body up to this length is parsed where it is received: a change of thread would cost more."""
_QUICK_PASSAGES: Final = 256
"""A reply up to so many passages is written at once, for the same reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(Checked):
    """Address and limits of a server.

    Attributes:
        host: Address to listen on; the default is reached from this machine alone.
        port: Port; 0 takes a free one.
        batch: How requests are put together.
        limits: What a request may ask for.
        connections: Patience with clients, and how many there may be.
        access: Names that the server answers to, and its token.
        max_body_bytes: Longest request.
        grace_s: How long a stop waits for requests that run.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    batch: BatchLimits = field(default_factory=BatchLimits)
    limits: RequestLimits = field(default_factory=RequestLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    access: AccessRules = field(default_factory=AccessRules)
    max_body_bytes: Annotated[int, POSITIVE] = 32 * 1024 * 1024
    grace_s: Annotated[float, POSITIVE] = 30.0


class SearchService:
    """Replies of the routes, without the web framework.

    Args:
        load: Loads the index; called in a thread of its own, which then does all searches.
        config: What is taken.

    Raises:
        ValueError: if the variable that holds the token is not set.
    """

    def __init__(self, load: LoadRetriever, config: ServerConfig) -> None:
        self.config = config
        self.metrics = ServerMetrics()
        self.access = Access(config.access, config.host)
        self.watch = ConnectionWatch(config.connections, self.metrics)
        self.load_error: BaseException | None = None
        self._load = load
        self._identity: dict[str, Any] | None = None
        self._batcher: SearchBatcher | None = None
        self._pages: Pages | None = None
        self._executor = ThreadPoolExecutor(1, "calibadv-search")

    @property
    def is_ready(self) -> bool:
        """True once the index is loaded."""
        return self._batcher is not None

    async def run(self, on_failure: Callable[[], None]) -> None:
        """Loads the index, then searches until it is cancelled.

        Args:
            on_failure: Called if the index could not be loaded; ``load_error`` says why.
        """
        executor = self._executor
        try:
            loading = asyncio.get_running_loop().run_in_executor(executor, self._load_and_identify)
            await asyncio.wait((loading,))
            self.load_error = loading.exception()
            if self.load_error is not None:
                on_failure()
                return
            retriever, self._identity = loading.result()
            self._pages = pages_of(retriever)
            batcher = SearchBatcher(retriever, executor, self.config.batch, self.metrics)
            self._batcher = batcher
            try:
                await batcher.run()
            finally:
                self._batcher = None
                batcher.fail_all(QueueFullError("the server is stopping", 1))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    async def retrieve(
        self, body: bytes, content_type: str | None, route: Route | PageRoute = "/retrieve"
    ) -> Reply:
        """Answers a request, given as bytes and the header's content type, whatever happens."""
        started = time.monotonic()
        try:
            if route == "/open" or route == "/find":
                reply = await self._turn_page(body, route)
            else:
                reply = await self._retrieve(body, content_type, route)
        except BadRequestError as error:
            reply = failure(error.status, str(error))
        self.count(reply, started)
        return reply

    def count(self, reply: Reply, started: float) -> None:
        """Counts a reply that was begun at a time of the monotonic clock."""
        self.metrics.requests[reply.status] += 1
        if reply.status == 200:
            self.metrics.latency_s.add(time.monotonic() - started)

    def ready(self) -> Reply:
        """Facts of the index and limits of requests; 503 while the index is loading."""
        if not self.is_ready:
            return failure(503, "the index is loading", retry_after_s=1)
        limits = self.config.limits
        record = {
            "status": "ready",
            "identity": self._identity,
            "default_top_k": limits.default_top_k,
            "max_top_k": limits.max_top_k,
            "max_queries": limits.max_queries,
            "max_query_chars": limits.max_query_chars,
            "max_passages": limits.max_passages,
            "max_connections": self.watch.max_connections,
        }
        return Reply(200, json.dumps(record).encode(), JSON_TYPE)

    def metrics_text(self) -> str:
        """The metrics in the format of Prometheus."""
        length = 0 if self._batcher is None else self._batcher.queue_length
        return self.metrics.text(
            is_ready=self.is_ready,
            queue_length=length,
            connections=len(self.watch),
            pending_bytes=self.watch.pending.held,
        )

    def _load_and_identify(self) -> tuple[Retriever, dict[str, Any] | None]:
        retriever = self._load()
        try:
            return retriever, retriever_identity(retriever)
        except ValueError:
            return retriever, None  # it can be searched all the same, but not recorded

    async def _retrieve(self, body: bytes, content_type: str | None, route: Route) -> Reply:
        if self._batcher is None:
            return failure(503, "the index is loading", retry_after_s=1)
        parse = partial(parse_request, body, content_type, self.config.limits, route)
        request = parse() if len(body) <= _QUICK_BYTES else await self._aside(parse)
        if self._batcher is None:
            return failure(503, "the server is stopping", retry_after_s=1)
        self.metrics.ignore(request.ignored)
        answer = await self._batcher.ask(request.queries, request.top_k)
        if isinstance(answer, QueueFullError):
            return failure(503, str(answer), retry_after_s=answer.retry_after_s)
        if isinstance(answer, ExpiredError):
            return failure(504, str(answer))
        if isinstance(answer, BaseException):
            return failure(500, f"the search failed: {type(answer).__name__}: {answer}")
        return await self._encode(request, answer)

    async def _turn_page(self, body: bytes, route: PageRoute) -> Reply:
        """Answers an open or a find, in the thread that searches."""
        if self._batcher is None:
            return failure(503, "the index is loading", retry_after_s=1)
        if self._pages is None:
            return failure(404, "what is served has no corpus on this machine, so no pages to open")
        answer = partial(answer_page_request, body, route, self._pages, self.config.limits)
        try:
            record = await self._aside(answer)
        except RetrieverError as error:
            return failure(500, f"the pages could not be read: {error}")
        return Reply(
            200, json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"), JSON_TYPE
        )

    async def _encode(self, request: SearchRequest, answer: Results) -> Reply:
        encode = partial(encode_reply, request, answer, self.config.limits.max_reply_bytes)
        is_quick = sum(map(len, answer)) <= _QUICK_PASSAGES
        try:
            reply, media_type = encode() if is_quick else await self._aside(encode)
        except BadRequestError:
            raise
        except ValueError as unwritable:
            return failure(500, f"the passages cannot be written: {unwritable}")
        return Reply(200, reply, media_type)

    async def _aside(self, function: Callable[[], Any]) -> Any:
        """Does what takes long in the thread that searches, so that other requests are answered.

        As it has one thread, few long replies are held at a time.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function)
        except RuntimeError as error:  # the executor is shut down
            raise BadRequestError(f"the server is stopping: {error}", 503) from error


def create_app(
    load: LoadRetriever,
    config: ServerConfig | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> Any:
    """Makes the web application, for any ASGI server. It must run in one process.

    Args:
        load: Loads the index, after the application has started.
        config: What is taken.
        on_failure: Called if the index could not be loaded.

    Returns:
        A FastAPI application; ``app.state.service`` is its :class:`SearchService`.

    Raises:
        MissingDependencyError: if fastapi is not installed.
    """
    fastapi = import_extra("fastapi", "serve", "serving")
    service = SearchService(load, config or ServerConfig())

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        worker = asyncio.create_task(service.run(on_failure))
        async with watching(service.watch):
            yield
        worker.cancel()
        await asyncio.wait((worker,))

    class Application(fastapi.FastAPI):  # type: ignore[misc, name-defined]
        """Answers searches itself: the web framework would cost more than many a search."""

        async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await super().__call__(scope, receive, send)
                return
            headers = dict(scope["headers"])
            refusal = service.access.refusal(scope["path"], headers)
            if refusal is not None:
                service.metrics.refused[refusal.status] += 1
                is_unknown = refusal.status == 401
                more = ((b"www-authenticate", b"Bearer"),) if is_unknown else ()
                await send_reply(send, refusal, (b"connection", b"close"), *more)
            elif scope["path"] in (*ROUTES, *PAGE_ROUTES):
                await _retrieve(service, scope, headers, receive, send)
            else:
                await super().__call__(scope, receive, send)

    app = Application(
        title="calibadv search", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.service = service

    for path, reply_of in (
        ("/health", lambda: Reply(200, b'{"status": "alive"}', JSON_TYPE)),
        ("/ready", service.ready),
        ("/metrics", lambda: Reply(200, service.metrics_text().encode(), _METRICS_TYPE)),
    ):
        app.add_route(path, _get_route(fastapi, reply_of), methods=["GET"])
    return app


def run_server(
    load: LoadRetriever,
    config: ServerConfig | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves until SIGINT or SIGTERM: then takes no more requests and answers those it has.

    Args:
        load: Loads the index.
        config: Where to listen and what is taken.
        announce: Is told the address once the port is open; the index may still be loading.

    Raises:
        OSError: if the port is taken.
        MissingDependencyError: if fastapi or uvicorn is not installed.
        BaseException: whatever ``load`` raised.
    """
    config = config or ServerConfig()
    uvicorn = import_extra("uvicorn", "serve", "serving")

    def stop() -> None:
        server.should_exit = True

    app = create_app(load, config, stop)
    settings = uvicorn.Config(
        app,
        http=protocol_class(app.state.service.watch),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=config.connections.idle_s,
        timeout_graceful_shutdown=max(1, round(config.grace_s)),
        backlog=2048,
    )
    logging.getLogger("uvicorn.error").addFilter(RepeatFilter())
    server = uvicorn.Server(settings)
    with open_port(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        server.run(sockets=[listener])
    if app.state.service.load_error is not None:
        raise app.state.service.load_error


def open_port(host: str, port: int) -> socket.socket:
    """Socket that listens on a port (0: a free one) of an address or name of this machine.

    Raises:
        OSError: if the port is taken or the address is not of this machine, naming both.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {error}") from error


async def _retrieve(
    service: SearchService,
    scope: Any,
    headers: dict[bytes, bytes],
    receive: Receive,
    send: Send,
) -> None:
    """One search, in the terms of ASGI."""
    started = time.monotonic()
    if scope["method"] != "POST":
        reply = failure(405, f"the method must be POST, got {scope['method']}")
        await send_reply(send, reply, (b"allow", b"POST"))
        return
    pending = service.watch.pending
    length = headers.get(b"content-length", b"")
    try:
        body = await read_body(receive, length, service.config.max_body_bytes, pending)
    except BodyError as error:
        service.count(error.reply, started)
        await send_reply(send, error.reply)
        return
    size = len(body)
    try:
        content_type = headers.get(b"content-type")
        kind = content_type.decode("latin-1") if content_type else None
        reply = await service.retrieve(body, kind, scope["path"])
        pending.force(len(reply.body))
        size += len(reply.body)
        await send_reply(send, reply)
    finally:
        pending.give(size)


def _get_route(fastapi: Any, reply_of: Callable[[], Reply]) -> Any:
    """A route of the web framework that gives a reply."""

    async def respond(_: Any) -> Any:
        reply = reply_of()
        pause = reply.retry_after_s
        headers = None if pause is None else {"retry-after": str(pause)}
        return fastapi.Response(
            reply.body, reply.status, media_type=reply.media_type, headers=headers
        )

    return respond
