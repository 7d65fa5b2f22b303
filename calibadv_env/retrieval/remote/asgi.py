"""Requests and replies of the search server, in the terms of ASGI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from calibadv_env.retrieval.remote.wire import JSON_TYPE

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

_PIECE: Final = 256 * 1024
_READ_FACTOR: Final = 4
"""A body up to so many times too long is read before it is refused."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to be sent.

    Attributes:
        status: The HTTP status.
        body: The bytes.
        media_type: What they are.
        retry_after_s: When to ask again, None if it is of no use.
    """

    status: int
    body: bytes
    media_type: str
    retry_after_s: int | None = None


def failure(status: int, message: str, retry_after_s: int | None = None) -> Reply:
    """A reply that says what went wrong, and after how many seconds to ask again."""
    body = json.dumps({"error": message}).encode("ascii")
    return Reply(status, body, JSON_TYPE, retry_after_s)


class PendingBytes:
    """Counts the bytes of requests and replies that a server holds, up to a bound.

    Args:
        most: The bound.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Counts so many more bytes; False, and nothing is counted, if that is over the bound."""
        if self.held + size > self.most:
            return False
        self.held += size
        return True

    def force(self, size: int) -> None:
        """Counts bytes that are there already, such as a reply; new requests then have to wait."""
        self.held += size

    def give(self, size: int) -> None:
        """Counts so many bytes less."""
        self.held -= size


async def send_reply(send: Send, reply: Reply, *headers: tuple[bytes, bytes]) -> None:
    """Sends a reply, with more headers if need be, in the terms of ASGI.

    A long body goes piece by piece, each when the client has taken most of the one before.
    """
    pause = reply.retry_after_s
    body = reply.body
    start = {
        "type": "http.response.start",
        "status": reply.status,
        "headers": [
            (b"content-type", reply.media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            *([] if pause is None else [(b"retry-after", str(pause).encode())]),
            *headers,
        ],
    }
    await send(start)
    for begin in range(0, len(body) - _PIECE, _PIECE):
        piece = body[begin : begin + _PIECE]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    last = (len(body) - 1) // _PIECE * _PIECE if len(body) > _PIECE else 0
    await send({"type": "http.response.body", "body": body[last:] if last else body})


class BodyError(Exception):
    """A body that is not taken; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


async def read_body(
    receive: Receive, length: bytes, max_bytes: int, pending: PendingBytes
) -> bytes:
    """Reads the body of a request, and keeps no more of it than is allowed.

    A body that is too long is read to its end nevertheless, as long as that is near: a client
    that is cut off while it sends does not get to see the reply.

    Args:
        receive: Gives the next part, as ASGI has it.
        length: What the header says; may be empty.
        max_bytes: Most bytes.
        pending: Counts the bytes that are kept; the caller gives those of the result back.

    Returns:
        The body. What came of one that the client broke off is no whole request, and its reply
        goes nowhere.

    Raises:
        BodyError: if it is longer, or the server holds too much already.
    """

    def too_long() -> Reply:
        return failure(413, f"the body must have at most {max_bytes:,} bytes")

    if length.isdigit() and int(length) > _READ_FACTOR * max_bytes:
        raise BodyError(too_long())
    chunks: list[bytes] = []
    size = kept = 0
    refusal: Reply | None = None
    is_more = True
    try:
        while is_more:
            part = await receive()
            chunk = part.get("body", b"")
            is_more = part.get("more_body", False)
            size += len(chunk)
            if size > _READ_FACTOR * max_bytes:
                raise BodyError(too_long())
            if size > max_bytes:
                refusal = too_long()
            elif refusal is None and not pending.take(len(chunk)):
                refusal = failure(503, "the server holds too many requests", retry_after_s=1)
            if refusal is None:
                kept += len(chunk)
                chunks.append(chunk)
            else:
                chunks.clear()
                pending.give(kept)
                kept = 0
        if refusal is not None:
            raise BodyError(refusal)
        kept = 0
        return b"".join(chunks)
    finally:
        pending.give(kept)
