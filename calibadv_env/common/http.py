"""HTTP calls with bounded patience: timeouts, retries with backoff, several calls at a time.

The transport is httpx (the extra ``http``), imported when a client is made. The loop over attempts
is our own: what may be repeated depends on how the reply reads, not on its status alone, and a
call that waits for its next attempt gives up once another of the same batch has failed. Requests
to this machine never take a proxy; others take the one that the environment names.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Annotated, Any, Final, Self, TypeVar

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.extras import import_extra
from calibadv_env.common.proxies import is_local, proxy_of
from calibadv_env.errors import MissingDependencyError

RETRIED_STATUSES: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Refusals of a server that may pass."""

_MAX_REPLY_BYTES: Final = 1 << 28
_MAX_RETRY_AFTER_S: Final = 60.0
_SHOWN_CHARS: Final = 300

Result = TypeVar("Result")
Item = TypeVar("Item")


class UnusableReplyError(Exception):
    """A reply of status 200 that something other than the server may have written.

    Raised by the reader of a reply to have the call repeated.
    """


class StatusError(Exception):
    """A reply whose status is not 200.

    Attributes:
        status: The status.
        text: The body, without the caller's key.
        retry_after_s: Seconds that the server asks to wait, None if it does not.
    """

    def __init__(self, status: int, text: str, retry_after_s: float | None) -> None:
        super().__init__(f"status {status}: {text[:_SHOWN_CHARS]}")
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


