"""Lists and objects that somebody wrote down as text: JSON, or ``str()`` of Python or numpy."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any, Final

_ARRAY: Final = re.compile(r"\barray\((\[.*?\])(?:,\s*dtype=[\w.<>'\"]+)?\)", re.S)
_QUOTED: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NUMPY_LIST: Final = re.compile(rf"\[\s*(?:{_QUOTED})(?:\s+(?:{_QUOTED}))*\s*\]", re.S)
_GAP: Final = re.compile(rf"({_QUOTED})\s+(?={_QUOTED})", re.S)
_BRACKETS: Final = ("[]", "{}", "()", "a)")
"""First and last character of a written list or object; the last pair is that of ``array(…)``."""

MAX_CHARS: Final = 5_000_000
"""Longer texts are not looked at."""


def parse_literal(text: str) -> Any:
    """The list or object that a text is the written form of; None if it is ordinary text.

    Understood are JSON, Python's ``repr``, numpy's ``['a' 'b']`` and ``array([...], dtype=object)``
    within it. Text that merely stands between brackets, such as ``[1] Rabat`` or ``[sic]``, is not.
    """
    bare = text.strip()
    if not 2 <= len(bare) <= MAX_CHARS or bare[0] + bare[-1] not in _BRACKETS:
        return None
    value = parse_json(bare)
    if isinstance(value, list | dict):
        return value
    value = _python(_ARRAY.sub(r"\1", bare))
    if isinstance(value, list | dict):
        return value
    return list(value) if isinstance(value, tuple) and bare[0] == "(" else None


def parse_json(text: str) -> Any:
    """The value of a JSON text; None where it is broken or nested beyond reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _python(text: str) -> Any:
    """The value of a Python literal; adjacent strings in a list are items, as numpy prints them."""
    spaced = _NUMPY_LIST.sub(lambda found: _GAP.sub(r"\1, ", found.group()), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape such as \d in somebody's text
            return ast.literal_eval(spaced)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
