"""Calls of tools: read in the forms in which systems write them, and told apart by what they do."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from calibadv_algo.traces.base import Call, Rules
from calibadv_env.protocol.literals import parse_json, parse_literal

CallKind = Literal["search", "visit", "answer", "unknown"]
"""What a call does: looks for passages, opens a document, ends the episode; or nobody knows."""

_SEARCH_WORDS: Final = frozenset(
    {"search", "searches", "searching", "retrieve", "retrieval", "retriever"}
)
_VISIT_WORDS: Final = frozenset(
    {"visit", "open", "browse", "browser", "fetch", "read", "click", "scrape", "crawl", "access",
     "goto", "page", "webpage", "url", "scroll", "find", "extract", "reader", "jina", "get"}
)  # fmt: skip
_ENGINES: Final = frozenset(
    {"tavily", "duckduckgo", "ddg", "serper", "serpapi", "bing", "wikipedia", "wiki", "rag",
     "knowledge"}
)  # fmt: skip
"""Words by which a tool that opens nothing is a search."""
_NO_SEARCH_WORDS: Final = frozenset(
    {"replace", "file", "files", "code", "repo", "memory", "tool", "tools"}
)
_VISIT_ARGUMENTS: Final = (
    "url",
    "urls",
    "link",
    "links",
    "href",
    "docid",
    "doc_id",
    "page",
    "id",
    "goal",
)
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ARGUMENTS: Final = (
    "arguments", "args", "parameters", "input", "tool_input", "action_input", "kwargs",
)  # fmt: skip
_IDS: Final = ("id", "call_id", "tool_call_id")


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call and what it does.

    Attributes:
        call: The call.
        kind: What it does.
        value: Query, address or answer; "" for an unknown one.
        label: Its name in counts: the tool, with a remark where its arguments were the trouble.
    """

    call: Call
    kind: CallKind
    value: str
    label: str


# ---- What a call does ----------------------------------------------------------------------------


def classify(call: Call, rules: Rules) -> ReadCall:
    """Tells what a call does, by the name of its tool and by its arguments.

    Names that are given by flags or known count first; then a name that holds the word search or
    retrieve is a search, one that holds visit, open, fetch and the like opens a document.
    """
    kind = _kind_of_name(call.name, rules)
    name = call.name or "(no name)"
    if kind == "unknown":
        return ReadCall(call, kind, "", name)
    keys = {
        "search": rules.grammar.query_arguments,
        "answer": rules.grammar.answer_arguments,
        "visit": _VISIT_ARGUMENTS,
    }[kind]
    value = _argument(call.arguments, keys)
    if value is None and kind == "search" and isinstance(call.arguments, Mapping):
        value = _written(call.arguments)
    if value is None:
        if kind == "visit":
            return ReadCall(call, kind, "", name)
        return ReadCall(call, "unknown", "", f"{name} (no {'query' if kind == 'search' else kind})")
    return ReadCall(call, kind, value, name)


def _kind_of_name(name: str, rules: Rules) -> CallKind:
    bare = re.split(r"[./:]|__", name)[-1] or name
    lower = {name.lower(), bare.lower()}
    known: tuple[tuple[CallKind, Sequence[str]], ...] = (
        ("visit", rules.visit_tools),
        ("search", rules.grammar.search_tools),
        ("answer", rules.grammar.answer_tools),
    )
    for kind, names in known:
        if lower & {each.lower() for each in names}:
            return kind
    words = {word.lower() for word in _WORD.findall(bare)}
    if words & _SEARCH_WORDS and not words & _NO_SEARCH_WORDS:
        return "search"
    if words & {"submit", "finish"} or {"final", "answer"} <= words:
        return "answer"
    if words & _VISIT_WORDS and not words & {"file", "files"}:
        return "visit"
    return "search" if words & _ENGINES and not words & _NO_SEARCH_WORDS else "unknown"


def _argument(arguments: Any, keys: Sequence[str]) -> str | None:
    """The value of the first argument that is there, several joined; a lone argument counts too."""
    if isinstance(arguments, str) and arguments.strip() and arguments.lstrip()[:1] not in "{[":
        return arguments.strip()
    if not isinstance(arguments, Mapping):
        return None
    for key in keys:
        value = _joined(arguments.get(key))
        if value is not None:
            return value
    texts = [value for value in arguments.values() if isinstance(value, str | list)]
    return _joined(texts[0]) if len(texts) == 1 else None


def _written(arguments: Mapping[str, Any]) -> str | None:
    """A search by several fields, such as ticker and date, as a query; None without any."""
    parts = ((key, _joined(value)) for key, value in arguments.items())
    return "; ".join(f"{key}: {value}" for key, value in parts if value) or None