class CallError(Exception):
    """A call that failed for good; the cause of the last attempt is chained.

    Attributes:
        status: The status of the last reply; None if there was none, or it was 200.
        text: The body of the last reply if its status was not 200.
    """

    def __init__(self, message: str, status: int | None = None, text: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(Checked):
    """Patience and concurrency of calls."""

    timeout_s: Annotated[float, POSITIVE] = 30.0
    """Most seconds of one attempt, from connecting to the last byte."""
    max_retries: Annotated[int, NOT_NEGATIVE] = 4
    """Attempts after the first; faults that a retry cannot mend are not retried."""
    backoff_s: Annotated[float, NOT_NEGATIVE] = 0.25
    """Pause before the first retry; doubled each time, then shortened by up to half at random, so
    that clients do not come back in step."""
    max_backoff_s: Annotated[float, POSITIVE] = 8.0
    """Longest such pause; a server may ask for up to 60 s."""
    max_concurrency: Annotated[int, POSITIVE] = 16
    """Most calls of a process at a time."""
    max_connections: Annotated[int, POSITIVE] | None = None
    """Most connections of a process; None means as many as calls at a time."""
    seed: int = 0
    """Seed of the pauses."""


@dataclass(slots=True)
class _Process:
    """Resources of one process, which must not cross a fork."""

    executor: ThreadPoolExecutor
    slots: threading.BoundedSemaphore
    random: random.Random
    lock: threading.Lock = field(default_factory=threading.Lock)
    clients: dict[bool, Any] = field(default_factory=dict)
    """Transports by whether they go straight, past every proxy."""


class HttpClient:
    """HTTP client of the current process. After a fork the child opens its own connections.

    It pickles by its settings. Threads may share it.

    Args:
        settings: Patience and concurrency.

    Raises:
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._httpx = import_extra("httpx", "http", "a call over HTTP")
        self.settings = settings
        self._processes: dict[int, _Process] = {}
        self._thread = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], read: Callable[[bytes], Result]
    ) -> Result:
        """Sends a request until it is answered or the retries are used up.

        Args:
            url: The address.
            body: The request.
            headers: Beside those that httpx adds.
            read: Reads the body of a reply of status 200; raises :class:`UnusableReplyError` to
                have the call repeated. Other exceptions go to the caller.

        Returns:
            The result of ``read``.

        Raises:
            CallError: if the server refused the request, or no attempt brought a usable reply.
        """
        for attempt in range(self.settings.max_retries + 1):
            try:
                return read(self._send("POST", url, body, headers, self.settings.timeout_s))
            except self._failures as error:
                if attempt == self.settings.max_retries or not self._may_pass(error):
                    raise _failed(url, error, attempt + 1, headers) from error
                if self._sleep(self._pause_s(attempt, error)):
                    raise CallError(f"{url}: given up because another call failed") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def post_json(
        self,
        url: str,
        record: Mapping[str, Any],
        headers: Mapping[str, str],
        read: Callable[[Any], Result],
    ) -> Result:
        """Posts JSON and reads JSON, as :meth:`post` does bytes; other replies are unusable."""

        def read_json(body: bytes) -> Result:
            try:
                reply = json.loads(body)
            except (ValueError, RecursionError) as error:
                message = f"the reply must be JSON: {error}; got {body[:80]!r}"
                raise UnusableReplyError(message) from error
            return read(reply)

        # ASCII, because half a surrogate pair in a text has no bytes in UTF-8.
        body = json.dumps(dict(record), separators=(",", ":")).encode("ascii")
        return self.post(url, body, {"content-type": "application/json", **headers}, read_json)

    def get(
        self,
        url: str,
        timeout_s: float | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """The body of the reply to one GET request; nothing is retried.

        Args:
            url: The address.
            timeout_s: Most seconds; None takes that of the settings.
            headers: Beside those that httpx adds.

        Raises:
            CallError: if there was no reply, or none of status 200.
        """
        try:
            return self._send("GET", url, b"", headers, timeout_s or self.settings.timeout_s)
        except self._failures as error:
            raise _failed(url, error, 1, headers) from error

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in order of a function that makes calls of this client, for many items at a time.

        After the first exception no call is begun or repeated.
        """
        chosen = list(items)
        if len(chosen) == 1:
            return [function(chosen[0])]
        is_over = threading.Event()

        def run(item: Item) -> Result:
            self._thread.is_over = is_over
            return function(item)

        futures = [self._process().executor.submit(run, item) for item in chosen]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [each for each in futures if each.done() and each.exception() is not None]
            return [future.result() for future in failed or futures]
        finally:
            is_over.set()
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Closes the connections of this process. A later call opens new ones."""
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.executor.shutdown()
            for client in process.clients.values():
                client.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles the settings alone."""
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"])  # type: ignore[misc]

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return StatusError, UnusableReplyError, self._httpx.HTTPError, self._httpx.InvalidURL

    def _may_pass(self, error: Exception) -> bool:
        if isinstance(error, StatusError):
            return error.status in RETRIED_STATUSES
        return not isinstance(error, self._httpx.InvalidURL)

    def _process(self) -> _Process:
        """Resources by process id, so that a fork, at whatever moment, begins afresh."""
        pid = os.getpid()
        process = self._processes.get(pid)
        if process is None:
            process = self._processes.setdefault(pid, self._open(pid))
        return process

    def _open(self, pid: int) -> _Process:
        settings = self.settings
        return _Process(
            executor=ThreadPoolExecutor(settings.max_concurrency, "calibadv-http"),
            slots=threading.BoundedSemaphore(settings.max_concurrency),
            random=random.Random(f"{settings.seed}:{pid}"),
        )

    def _client(self, process: _Process, url: str) -> Any:
        """Connections for an address: past every proxy to this machine, else as is set."""
        is_straight = is_local(url)
        with process.lock:
            if is_straight not in process.clients:
                process.clients[is_straight] = self._connect(is_straight)
            return process.clients[is_straight]

    def _connect(self, is_straight: bool) -> Any:
        httpx, settings = self._httpx, self.settings
        count = settings.max_connections or settings.max_concurrency
        limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
        if is_straight:  # a transport of one's own takes no proxy from the environment
            transport = httpx.HTTPTransport(limits=limits)
            return httpx.Client(transport=transport, timeout=settings.timeout_s)
        try:
            return httpx.Client(limits=limits, timeout=settings.timeout_s)
        except ImportError as error:
            raise MissingDependencyError(
                "the environment names a SOCKS proxy (ALL_PROXY, HTTP_PROXY or HTTPS_PROXY), which "
                "needs a package: pip install 'httpx[socks]', or take the server out by NO_PROXY"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"a proxy that the environment names (ALL_PROXY, HTTP_PROXY or HTTPS_PROXY) cannot "
                f"be used: {error}"
            ) from error

    def _send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> bytes:
        """One attempt. The timeout holds for the whole of it, however slowly bytes drip in."""
        process = self._process()
        with process.slots:
            deadline = time.monotonic() + timeout_s
            with self._client(process, url).stream(
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
                    text = _without_key(headers, content.decode("utf-8", "replace"))
                    pause = retry_after_s(reply.headers.get("retry-after"))
                    raise StatusError(reply.status_code, text, pause)
                return content

    def _sleep(self, pause_s: float) -> bool:
        """Waits; True at once if another call of the same :meth:`map` has failed."""
        is_over: threading.Event | None = getattr(self._thread, "is_over", None)
        if is_over is not None:
            return is_over.wait(pause_s)
        time.sleep(pause_s)
        return False

    def _pause_s(self, attempt: int, error: Exception) -> float:
        settings, process = self.settings, self._process()
        with process.lock:
            jitter = process.random.uniform(0.5, 1.0)
        pause = min(settings.backoff_s * 2.0**attempt, settings.max_backoff_s) * jitter
        asked = error.retry_after_s if isinstance(error, StatusError) else None
        return pause if asked is None else max(pause, min(asked, _MAX_RETRY_AFTER_S))


def bearer(variable: str) -> dict[str, str]:
    """Header with the key that an environment variable holds; empty without one.

    The variable is read at each call, and the key is stored nowhere.
    """
    key = os.environ.get(variable, "").strip()
    return {"authorization": f"Bearer {key}"} if key else {}


def require_http(**urls: str) -> None:
    """Refuses addresses of other schemes.

    Raises:
        ValueError: naming the setting.
    """
    for name, url in urls.items():
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{name} must begin with http:// or https://, got {url!r}")


def retry_after_s(header: str | None) -> float | None:
    """Seconds from now, at least 0, in a Retry-After header, which holds seconds or a date.

    None without a header, and for one that cannot be read.
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def describe(error: BaseException) -> str:
    """Type and text of an error on one line, of limited length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500].rstrip(": ")


def _failed(url: str, error: Exception, attempts: int, headers: Mapping[str, str]) -> CallError:
    is_ours = isinstance(error, StatusError | UnusableReplyError)
    cause = str(error) if is_ours else describe(error)
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    proxy = proxy_of(url)
    way = f"; asked by way of the proxy {proxy}" if proxy else ""
    message = _without_key(headers, f"{url}: {cause} ({times}){way}")
    if isinstance(error, StatusError):
        return CallError(message, error.status, error.text)
    return CallError(message)


def _without_key(headers: Mapping[str, str], text: str) -> str:
    """A text in which the key of a request does not stand."""
    key = headers.get("authorization", "").removeprefix("Bearer ")
    return text.replace(key, "[key]") if key else text
