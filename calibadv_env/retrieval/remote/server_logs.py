"""A limit on lines of a server's log: a client can cause one with every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PER_MINUTE: Final = 10
_WINDOW_S: Final = 60.0
_MAX_KINDS: Final = 100


@dataclass(slots=True)
class _Kind:
    began: float
    count: int = 0


class RepeatFilter(logging.Filter):
    """Passes a few lines of a kind a minute, and says how many it kept back.

    Lines are of one kind if they differ in nothing but what is filled in.

    Args:
        per_minute: Most lines of a kind in a minute.
        clock: Seconds, for tests.
    """

    def __init__(
        self, per_minute: int = PER_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the line is to be written."""
        name = str(record.msg)[:100]
        if name not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            name = ""
        now = self._clock()
        kind = self._kinds.setdefault(name, _Kind(now))
        if now - kind.began >= _WINDOW_S:
            left_out = kind.count - self._per_minute
            self._kinds[name] = kind = _Kind(now)
            if left_out > 0:
                record.msg = (
                    f"{record.getMessage().rstrip()} ({left_out:,} more like it were left out)"
                )
                record.args = ()
        kind.count += 1
        return kind.count <= self._per_minute
