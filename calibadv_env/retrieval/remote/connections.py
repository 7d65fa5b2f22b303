"""Bounds on connections of a search server: how long, how many, how many bytes.

uvicorn closes a connection that is idle between requests, and pauses one whose reply is not read.
It has no limit for a request that never becomes whole, for its headers, or for a client that never
reads. These are added here, on top of its protocol for httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias

from calibadv_env.common.checks import POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.retrieval.remote.asgi import PendingBytes
from calibadv_env.retrieval.remote.server_metrics import ServerMetrics

_SWEEP_S: Final = 0.5
_OWN_DESCRIPTORS: Final = 64
"""Kept free for the index, helpers and the event loop."""
_LEAST_CONNECTIONS: Final = 8
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: 37\r\n\r\n"
    b'{"error": "too many connections now"}'
)
_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: 34\r\n\r\n"
    b'{"error": "the head is too large"}'
)

Stage: TypeAlias = Literal["idle", "head", "body", "work", "reply", "closing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits(Checked):
    """Patience with clients, and how many there may be.

    Attributes:
        max_connections: Most connections; fewer where the process may open fewer files. One more
            takes the place of the one that has kept the server waiting longest.
        head_s: Seconds for the request line and the headers.
        body_s: Seconds for the body.
        idle_s: Seconds between requests of a connection.
        reply_s: Seconds for a client to read its reply.
        max_head_bytes: Longest request line with headers.
        max_pending_bytes: Most bytes of requests and replies that are held at a time; more are
            refused with 503.
    """

    max_connections: Annotated[int, POSITIVE] = 1024
    head_s: Annotated[float, POSITIVE] = 10.0
    body_s: Annotated[float, POSITIVE] = 30.0
    idle_s: Annotated[float, POSITIVE] = 30.0
    reply_s: Annotated[float, POSITIVE] = 60.0
    max_head_bytes: Annotated[int, POSITIVE] = 64 * 1024
    max_pending_bytes: Annotated[int, POSITIVE] = 128 * 1024 * 1024


class Connection(Protocol):
    """One connection, as the watch sees it.

    Attributes:
        since: When the client's part of the present stage began, by the loop's clock.
        mark: The stage in which the watch saw it last, and since when.
    """

    since: float
    mark: tuple[Stage, int, float] | None

    def stage(self) -> tuple[Stage, int]:
        """Its stage and the number of its request."""
        ...

    def drop(self) -> None:
        """Ends it at once; what was not sent is lost."""
        ...


class ConnectionWatch:
    """All connections of a server, with what is held for them.

    Attributes:
        limits: Its settings.
        pending: Bytes of requests and replies that are held.
        max_connections: Most connections that this process can have.

    Args:
        limits: Its settings.
        metrics: Where it is counted.
    """

    def __init__(self, limits: ConnectionLimits, metrics: ServerMetrics) -> None:
        self.limits = limits
        self.pending = PendingBytes(limits.max_pending_bytes)
        self.max_connections = _affordable(limits.max_connections)
        self.metrics = metrics
        self._open: dict[Connection, None] = {}
        self._seconds = {
            "head": limits.head_s,
            "body": limits.body_s,
            "reply": limits.reply_s,
            "closing": limits.reply_s,
        }

    def add(self, connection: Connection, now: float) -> bool:
        """Takes a new connection on; one that waits for its client gives way if need be.

        Returns:
            False if there is no room: every other one is being answered.
        """
        if len(self._open) >= self.max_connections:
            waiting = [one for one in self._open if one.stage()[0] in ("idle", "head", "body")]
            oldest = min(waiting, key=lambda one: one.since, default=None)
            self.metrics.dropped["full"] += 1
            if oldest is None:
                return False
            oldest.drop()
            self._open.pop(oldest, None)
        connection.since = now
        self._open[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        self._open.pop(connection, None)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    async def run(self) -> None:
        """Drops those that are too slow, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            for connection, stage in list(self._overdue(loop.time())):
                self.metrics.dropped[stage] += 1
                connection.drop()

    def _overdue(self, now: float) -> Iterator[tuple[Connection, Stage]]:
        """Connections that have been in one stage of one request for too long."""
        for connection in self._open:
            stage, number = connection.stage()
            most = self._seconds.get(stage)
            if most is None:
                connection.mark = None
                continue
            if connection.mark is None or connection.mark[:2] != (stage, number):
                began = connection.since if stage in ("head", "body") else now
                connection.mark = (stage, number, began)
            if now - connection.mark[2] > most:
                yield connection, stage