def _joined(value: Any) -> str | None:
    values = value if isinstance(value, list) else [value]
    parts = [_query_text(each) for each in values]
    texts = [part for part in parts if part is not None]
    return "; ".join(texts).strip() if texts and len(texts) == len(parts) else None


def _query_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):  # DR agents: [{"query": "…", "goal": "…"}]
        inner = next((value[key] for key in ("query", "q", "text") if key in value), None)
        return inner if isinstance(inner, str) else None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# ---- Objects -------------------------------------------------------------------------------------


def read_call(value: Any) -> Call:
    """A call as an object, or as its JSON; one without a name if it is neither.

    Understood are OpenAI's (``function`` with name and arguments), Inspect's (``function`` as the
    name), LangChain's (``args``), Anthropic's (``input``), and flat ones.
    """
    if isinstance(value, str):
        value = loads_start(value)
    if not isinstance(value, Mapping):
        return Call(name="", arguments=value)
    call_id = next((value[key] for key in _IDS if isinstance(value.get(key), str)), "")
    inner = value.get("function", value.get("functionCall"))
    if isinstance(inner, Mapping):
        value = {**value, **inner}
    name = inner if isinstance(inner, str) else _first_text(
        value, ("name", "tool_name", "tool", "function_name", "action"))  # fmt: skip
    arguments: Any = next((value[key] for key in _ARGUMENTS if value.get(key) is not None), {})
    if isinstance(arguments, str):
        loaded = loads_start(arguments)
        arguments = loaded if isinstance(loaded, Mapping) else arguments
    return Call(name=name, arguments=arguments, id=call_id)


def _first_text(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((value[key].strip() for key in keys if isinstance(value.get(key), str)), "")


def loads_start(text: str) -> Any:
    """The JSON or Python object that a text begins with; None if there is none."""
    bare = text.strip()
    if bare[:1] not in ("{", "["):
        return None
    value = parse_json(bare)
    if value is None:
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(bare)
        except (ValueError, RecursionError):
            value = parse_literal(bare)
    return value


# ---- Calls in text -------------------------------------------------------------------------------

_CALL: Final = re.compile(
    r"<tool_call>(?P<hermes>.*?)(?:</tool_call>|(?=<tool_call>)|\Z)"
    r"|<use_mcp_tool>(?P<mcp>.*?)(?:</use_mcp_tool>|\Z)"
    r"|<call_tool(?P<named>[^<>]*)>(?P<body>.*?)</call(?:_tool)?>"
    r"|<\|begin_click_link\|>(?P<click>.*?)<\|end_click_link\|>"
    r"|<access>(?P<access>.*?)</access>",
    re.S,
)
_FUNCTION: Final = re.compile(r"<function=([^<>\s]+)>(.*)", re.S)
_PARAMETER: Final = re.compile(r"<parameter=([^<>\s]+)>(.*?)</parameter>", re.S)
_ARG: Final = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.S)
_TAG: Final = re.compile(r"<(tool_name|arguments)>(.*?)</\1>", re.S)
_ATTRIBUTE: Final = re.compile(r"(\w+)=[\"']([^\"']*)[\"']")
_REACT: Final = re.compile(
    r"^[ \t]*Action(?: \d+)?:[ \t]*(?P<name>[^\n\[(]+?)[ \t]*"
    r"(?:[\[(](?P<inline>[^\n]*)[\])][ \t]*$"
    r"|\n[ \t]*Action Input(?: \d+)?:[ \t]*(?P<input>.*?)(?=\n[ \t]*Observation|\Z))",
    re.M | re.S,
)
_CODE: Final = re.compile(r"<code>(.*?)(?:</code>|\Z)|```(?:py|python)?\s*\n(.*?)(?:```|\Z)", re.S)


@dataclass(frozen=True, slots=True)
class TextCalls:
    """A turn's text, taken apart.

    Attributes:
        head: The text before the first call.
        calls: The calls.
        tail: What stands behind and between them.
    """

    head: str
    calls: tuple[Call, ...]
    tail: str


