"""Results of other systems' search tools, split into passages. Pure and total.

Each form of printing has one function here, which gives passages, or None for a text in another
form. :func:`split_results` tries them in order.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from calibadv_env.protocol.json_results import (
    LINKS,
    TEXTS,
    TITLES,
    FoundPassage,
    passage_of,
    passages_in,
    quoted_title,
    text_at,
)
from calibadv_env.protocol.literals import parse_literal
from calibadv_env.protocol.passages import parse_passages

NOTHING: Final = "nothing"
"""Form of a result that says that there was no hit, or an error."""

_JSON: Final = "JSON"
_NUMBERS: Final = "numbers"

WHOLE: Final = "not split"
"""Form of a result that is in none of the forms: one passage."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """A result as passages.

    Attributes:
        passages: In order.
        form: Name of the form by which they were told apart, :data:`NOTHING` or :data:`WHOLE`.
    """

    passages: tuple[FoundPassage, ...]
    form: str


Splitter = Callable[[str], "Sequence[FoundPassage] | SplitResult | None"]

_WRAPPERS: Final = (
    "information|tool_response|tool_output|tool_result|result|results|observation|documents|"
    "search_results?|context|output"
)
_WRAPPED: Final = re.compile(rf"<({_WRAPPERS})>(.*?)(?:</\1>|\Z)", re.S)
_FIELDS: Final = re.compile(r"\s*<(?:title|name|url|link|href|id)>", re.I)
"""How the inside of an element with a title or a link begins."""
_MARKERS: Final = re.compile(
    r"<\|begin_(of_documents|search_result|click_result)\|>(.*?)"
    r"(?:<\|end_(?:of_documents|search_result|click_result)\|>|\Z)",
    re.S,
)
_SECTIONS: Final = re.compile(r"\n\s*[=]{4,}\s*\n")
_REACT: Final = re.compile(r"\A\s*Observation(?: \d+)?:[ \t]*\n?")
"""How agents after ReAct begin what came back."""
_NO_HIT: Final = re.compile(
    r"(?:\[|\(|\*|\s)*(?:no (?:\w+ ){0,3}"
    r"(?:results?|hits?|documents?|passages?|information|matches)\b"
    r"|none\b\s*$|nothing (?:was )?found|not found|\[\s*\]$|error\b"
    r"|\[?\w* ?(?:search )?(?:error|failed)\b"
    r"|(?:search|request|tool)[^\n]{0,40}\b(?:failed|timed? ?out|error)\b|timed? ?out\b|exception\b"
    r"|traceback\b|invalid\b)",
    re.I,
)
_MAX_NO_HIT_CHARS: Final = 400


def split_results(text: str) -> SplitResult:
    """Splits what came back after a search.

    The wrappers of other systems (``<information>``, ``<tool_response>``, ``<result>`` …) and
    the lines of equal signs between the results of several queries are taken off first.

    Args:
        text: The observation, or the result of one tool.

    Returns:
        The passages. A short text that says that nothing was found, or an error, gives none; a
        text in an unknown form is one passage, and its form says so.
    """
    parts = [part for block in _blocks(text) for part in _SECTIONS.split(block)]
    split = [_split_part(part.strip()) for part in parts if part.strip()]
    if "<|begin_search_result|>" in text:
        texts = [part for part in parts if part.strip()]
        split = [_doubted(each, part) for each, part in zip(split, texts, strict=True)]
    passages = tuple(passage for each in split for passage in each.passages)
    forms = {each.form for each in split if each.passages}
    if WHOLE in forms:  # a part that could not be split makes the whole suspect
        return SplitResult(passages, WHOLE)
    return SplitResult(passages, min(forms, key=_rank) if forms else NOTHING)


def _rank(form: str) -> int:
    return [*(name for name, _ in SPLITTERS), WHOLE].index(form)


def _blocks(text: str) -> list[str]:
    """The insides of the wrappers of a text, or the text itself."""
    for pattern, group in ((_MARKERS, 2), (_WRAPPED, 2)):
        found = list(pattern.finditer(text))
        if found and (pattern is _MARKERS or text.lstrip()[:1] == "<" or len(found) == 1):
            blocks = [each.group(group) if pattern is _MARKERS else _inside(each) for each in found]
            return [inner for block in blocks for inner in _blocks_once(block)]
    return [text]


def _blocks_once(text: str) -> list[str]:
    """The wrappers inside a wrapper, if nothing else is: ``<results><result>…</result>…``."""
    found = list(_WRAPPED.finditer(text))
    if not found or _WRAPPED.sub("", text).strip():
        return [text]
    return [_inside(match) for match in found]


def _inside(match: re.Match[str]) -> str:
    """The inside of a wrapper; a ``<result>`` with fields is a passage, and stays whole."""
    is_passage = match.group(1) in ("result", "search_result") and _FIELDS.match(match.group(2))
    return match.group() if is_passage else match.group(2)


def _doubted(result: SplitResult, text: str) -> SplitResult:
    """A result of Search-o1 or WebThinker: often a model's summary, whose lists are no passages."""
    is_summary = result.form in (_NUMBERS, "rules", "headings", "blank lines")
    if not is_summary or any(each.link for each in result.passages):
        return result
    return _whole(text.strip())


