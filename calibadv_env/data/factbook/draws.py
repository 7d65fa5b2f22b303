"""Draws that are the same in every version of Python and numpy. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Draws:
    """A stream of draws that depends on its key alone.

    Args:
        key: Any text.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._count = 0

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound - 1``."""
        self._count += 1
        digest = hashlib.sha256(f"{self._key}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def pick(self, options: Sequence[_T]) -> _T:
        """One of several."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[_T], count: int) -> list[_T]:
        """Several different ones, in the order in which they are drawn; all, if there are fewer."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