def calls_in_text(text: str) -> TextCalls | None:
    """The calls in what a policy wrote, outside of its thought; None if there is none.

    Understood are ``<tool_call>`` with JSON (Hermes, Qwen), with ``<function=…>`` (Qwen 3 Coder)
    and with ``<arg_key>`` (GLM), ``<use_mcp_tool>`` (MiroThinker), ``<call_tool name="…">``
    (DR Tulu), ``<|begin_click_link|>`` (WebThinker), ``<access>`` (ASearcher), and
    ``Action: …`` with ``Action Input: …`` or brackets (ReAct).
    """
    start = text.rfind("</think>") + len("</think>") if "</think>" in text else 0
    found = list(_CALL.finditer(text, start)) or list(_CALL.finditer(text))
    if found:
        edges = [*(each.start() for each in found[1:]), len(text)]
        tail = "".join(text[each.end() : edge] for each, edge in zip(found, edges, strict=True))
        return TextCalls(text[: found[0].start()], tuple(map(_tagged_call, found)), tail)
    react = _REACT.search(text, start)
    if react is not None:
        return TextCalls(text[: react.start()], (_react_call(react),), text[react.end() :])
    code = () if "</search>" in text or "</answer>" in text else calls_in_code(text[start:])
    return TextCalls(_CODE.sub("", text), code, "") if code else None


def _tagged_call(found: re.Match[str]) -> Call:
    groups = found.groupdict()
    if groups["hermes"] is not None:
        return _hermes(groups["hermes"])
    if groups["mcp"] is not None:
        parts = dict(_TAG.findall(groups["mcp"]))
        arguments = parts.get("arguments", "")
        loaded = loads_start(arguments)
        return Call(
            name=parts.get("tool_name", "").strip(),
            arguments=arguments if loaded is None else loaded,
        )
    if groups["body"] is not None:
        name = dict(_ATTRIBUTE.findall(groups["named"])).get("name", "")
        return Call(name=name, arguments=groups["body"].strip())
    return Call(
        name="visit", arguments={"url": (groups["click"] or groups["access"] or "").strip()}
    )


def _hermes(body: str) -> Call:
    loaded = loads_start(body)
    if loaded is not None:
        return read_call(loaded)
    function = _FUNCTION.search(body)
    if function is not None:
        arguments = {key: value.strip() for key, value in _PARAMETER.findall(function.group(2))}
        return Call(name=function.group(1), arguments=arguments)
    pairs = {key.strip(): value.strip() for key, value in _ARG.findall(body)}
    name = body.partition("<arg_key>")[0].strip().split("\n")[0]
    return Call(name=name, arguments=pairs) if pairs else Call(name="", arguments=body)


def _react_call(found: re.Match[str]) -> Call:
    name = found.group("name").strip().strip("`*")
    written = (
        found.group("inline") if found.group("inline") is not None else found.group("input") or ""
    ).strip()
    loaded = loads_start(written)
    if loaded is not None:
        return Call(name=name, arguments=loaded)
    bare = written.strip().strip("\"'`").strip()
    return Call(name="final_answer" if name.lower() == "finish" else name, arguments=bare)


def calls_in_code(text: str) -> tuple[Call, ...]:
    """Calls in the Python that a code agent wrote: of names, with their literal arguments.

    Calls of what Python itself has, and of what the code imports or defines, are no tools. Empty
    if none of the calls searches or ends the episode, as most code in an answer is no agent's.
    """
    calls = [call for first, second in _CODE.findall(text) for call in _calls_of(first or second)]
    is_agent = any(_is_agent_call(call.name) for call in calls)
    return tuple(calls) if is_agent else ()


def expanded(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Calls in which one of a Python interpreter gives way to the calls in its code."""
    inner = [
        calls_in_code(f"<code>{code}</code>") if (code := _code_of(call)) else () for call in calls
    ]
    return tuple(
        each for call, found in zip(calls, inner, strict=True) for each in (found or (call,))
    )


def _code_of(call: Call) -> str:
    if "python" not in call.name.lower() and "code" not in call.name.lower():
        return ""
    if isinstance(call.arguments, Mapping):
        code = call.arguments.get("code")
        return code if isinstance(code, str) else ""
    return call.arguments if isinstance(call.arguments, str) else ""


def _is_agent_call(name: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name)}
    return name == "final_answer" or bool(words & _SEARCH_WORDS)


def _calls_of(code: str) -> Iterator[Call]:
    try:
        tree = ast.parse(code.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return
    nodes = list(ast.walk(tree))
    own = set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            own |= {(each.asname or each.name) for each in node.names}
    calls = [
        node
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id not in own
    ]
    for node in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        arguments = {word.arg or "": _literal(word.value) for word in node.keywords}
        arguments |= {f"argument{i}": _literal(each) for i, each in enumerate(node.args)}
        given = {key: value for key, value in arguments.items() if value is not None}
        yield Call(name=node.func.id if isinstance(node.func, ast.Name) else "", arguments=given)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.unparse(node)