def _split_part(text: str) -> SplitResult:
    text = _REACT.sub("", text)
    for form, split in SPLITTERS:
        found = split(text)
        if isinstance(found, SplitResult):
            return found
        if found is not None:
            kept = tuple(each for each in found if each.text.strip() or each.title.strip())
            return SplitResult(kept, form if kept else NOTHING)
    if len(text) <= _MAX_NO_HIT_CHARS and _NO_HIT.match(text):
        return SplitResult((), NOTHING)
    return _whole(text)


def _whole(text: str) -> SplitResult:
    return SplitResult((FoundPassage("", text),), WHOLE)


# ---- JSON ----------------------------------------------------------------------------------------


def _of_json(text: str) -> Sequence[FoundPassage] | SplitResult | None:
    """JSON, or Python's ``repr`` of it: of Serper, Google, Bing, Tavily, Elasticsearch and others.

    Titles and texts are looked for at any depth, also in JSON inside of a text. Text before and
    after the JSON is passed over.
    """
    if text[:1] not in ("{", "["):
        return None
    value = parse_literal(text)
    if value is None:
        value = _json_lines(text)
    if value is None or not _is_data(value):
        return None
    inner: list[SplitResult] = []

    def split(part: str) -> tuple[FoundPassage, ...]:
        inner.append(_split_part(part) if part else SplitResult((), NOTHING))
        return inner[-1].passages

    found = passages_in(value, split)
    if not found and _says_something(value):
        return _whole(text)
    if any(each.form == WHOLE for each in inner) and len(found) == len(inner) == 1:
        return SplitResult(tuple(found), WHOLE)
    return found


def _says_something(value: Any) -> bool:
    """True for JSON in which something stands, and that is no error."""
    values: list[Any] = value if isinstance(value, list) else [value]
    while len(values) == 1 and isinstance(values[0], Mapping) and values[0]:
        if any(str(key).lower() in ("error", "errors", "detail") for key in values[0]):
            return False
        inner: list[Any] = [
            each for each in values[0].values() if isinstance(each, list | Mapping | str)
        ]
        is_list = len(inner) == 1 and isinstance(inner[0], list)
        values = inner[0] if is_list else inner
    return any(
        (isinstance(each, Mapping) and len(each) > 1)
        or (isinstance(each, str) and len(each) > _MAX_NO_HIT_CHARS)
        for each in values
    )


def _is_data(value: Any) -> bool:
    """False for brackets that hold no objects or texts, such as ``[1]``."""
    values: list[Any] = value if isinstance(value, list) else [value]
    return not values or any(isinstance(each, Mapping | list | str) for each in values)


