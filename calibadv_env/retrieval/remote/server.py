"""A search server: one route that answers every dialect of `remote.wire`.

=========== =================================================================================
route       answer
=========== =================================================================================
/retrieve   passages; 4xx with the reason, 500 if the search failed, 503 with Retry-After while
            the index is loading and when the queue is full
/health     200 as soon as the process runs
/ready      200 once the index is loaded, with what is served; 503 before
/metrics    counters for Prometheus
=========== =================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.retrieval.base import Retriever, retriever_identity
from calibadv_env.retrieval.remote.asgi import Receive, Reply, Send, failure, read_body, send_reply
from calibadv_env.retrieval.remote.batcher import (
    BatchLimits,
    ExpiredError,
    QueueFullError,
    SearchBatcher,
)
from calibadv_env.retrieval.remote.server_metrics import ServerMetrics
from calibadv_env.retrieval.remote.wire import (
    JSON_TYPE,
    BadRequestError,
    RequestLimits,
    encode_reply,
    parse_request,
)

LoadRetriever = Callable[[], Retriever]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(Checked):
    """Address and limits of a server.

    Attributes:
        host: Address to listen on; the default is reached from this machine alone.
        port: Port; 0 takes a free one.
        batch: How requests are put together.
        limits: What a request may ask for.
        max_body_bytes: Longest request.
        grace_s: How long a stop waits for requests that run.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    batch: BatchLimits = field(default_factory=BatchLimits)
    limits: RequestLimits = field(default_factory=RequestLimits)
    max_body_bytes: Annotated[int, POSITIVE] = 32 * 1024 * 1024
    grace_s: Annotated[float, POSITIVE] = 30.0


class SearchService:
    """Replies of the routes, without the web framework.

    Args:
        load: Loads the index; called in a thread of its own, which then does all searches.
        config: What is taken.
    """

    def __init__(self, load: LoadRetriever, config: ServerConfig) -> None:
        self.config = config
        self.metrics = ServerMetrics()
        self.load_error: BaseException | None = None
        self._load = load
        self._identity: dict[str, Any] | None = None
        self._batcher: SearchBatcher | None = None

    @property
    def is_ready(self) -> bool:
        """True once the index is loaded."""
        return self._batcher is not None

    async def run(self, on_failure: Callable[[], None]) -> None:
        """Loads the index, then searches until it is cancelled.

        Args:
            on_failure: Called if the index could not be loaded; ``load_error`` says why.
        """
        executor = ThreadPoolExecutor(1, "calibadv-search")
        try:
            loading = asyncio.get_running_loop().run_in_executor(executor, self._load_and_identify)
            await asyncio.wait((loading,))
            self.load_error = loading.exception()
            if self.load_error is not None:
                on_failure()
                return
            retriever, self._identity = loading.result()
            batcher = SearchBatcher(retriever, executor, self.config.batch, self.metrics)
            self._batcher = batcher
            try:
                await batcher.run()
            finally:
                self._batcher = None
                batcher.fail_all(QueueFullError("the server is stopping", 1))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    async def retrieve(self, body: bytes, content_type: str | None) -> Reply:
        """Answers a request, given as bytes and the header's content type, whatever happens."""
        started = time.monotonic()
        reply = await self._retrieve(body, content_type)
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
        }
        return Reply(200, json.dumps(record).encode(), JSON_TYPE)

    def metrics_text(self) -> str:
        """The metrics in the format of Prometheus."""
        length = 0 if self._batcher is None else self._batcher.queue_length
        return self.metrics.text(is_ready=self.is_ready, queue_length=length)

    def _load_and_identify(self) -> tuple[Retriever, dict[str, Any] | None]:
        retriever = self._load()
        try:
            return retriever, retriever_identity(retriever)
        except ValueError:
            return retriever, None  # it can be searched all the same, but not recorded

    async def _retrieve(self, body: bytes, content_type: str | None) -> Reply:
        if self._batcher is None:
            return failure(503, "the index is loading", retry_after_s=1)
        try:
            request = parse_request(body, content_type, self.config.limits)
        except BadRequestError as error:
            return failure(error.status, str(error))
        answer = await self._batcher.ask(request.queries, request.top_k)
        if isinstance(answer, QueueFullError):
            return failure(503, str(answer), retry_after_s=answer.retry_after_s)
        if isinstance(answer, ExpiredError):
            return failure(504, str(answer))
        if isinstance(answer, BaseException):
            return failure(500, f"the search failed: {type(answer).__name__}: {answer}")
        try:
            reply, media_type = encode_reply(request, answer)
        except ValueError as unwritable:
            return failure(500, f"the passages cannot be written: {unwritable}")
        return Reply(200, reply, media_type)


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
        yield
        worker.cancel()
        await asyncio.wait((worker,))

    class Application(fastapi.FastAPI):  # type: ignore[misc, name-defined]
        """Answers /retrieve itself: the web framework would cost more than many a search."""

        async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/retrieve":
                await _retrieve(service, scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    app = Application(
        title="calibadv search", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.service = service

    async def health(_: Any) -> Any:
        return _respond(fastapi, Reply(200, b'{"status": "alive"}', JSON_TYPE))

    async def ready(_: Any) -> Any:
        return _respond(fastapi, service.ready())

    async def metrics(_: Any) -> Any:
        text = service.metrics_text().encode()
        return _respond(fastapi, Reply(200, text, "text/plain; version=0.0.4; charset=utf-8"))

    app.add_route("/health", health, methods=["GET"])
    app.add_route("/ready", ready, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
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
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(config.grace_s)),
        backlog=2048,
    )
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


async def _retrieve(service: SearchService, scope: Any, receive: Receive, send: Send) -> None:
    """One request to /retrieve, in the terms of ASGI."""
    started = time.monotonic()
    if scope["method"] != "POST":
        reply = failure(405, f"the method must be POST, got {scope['method']}")
        await send_reply(send, reply, (b"allow", b"POST"))
        return
    max_bytes = service.config.max_body_bytes
    headers = dict(scope["headers"])
    body = await read_body(receive, headers.get(b"content-length", b""), max_bytes)
    if body is None:
        reply = failure(413, f"the body must have at most {max_bytes:,} bytes")
        service.count(reply, started)
    else:
        content_type = headers.get(b"content-type")
        reply = await service.retrieve(body, content_type and content_type.decode("latin-1"))
    await send_reply(send, reply)


def _respond(fastapi: Any, reply: Reply) -> Any:
    pause = reply.retry_after_s
    headers = None if pause is None else {"retry-after": str(pause)}
    return fastapi.Response(reply.body, reply.status, media_type=reply.media_type, headers=headers)