@dataclass(slots=True)
class _Message:
    """How far the request of a connection has come.

    Attributes:
        number: Of the request, from 1; 0 before the first.
        in_head: Whether its headers are still to come, or it is.
        is_open: Whether it has begun and is not whole.
        head_bytes: Bytes received since the headers began.
    """

    number: int = 0
    in_head: bool = True
    is_open: bool = False
    head_bytes: int = 0

    def begin(self) -> None:
        """Begins the next request."""
        self.in_head = self.is_open = True
        self.number += 1


def _stage(transport: Any, cycle: Any, message: _Message) -> Stage:
    """The stage of a connection, given uvicorn's transport and request."""
    if transport.is_closing():
        return "closing"
    is_answered = cycle is not None and not cycle.response_complete
    if (is_answered and cycle.response_started) or transport.get_write_buffer_size():
        return "reply"
    if message.in_head and (message.is_open or not message.number):
        return "head"
    if message.is_open:
        return "body"
    return "work" if is_answered else "idle"


def _refuse(transport: Any, reply: bytes) -> None:
    """Writes a last reply and closes."""
    transport.write(reply)
    transport.close()


def _staged_class() -> Any:
    """Uvicorn's HTTP protocol that knows its stage.

    Raises:
        MissingDependencyError: if uvicorn or httptools is not installed.
    """
    import_extra("httptools", "serve", "serving")
    base: Any = import_extra("uvicorn.protocols.http.httptools_impl", "serve", "serving")

    class StagedProtocol(base.HttpToolsProtocol):  # type: ignore[misc]
        """One connection of a client, as `Connection` says but for its end."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.since = 0.0
            self.mark: tuple[Stage, int, float] | None = None
            self.message = _Message()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.message.begin()
            self.since = self.loop.time()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self.message.in_head:  # else it stands behind the body, where nobody reads it
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self.message.in_head = False
            self.since = self.loop.time()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self.message.is_open = False
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self.since = self.loop.time()
            super().on_response_complete()

        def stage(self) -> tuple[Stage, int]:
            """Its stage and the number of its request."""
            return _stage(self.transport, self.cycle, self.message), self.message.number

    return StagedProtocol


def protocol_class(watch: ConnectionWatch) -> Any:
    """Uvicorn's HTTP protocol with the limits of a watch, for its setting ``http``.

    Raises:
        MissingDependencyError: if uvicorn or httptools is not installed.
    """

    class WatchedProtocol(_staged_class()):  # type: ignore[misc]
        """One connection of a client."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if not watch.add(self, self.loop.time()):
                _refuse(transport, _FULL)

        def connection_lost(self, exc: Exception | None) -> None:
            watch.remove(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            message = self.message
            message.head_bytes = message.head_bytes + len(data) if message.in_head else 0
            if message.head_bytes > watch.limits.max_head_bytes:
                message.head_bytes = 0
                watch.metrics.dropped["head"] += 1
                _refuse(self.transport, _TOO_LONG)

        def drop(self) -> None:
            """Ends it at once; what was not sent is lost."""
            self.transport.abort()

    return WatchedProtocol


@contextlib.asynccontextmanager
async def watching(watch: ConnectionWatch) -> Any:
    """Runs a watch beside a server."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _affordable(wanted: int) -> int:
    """As many connections as this process can open files for."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return wanted
    descriptors = Path("/proc/self/fd")
    taken = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    return max(_LEAST_CONNECTIONS, min(wanted, soft - taken - _OWN_DESCRIPTORS))
