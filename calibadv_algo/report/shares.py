"""Shares as text; apart from the tables, which need what the plain install does not bring."""

from __future__ import annotations

from typing import Final

NOTHING: Final[str] = "–"  # an en dash, for what does not apply


def format_share(share: float | None, of: int | None) -> str:
    """Writes a share with its denominator, such as ``0.912 of 1,000``; a dash where unknown."""
    return NOTHING if share is None else f"{share:.3f} of {of:,}"
