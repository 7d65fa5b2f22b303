"""Values as text formats and data frames write them, brought back to plain Python."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

UNREADABLE: Final = object()
"""What :func:`parsed_literal` gives for a text that begins like a list and is none."""

_ARRAY: Final = re.compile(r"^(?:np\.|numpy\.)?array\((.*?)(?:,\s*dtype=[\w.'<>]+)?\)$", re.S)
_CUT_OFF: Final = re.compile(
    r"""\[\s*(['"])[^\]]*\1[\s,]*(?:['"][^\]]*)?\Z|\{\s*(['"])[^}]*?\2\s*:[^}]*\Z"""
)
"""A list or an object without its end, as spreadsheets and logs cut long cells off."""
_QUOTED: Final = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.S)
_ITEMS: Final = re.compile(r"\[\s*(?:(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")[\s,]*)*\]", re.S)
_NESTED: Final = re.compile(
    r"(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<open>\b(?:np\.|numpy\.)?array\()"
    r"|(?P<dtype>,\s*dtype=(?:'[^']*'|[\w.<>]+)\s*(?=\)))",
    re.S,
)
"""What stands round numpy's arrays inside a printed object; texts are passed over."""
_MAX_LITERAL: Final = 1_000_000


def plain(value: Any) -> Any:
    """A value without numpy, pandas or dates in it: what JSON could hold."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):  # a day that a table keeps as its midnight is that day
        return value.isoformat().removesuffix("T00:00:00")
    return str(value)


def parsed_literal(text: str) -> Any:
    """The list or object that a text writes down, as JSON, Python, numpy or pandas do.

    Returns:
        The list or dict; None for a text that does not begin like one;
        :data:`UNREADABLE` for one that begins with a bracket and a quote, and cannot be read, also
        because its end was cut off.
    """
    text = text.strip()
    array = _ARRAY.match(text)
    if array:
        text = array.group(1).strip()
    if _CUT_OFF.match(text):
        return UNREADABLE
    if len(text) < 2 or text[0] not in "[{(" or text[-1] not in "]})" or len(text) > _MAX_LITERAL:
        return None
    for read in (_json, _python, _numpy, _arrays):
        value = read(text)
        if isinstance(value, (list, dict)):
            return value
    begins_quoted = re.match(r"[\[{]\s*['\"]", text)
    return UNREADABLE if begins_quoted and text[-1] == {"[": "]", "{": "}"}[text[0]] else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _python(text: str) -> Any:
    # "['a' 'b']" of numpy is Python for the one text "ab", so it must not come this way.
    if _is_numpy(text):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    if isinstance(value, set):  # a set has no order of its own; that of the text is kept
        return _python(f"[{text[1:-1]}]")
    # "(1, 2)" may be an interval that is the answer; texts between brackets are a list.
    is_items = isinstance(value, tuple) and (
        text[0] == "[" or all(isinstance(v, str) for v in value)
    )
    return plain(value) if isinstance(value, (list, dict)) or is_items else None


def _arrays(text: str) -> Any:
    """An object or a list in which numpy's arrays are printed, as pandas writes parquet to CSV."""
    if "array(" not in text:
        return None
    return _python(
        _NESTED.sub(lambda m: m["text"] if m["text"] else "(" if m["open"] else "", text)
    )


def _is_numpy(text: str) -> bool:
    """True for a list of quoted texts some of which have no comma between them."""
    if not _ITEMS.fullmatch(text):
        return False
    found = list(_QUOTED.finditer(text))
    return any("," not in text[a.end() : b.start()] for a, b in pairwise(found))


def _numpy(text: str) -> Any:
    if not _ITEMS.fullmatch(text):
        return None
    found = []
    for match in _QUOTED.finditer(text):
        try:
            found.append(str(ast.literal_eval(match.group())))
        except (ValueError, SyntaxError):
            found.append(match.group(1) if match.group(1) is not None else match.group(2))
    return found