def _json_lines(text: str) -> list[Any] | None:
    lines = [parse_literal(line) for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 and all(isinstance(each, Mapping) for each in lines) else None


# ---- Documents as Python prints them -------------------------------------------------------------

_QUOTED: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_DOCUMENT: Final = re.compile(r"\b(?:Document|TextNode|NodeWithScore)\(")
_FIELD: Final = re.compile(rf"\b(?:page_content|text|content)=({_QUOTED})", re.S)
_PRINTED_TITLE: Final = re.compile(rf"['\"](?:title|source|name)['\"]\s*:\s*({_QUOTED})", re.S)


def _of_documents(text: str) -> Sequence[FoundPassage] | None:
    """``[Document(metadata={'title': …}, page_content='…'), …]``, as LangChain's objects print."""
    heads = [found.start() for found in _DOCUMENT.finditer(text)]
    if not heads or "page_content=" not in text or len(text[: heads[0]]) > _MAX_NO_HIT_CHARS:
        return None
    found = []
    for start, end in zip(heads, [*heads[1:], len(text)], strict=True):
        field = _FIELD.search(text, start, end)
        title = _PRINTED_TITLE.search(text, start, end)
        if field is not None:
            found.append(FoundPassage(_literal(title.group(1)) if title else "",
                                      _literal(field.group(1))))  # fmt: skip
    return found or None


def _literal(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text[1:-1]


# ---- Tags ----------------------------------------------------------------------------------------

_ELEMENT: Final = re.compile(
    r"<(document|doc|passage|item|snippet|source|webpage|web_page|search_result|result|chunk|article)"
    r"\b([^<>]*?)/?>(.*?)(?:</\1\b[^<>]*>|(?=<\1\b)|\Z)",
    re.S | re.I,
)
_ATTRIBUTE: Final = re.compile(r"(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_CHILD: Final = re.compile(r"<(\w+)>(.*?)</\1>", re.S)


def _of_elements(text: str) -> Sequence[FoundPassage] | None:
    """``<Document href="…"/>…</Document>``, ``<doc title="…">…</doc>`` and their like.

    Titles and links come from attributes or from elements inside.
    """
    if "<" not in text[:400]:
        return None
    found = list(_ELEMENT.finditer(text))
    if not found or len(text[: found[0].start()]) > _MAX_NO_HIT_CHARS:
        return None
    return [_element(each.group(2), each.group(3)) for each in found]


def _element(head: str, body: str) -> FoundPassage:
    attributes = {
        name.lower(): next((each for each in values if each), "")
        for name, *values in _ATTRIBUTE.findall(head)
    }
    children = {name.lower(): inner.strip() for name, inner in _CHILD.findall(body)}
    both = children | attributes
    texts = (*TEXTS, "document_content", "document_contents")
    text = text_at(children, texts) or _CHILD.sub("", body).strip() or body.strip()
    # A number of the element names no document.
    link = next((both[key] for key in LINKS if both.get(key) and not both[key].isdigit()), "")
    return FoundPassage(text_at(both, TITLES), text, link)


# ---- Numbered and linked texts -------------------------------------------------------------------

_OWN_HEAD: Final = re.compile(r"(?:^|\n)[ \t]*Doc(?:ument)? ?\[?1\]?[ \t]*[(:\n]")
_LINK: Final = (
    r"\[(?P<title>(?:[^\[\]\n]|\[[^\[\]\n]*\])*)\]\((?P<link>[^()\n]*(?:\([^()\n]*\)[^()\n]*)*)\)"
)
_LINK_HEAD: Final = re.compile(
    r"^[ \t]*(?:#+[ \t]*)?(?:[-*+•][ \t]+|\(?\d{1,3}[.):][ \t]*|\[\d{1,3}\][ \t]*)?"
    rf"\**{_LINK}\**"
    r"[ \t]*(?P<rest>.*)$",
    re.M,
)
_NUMBER_HEAD: Final = re.compile(
    r"^[ \t]*(?:\#+[ \t]*)?(?:\*\*|-+[ \t]*)?"
    r"(?:[\[(]?(?:(?:Search |Web |Retrieved )?"
    r"(?:Result|Document|Doc|Passage|Source|Page|Web ?page|Reference|Snippet|"
    r"Chunk|Article|Paper|Item|Context|Evidence|Hit)[ \t]*[#\[(]?(\d{1,3})[\])]?)"
    r"|[#\[(]*(\d{1,3})[\])]*)"
    r"(?:[.:)\]]|[ \t]*-+(?=\s|$))+(?:\*\*)?[ \t]*",
    re.M | re.I,
)
_LABEL: Final = re.compile(
    r"^[ \t]*[-*]*[ \t]*(?:\*\*)?(Title|Page|URL|Link|Source|Href|Date|Date published|"
    r"Published|Snippet|Content|Contents|Text|Summary|Description|Passage|Abstract|Score|"
    r"Relevance|ID|DocID|Document ID|Authors?|Year)(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*(.*)$",
    re.M | re.I,
)
_BEFORE_TEXT: Final = frozenset({"url", "link", "href", "id", "docid", "document id"})
_DROPPED: Final = frozenset({"date", "date published", "published", "score", "relevance", "source"})


def _of_own_form(text: str) -> Sequence[FoundPassage] | None:
    """``Doc 1(Title: …) …`` and ``Doc 1: …``, as our environments and Search-R1 print them."""
    if not _OWN_HEAD.search(text):
        return None
    return [FoundPassage(*each) for each in parse_passages(text)]


def _of_links(text: str) -> Sequence[FoundPassage] | None:
    """Links in Markdown, numbered or not, each with what follows it."""
    heads = [each for each in _LINK_HEAD.finditer(text) if _is_link(each.group("link"))]
    if not heads or len(text[: heads[0].start()].strip()) > _MAX_NO_HIT_CHARS:
        return None
    numbered = [each for each in heads if each.group().lstrip(" \t#*-[(")[:1].isdigit()]
    heads = numbered or heads  # links within the texts are no heads where the heads have numbers
    ends = [*(each.start() for each in heads[1:]), len(text)]
    passages = []
    for head, end in zip(heads, ends, strict=True):
        body = f"{head.group('rest')}\n{text[head.end() : end]}"
        _, _, rest = _labelled(body.strip())
        passages.append(FoundPassage(head.group("title").strip("* "), rest, head.group("link")))
    return passages


def _is_link(target: str) -> bool:
    return "://" in target or target.startswith(("/", "www."))


def _of_numbers(text: str) -> Sequence[FoundPassage] | None:
    """Heads that count: ``[1] …``, ``1. …``, ``Result 1: …``, ``**Web Page 1:** {…}``.

    The numbers begin at 0 or 1 and rise by one; after a gap they may begin again.
    """
    heads: list[re.Match[str]] = []
    last: int | None = None
    for found in _NUMBER_HEAD.finditer(text):
        number = int(found.group(1) or found.group(2))
        if number == (last or 0) + 1 or (number == 0 and last is None) or (
            number == 1 and last is not None and last > 1
        ):  # fmt: skip
            heads.append(found)
            last = number
    if not heads or len(text[: heads[0].start()].strip()) > _MAX_NO_HIT_CHARS:
        return None
    if len(heads) == 1 and heads[0].start() > 0:
        return None
    ends = [*(each.start() for each in heads[1:]), len(text)]
    bodies = [text[head.end() : end].strip() for head, end in zip(heads, ends, strict=True)]
    return [_item(body) for body in bodies]


def _item(body: str) -> FoundPassage:
    """A numbered item: an object in JSON, labelled lines, a title on a line of its own, or text."""
    if body[:1] == "{":
        found = passage_of(value) if isinstance(value := parse_literal(body), Mapping) else None
        if found is not None:
            return found
    if body.startswith("(Title:"):
        return FoundPassage(*parse_passages(f"Doc 1{body}")[0])
    title, link, text = _labelled(body)
    if title:
        return FoundPassage(title, text, link)
    title, rest = quoted_title(text)
    if title:
        return FoundPassage(title, rest, link)
    head, newline, tail = text.partition("\n")
    is_title = bool(newline) and len(head) <= 150 and head[-1:] not in ".?!,;:"
    if is_title and tail.strip():
        return FoundPassage(head.strip().strip("*").strip(), tail.strip(), link)
    return FoundPassage("", text, link)


def _labelled(body: str) -> tuple[str, str, str]:
    """Title, link and text of a body with lines such as ``Title: …`` and ``URL: …``."""
    title = link = ""
    lines = []
    for line in body.splitlines():
        found = _LABEL.match(line)
        name = found.group(1).lower() if found else ""
        value = found.group(2).strip() if found else ""
        if name in ("title", "page") and not title:
            title = value.strip('"').strip()
        elif name in _BEFORE_TEXT or (name == "source" and "://" in value):
            link = link or value
        elif name in _DROPPED:
            continue
        else:
            lines.append(value if name else line)
    return title, link, "\n".join(lines).strip()


# ---- Labels, rules and blank lines ---------------------------------------------------------------

_BLOCK_LABEL: Final = re.compile(
    r"^[ \t]*(?:\*\*)?(Title|Page|Source|URL|Link|Snippet)(?:\*\*)?[ \t]*:(?:\*\*)?", re.M | re.I
)
_DDG: Final = re.compile(r"snippet: (.*?), title: (.*?), link: (\S+?)(?=, snippet: |\s*\Z)", re.S)
_RULE: Final = re.compile(r"\n[ \t]*(?:-{3,}|\*{3,}|_{3,}|#{3,}|={3,})[ \t]*\n")
_HEADING: Final = re.compile(r"^#{1,4}[ \t]+(\S.*)$", re.M)
_BLANK: Final = re.compile(r"\n[ \t]*\n")
_CAPTION: Final = re.compile(
    r"[^\n]{1,200}:|(?:(?:found|showing|retrieved|top)\s+\d+|(?:search )?results\b|query:)"
    r"[^\n.]{0,200}",
    re.I,
)
"""A line such as ``Here are the results:`` or ``Found 2 results``."""


def _of_labels(text: str) -> Sequence[FoundPassage] | None:
    """Blocks that begin with the same label, ``Title: …`` or another; LangChain's DuckDuckGo."""
    pairs = _DDG.findall(text)
    if pairs and text.startswith("snippet:"):
        return [FoundPassage(title, snippet, link) for snippet, title, link in pairs]
    first = _BLOCK_LABEL.match(text)
    if first is None:
        return None
    label = first.group(1).lower()
    starts = [
        each.start() for each in _BLOCK_LABEL.finditer(text) if each.group(1).lower() == label
    ]
    ends = [*starts[1:], len(text)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        title, link, body = _labelled(_RULE.sub("\n", f"{text[start:end].strip()}\n").strip())
        found.append(FoundPassage(title, body, link))
    return found


def _of_rules(text: str) -> Sequence[FoundPassage] | None:
    """Passages between lines of dashes or the like."""
    parts = _without_caption([part.strip() for part in _RULE.split(text) if part.strip()])
    return [_item(part) for part in parts] if len(parts) > 1 else None


def _of_headings(text: str) -> Sequence[FoundPassage] | None:
    """Passages under headings of Markdown, at least two."""
    heads = list(_HEADING.finditer(text))
    if len(heads) < 2 or text[: heads[0].start()].strip():
        return None
    ends = [*(each.start() for each in heads[1:]), len(text)]
    bodies = [
        FoundPassage(head.group(1).strip(), text[head.end() : end].strip())
        for head, end in zip(heads, ends, strict=True)
    ]
    return [each for each in bodies if each.text] or None


def _of_blank_lines(text: str) -> Sequence[FoundPassage] | None:
    """Paragraphs, at least two, as LangChain joins documents."""
    parts = [part.strip() for part in _BLANK.split(text) if part.strip()]
    parts = _without_caption([part for part in parts if not _HEADING.fullmatch(part)])
    return [FoundPassage("", part) for part in parts] if len(parts) > 1 else None


def _without_caption(parts: list[str]) -> list[str]:
    """Without the line above the passages, which a tool prints above those of every search."""
    is_caption = len(parts) > 1 and _CAPTION.fullmatch(parts[0]) is not None
    return parts[1:] if is_caption else parts


SPLITTERS: Final[tuple[tuple[str, Splitter], ...]] = (
    ("printed documents", _of_documents),
    (_JSON, _of_json),
    ("Doc 1(Title: …)", _of_own_form),
    ("elements", _of_elements),
    ("links", _of_links),
    (_NUMBERS, _of_numbers),
    ("labels", _of_labels),
    ("rules", _of_rules),
    ("headings", _of_headings),
    ("blank lines", _of_blank_lines),
)
"""Forms in the order in which they are tried: the more a form says, the earlier."""
