"""Counters of the search server, in the text format of Prometheus.

They are plain numbers that one event loop writes. The metrics of prometheus_client, which lock each
of them, were measured to cost 4% of the server's processor time for a query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MAX_NAMES: Final = 50
_GAUGES: Final = {
    "queue_length": "Queries that wait.",
    "connections": "Connections that are open.",
    "pending_bytes": "Bytes of requests and replies that are held.",
}
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Histogram:
    """Counts values in buckets.

    Args:
        bounds: Upper ends of the buckets, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    def lines(self, name: str) -> list[str]:
        """Cumulative buckets, sum and count of a histogram in the text format of Prometheus."""
        lines: list[str] = []
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines.append(f'{name}_bucket{{le="+Inf"}} {self.count}')
        return [*lines, f"{name}_sum {self._sum:.6f}", f"{name}_count {self.count}"]


@dataclass(slots=True)
class ServerMetrics:
    """Counters of one server. Only its event loop writes them.

    Attributes:
        requests: Requests by status of the reply.
        queries: Queries that were taken on.
        searches: Calls of the retriever.
        distinct_queries: Queries that the retriever was given; equal ones in a batch count once.
        failed_searches: Calls of the retriever that raised.
        rejected: Requests turned away because the queue was full.
        expired: Requests that waited too long to be worth a search.
        dropped: Connections that were closed on their client, by stage: "head", "body", "reply",
            "closing", and "full" where there were too many.
        refused: Requests that host, origin or token kept out, by status.
        ignored_fields: Fields of requests that nothing understood, by name.
        batch_requests: Requests a search.
        batch_queries: Queries a search.
        latency_s: Seconds from the whole request to the reply.
        search_s: Seconds a search.
    """

    requests: Counter[int] = field(default_factory=Counter)
    queries: int = 0
    searches: int = 0
    distinct_queries: int = 0
    failed_searches: int = 0
    rejected: int = 0
    expired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    ignored_fields: Counter[str] = field(default_factory=Counter)
    batch_requests: Histogram = field(default_factory=lambda: Histogram(_SIZES))
    batch_queries: Histogram = field(default_factory=lambda: Histogram(_SIZES))
    latency_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    search_s: Histogram = field(default_factory=lambda: Histogram(_SECONDS))

    def ignore(self, names: Sequence[str]) -> None:
        """Counts fields that were ignored; names that are odd or too many count as "other"."""
        for name in names:
            is_plain = name.isascii() and name.isidentifier() and len(name) <= 40
            is_new = name not in self.ignored_fields
            if not is_plain or (is_new and len(self.ignored_fields) >= _MAX_NAMES):
                name = "other"
            self.ignored_fields[name] += 1

    def text(self, *, is_ready: bool, **gauges: int) -> str:
        """All metrics, with gauges by name, as the text that Prometheus reads."""
        lines: list[str] = []

        def add(name: str, kind: str, about: str, values: Sequence[str]) -> None:
            full = f"calibadv_{name}"
            lines.extend((f"# HELP {full} {about}", f"# TYPE {full} {kind}"))
            lines.extend(f"{full}{value}" for value in values)

        counts = [f'{{status="{code}"}} {n}' for code, n in sorted(self.requests.items())]
        add("requests_total", "counter", "Requests to /retrieve by status.", counts)
        for name, key, counter, about in (
            ("dropped_connections", "stage", self.dropped, "Connections closed on their client."),
            ("refused", "status", self.refused, "Requests kept out by host, origin or token."),
            ("ignored_fields", "field", self.ignored_fields, "Fields that nothing understood."),
        ):
            values = [f'{{{key}="{each}"}} {n}' for each, n in sorted(counter.items())]
            add(f"{name}_total", "counter", about, values)
        for name, value, about in (
            ("queries_total", self.queries, "Queries that were taken on."),
            ("searches_total", self.searches, "Calls of the retriever."),
            ("distinct_queries_total", self.distinct_queries, "Queries given to the retriever."),
            ("failed_searches_total", self.failed_searches, "Calls of the retriever that raised."),
            ("rejected_total", self.rejected, "Requests turned away: the queue was full."),
            ("expired_total", self.expired, "Requests that waited too long."),
        ):
            add(name, "counter", about, [f" {value}"])
        for name, about in _GAUGES.items():
            add(name, "gauge", about, [f" {gauges[name]}"])
        add("ready", "gauge", "1 once the index is loaded.", [f" {int(is_ready)}"])
        for name, histogram, about in (
            ("batch_requests", self.batch_requests, "Requests a search."),
            ("batch_queries", self.batch_queries, "Queries a search."),
            ("latency_seconds", self.latency_s, "From request to reply."),
            ("search_seconds", self.search_s, "Duration of a search."),
        ):
            add(name, "histogram", about, histogram.lines(""))
        return "\n".join(lines) + "\n"
