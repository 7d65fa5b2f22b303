"""Requests and replies of the search server, in the terms of ASGI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from calibadv_env.retrieval.remote.wire import JSON_TYPE

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

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


async def send_reply(send: Send, reply: Reply, *headers: tuple[bytes, bytes]) -> None:
    """Sends a reply, with more headers if need be, in the terms of ASGI."""
    pause = reply.retry_after_s
    start = {
        "type": "http.response.start",
        "status": reply.status,
        "headers": [
            (b"content-type", reply.media_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *([] if pause is None else [(b"retry-after", str(pause).encode())]),
            *headers,
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": reply.body})


async def read_body(receive: Receive, length: bytes, max_bytes: int) -> bytes | None:
    """Reads the body of a request, and keeps no more of it than is allowed.

    A body that is too long is read to its end nevertheless, as long as that is near: a client
    that is cut off while it sends does not get to see the reply.

    Args:
        receive: Gives the next part, as ASGI has it.
        length: What the header says; may be empty.
        max_bytes: Most bytes.

    Returns:
        The body, None if it is longer. What came of one that the client broke off is no whole
        request, and its reply goes nowhere.
    """
    if length.isdigit() and int(length) > _READ_FACTOR * max_bytes:
        return None
    chunks: list[bytes] = []
    size = 0
    is_more = True
    while is_more:
        part = await receive()
        chunk = part.get("body", b"")
        is_more = part.get("more_body", False)
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        elif size > _READ_FACTOR * max_bytes:
            return None
        else:
            chunks.clear()
    return b"".join(chunks) if size <= max_bytes else None
