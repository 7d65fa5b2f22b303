"""JSON over HTTP with bounded patience: timeouts, retries with backoff, several calls at a time."""

from __future__ import annotations

import importlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from calibadv_algo.errors import EngineError

RETRIED_STATUSES: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""What a server may answer now and not a moment later."""

MAX_REPLY_BYTES: Final = 1 << 26
MAX_RETRY_AFTER_S: Final = 60.0
_SHOWN_CHARS: Final = 300

Item = TypeVar("Item")
Result = TypeVar("Result")


class ReplyError(Exception):
    """A reply that is no use.

    Attributes:
        status: Its HTTP status.
        text: The beginning of its body.
        retry_after_s: Seconds that the server asks to wait, None if it does not.
    """

    def __init__(
        self, status: int, text: str, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"status {status}{', ' if reason else ''}{reason}: {text[:_SHOWN_CHARS]}")
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How patient calls are."""

    timeout_s: float = 120.0
    """Most seconds of one attempt, from connecting to the last byte."""
    max_retries: int = 5
    """Attempts after the first; faults that a retry cannot mend are not retried."""
    backoff_s: float = 0.5
    """Pause before the first retry; doubled each time, and shortened by up to half at random."""
    max_backoff_s: float = 20.0
    """Longest such pause; a server may ask for up to 60 s."""
    max_concurrency: int = 16
    """Most calls at a time."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("timeout_s", "backoff_s", "max_backoff_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, got {self.max_retries}")
        if self.max_concurrency < 1:
            raise ValueError(f"max_concurrency must be positive, got {self.max_concurrency}")


class JsonCaller:
    """Posts JSON and reads JSON.

    Args:
        settings: How patient it is.

    Raises:
        ImportError: if httpx is not installed.
    """

    def __init__(self, settings: CallSettings) -> None:
        self._httpx = _import_httpx()
        self.settings = settings
        self._client = self._httpx.Client(
            timeout=settings.timeout_s,
            limits=self._httpx.Limits(max_connections=settings.max_concurrency),
        )
        self._executor = ThreadPoolExecutor(settings.max_concurrency, "calibadv-endpoint")
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self.num_retries = 0

    def post(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        read: Callable[[Any], Result],
    ) -> Result:
        """Posts until there is an answer or the retries are used up.

        Args:
            url: Where to.
            body: What.
            headers: Beside those that httpx adds.
            read: Makes something of the parsed reply; a ``ValueError`` of it means that the
                reply is no use, and the call is repeated.

        Returns:
            What ``read`` gave.

        Raises:
            ReplyError: if the server refused the request for good.
            EngineError: if no attempt brought an answer; the last cause is chained.
        """
        attempts = self.settings.max_retries + 1
        for attempt in range(attempts):
            try:
                return self._attempt(url, body, headers, read)
            except (ReplyError, self._httpx.HTTPError) as error:
                status = error.status if isinstance(error, ReplyError) else None
                if status is not None and status != 200 and status not in RETRIED_STATUSES:
                    raise
                if attempt + 1 == attempts:
                    kind = type(error).__name__
                    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                    raise EngineError(f"{url}: {kind}: {error} ({times})") from error
                if self._is_over.wait(self._pause_s(attempt, error)):
                    raise EngineError(f"{url}: given up because another call failed") from error
            except self._httpx.InvalidURL as error:
                raise EngineError(f"{url}: {error}") from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Applies a function to items, several at a time.

        Returns:
            The results in order. After the first exception no call is begun or repeated.
        """
        self._is_over.clear()
        futures = [self._executor.submit(function, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [each for each in futures if each.done() and each.exception() is not None]
            return [future.result() for future in failed or futures]
        finally:
            self._is_over.set()
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Closes connections and threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _attempt(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        read: Callable[[Any], Result],
    ) -> Result:
        """One attempt. The timeout holds for the whole of it, however slowly bytes drip in."""
        deadline = time.monotonic() + self.settings.timeout_s
        chunks: list[bytes] = []
        size = 0
        with self._client.stream("POST", url, json=dict(body), headers=dict(headers)) as reply:
            for chunk in reply.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if time.monotonic() > deadline:
                    raise self._httpx.ReadTimeout(
                        f"no whole reply within {self.settings.timeout_s} s"
                    )
                if size > MAX_REPLY_BYTES:
                    raise self._httpx.DecodingError(f"more than {MAX_REPLY_BYTES:,} bytes")
        content = b"".join(chunks)
        text = content.decode("utf-8", "replace")
        if reply.status_code != 200:
            pause = _seconds(reply.headers.get("retry-after"))
            raise ReplyError(reply.status_code, text, retry_after_s=pause)
        try:
            return read(json.loads(content))
        except ValueError as error:
            raise ReplyError(200, text, f"not an answer ({error})") from error

    def _pause_s(self, attempt: int, error: Exception) -> float:
        with self._lock:
            self.num_retries += 1
            jitter = self._random.uniform(0.5, 1.0)
        pause = min(self.settings.backoff_s * 2.0**attempt, self.settings.max_backoff_s) * jitter
        asked = error.retry_after_s if isinstance(error, ReplyError) else None
        return pause if asked is None else max(pause, min(asked, MAX_RETRY_AFTER_S))


def _seconds(header: str | None) -> float | None:
    """A Retry-After header that names seconds; None for none, or for a date."""
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None


def _import_httpx() -> Any:
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise ImportError(
            "an endpoint needs the package httpx: pip install 'calibadv[http]'"
        ) from error
