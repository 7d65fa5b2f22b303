"""HTTP calls that are repeated when they may help, and give up after a bounded time."""

from __future__ import annotations

import importlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from calibadv_env.errors import MissingDependencyError, RetrieverError

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What a server may answer now and not a moment later."""
_MAX_REPLY_BYTES: Final = 1 << 28
_MAX_RETRY_AFTER_S: Final = 60.0
_T = TypeVar("_T")
_Item = TypeVar("_Item")


class UnusableReplyError(Exception):
    """A reply of status 200 that something other than the server may have written.

    Raised by a caller's decoder to have the call repeated.
    """


class StatusError(Exception):
    """A reply whose status is not 200.

    Attributes:
        status: The status.
        retry_after_s: Seconds that the server asks to wait, None if it does not.
    """

    def __init__(self, status: int, text: str, retry_after_s: float | None) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status
        self.retry_after_s = retry_after_s


class CallError(RetrieverError):
    """A call that failed for good.

    Attributes:
        status: The status of the last reply; None if there was none, or it was 200.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How calls are made.

    Attributes:
        timeout_s: Most seconds for one attempt, from connecting to the last byte.
        max_retries: Attempts after the first.
        backoff_s: Pause before the first retry; doubled each time, then shortened by up to half
            at random so that clients do not come back in step.
        max_backoff_s: Longest pause, unless the server asks for a longer one.
        max_connections: Most connections of a process.
        max_concurrency: Most calls of a process at a time.
        seed: Seed of the pauses.
    """

    timeout_s: float = 30.0
    max_retries: int = 4
    backoff_s: float = 0.25
    max_backoff_s: float = 8.0
    max_connections: int = 16
    max_concurrency: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in ("timeout_s", "backoff_s", "max_backoff_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("max_connections", "max_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, got {self.max_retries}")


@dataclass(slots=True)
class _Process:
    """What belongs to one process and must not cross a fork."""

    client: Any
    executor: ThreadPoolExecutor
    slots: threading.BoundedSemaphore
    random: random.Random
    lock: threading.Lock = field(default_factory=threading.Lock)


class HttpSession:
    """Connections of the current process. After a fork the child opens its own.

    It pickles by its settings. Threads may share it.

    Args:
        settings: How calls are made.

    Raises:
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._httpx = _import_httpx()
        self.settings = settings
        self._processes: dict[int, _Process] = {}

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], decode: Callable[[bytes], _T]
    ) -> _T:
        """Sends a request until it is answered or the retries are used up.

        Args:
            url: Where to.
            body: What.
            headers: Beside those that httpx adds.
            decode: Reads the body of a reply; raises :class:`UnusableReplyError` to have the
                call repeated. Whatever else it raises goes to the caller.

        Returns:
            What ``decode`` made of the reply.

        Raises:
            CallError: if there was no reply that can be used; the last cause is chained.
        """
        attempts = self.settings.max_retries + 1
        for attempt in range(attempts):
            try:
                return decode(self._send("POST", url, body, headers, self.settings.timeout_s))
            except (StatusError, UnusableReplyError, self._httpx.HTTPError) as error:
                status = error.status if isinstance(error, StatusError) else None
                is_final = status is not None and status not in RETRIED_STATUSES
                if is_final or attempt + 1 == attempts:
                    times = "1 attempt" if attempt == 0 else f"{attempt + 1} attempts"
                    raise CallError(f"{url}: {_describe(error)} ({times})", status) from error
                time.sleep(self._pause_s(attempt, error))
            except self._httpx.InvalidURL as error:
                raise CallError(f"{url}: {_describe(error)}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def get(self, url: str, timeout_s: float | None = None) -> bytes:
        """Sends one GET request.

        Args:
            url: Where to.
            timeout_s: Most seconds; None takes that of the settings.

        Returns:
            The body of the reply.

        Raises:
            CallError: if there was no reply, or none of status 200.
        """
        try:
            return self._send("GET", url, b"", {}, timeout_s or self.settings.timeout_s)
        except (StatusError, self._httpx.HTTPError, self._httpx.InvalidURL) as error:
            status = error.status if isinstance(error, StatusError) else None
            raise CallError(f"{url}: {_describe(error)}", status) from error

    def map(self, function: Callable[[_Item], _T], items: Iterable[_Item]) -> list[_T]:
        """Applies a function to many items at a time, as far as the settings allow.

        Args:
            function: Makes calls of this session.
            items: Its arguments.

        Returns:
            What it gave, in order. The first exception is raised after the calls that run have
            ended; those that have not begun are dropped.
        """
        chosen = list(items)
        if len(chosen) == 1:
            return [function(chosen[0])]
        futures = [self._process().executor.submit(function, item) for item in chosen]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Closes the connections of this process. A later call opens new ones."""
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.executor.shutdown()
            process.client.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the settings alone."""
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"])  # type: ignore[misc]

    def _process(self) -> _Process:
        """Keyed by process id, so that a fork, at whatever moment, begins afresh."""
        pid = os.getpid()
        process = self._processes.get(pid)
        if process is None:
            mine = self._open(pid)
            process = self._processes.setdefault(pid, mine)
            if process is not mine:
                mine.client.close()
        return process

    def _open(self, pid: int) -> _Process:
        settings = self.settings
        limits = self._httpx.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_connections,
        )
        return _Process(
            client=self._httpx.Client(limits=limits, timeout=settings.timeout_s),
            executor=ThreadPoolExecutor(settings.max_concurrency, "calibadv-http"),
            slots=threading.BoundedSemaphore(settings.max_concurrency),
            random=random.Random(f"{settings.seed}:{pid}"),
        )

    def _send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> bytes:
        """One attempt. The timeout holds for the whole of it, however slowly bytes drip in."""
        process = self._process()
        with process.slots:
            deadline = time.monotonic() + timeout_s
            with process.client.stream(
                method, url, content=body, headers=dict(headers), timeout=timeout_s
            ) as reply:
                chunks = []
                size = 0
                for chunk in reply.iter_bytes():
                    chunks.append(chunk)
                    size += len(chunk)
                    if time.monotonic() > deadline:
                        raise self._httpx.ReadTimeout(f"no whole reply within {timeout_s} s")
                    if size > _MAX_REPLY_BYTES:
                        raise self._httpx.DecodingError(f"more than {_MAX_REPLY_BYTES:,} bytes")
                content = b"".join(chunks)
                if reply.status_code != 200:
                    text = content[:300].decode("utf-8", "replace")
                    pause = retry_after_s(reply.headers.get("retry-after"))
                    raise StatusError(reply.status_code, text, pause)
                return content

    def _pause_s(self, attempt: int, error: Exception) -> float:
        settings, process = self.settings, self._process()
        with process.lock:
            jitter = process.random.uniform(0.5, 1.0)
        pause = min(settings.backoff_s * 2.0**attempt, settings.max_backoff_s) * jitter
        asked = error.retry_after_s if isinstance(error, StatusError) else None
        return pause if asked is None else max(pause, min(asked, _MAX_RETRY_AFTER_S))


def retry_after_s(header: str | None) -> float | None:
    """Reads a Retry-After header.

    Args:
        header: Seconds or a date; None without one.

    Returns:
        Seconds from now, at least 0; None if there is none that can be read.
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _import_httpx() -> Any:
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise MissingDependencyError(
            "this needs the package httpx: pip install 'calibadv[http]'"
        ) from error
