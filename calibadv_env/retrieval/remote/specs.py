"""Specifications of remote retrievers: an address and, behind ``#``, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urldefrag


def read_spec(spec: str, kinds: Mapping[str, type]) -> tuple[str, dict[str, Any]]:
    """The address in a specification, and the settings that it gives.

    Args:
        spec: Such as ``http://host:8000#dialect=gem&timeout_s=5``.
        kinds: The settings that there are, and the type of each.

    Raises:
        ValueError: if a setting is unknown or cannot be read.
    """
    url, fragment = urldefrag(spec)
    options: dict[str, Any] = {}
    for name, value in parse_qsl(fragment, keep_blank_values=True):
        if name not in kinds:
            known = ", ".join(kinds)
            raise ValueError(f"settings in {spec!r} must be among {known}, got {name!r}")
        try:
            options[name] = kinds[name](value)
        except ValueError as error:
            kind = kinds[name].__name__
            raise ValueError(f"{name} in {spec!r} must be a {kind}, got {value!r}") from error
    return url, options
