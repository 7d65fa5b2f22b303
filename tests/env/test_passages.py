"""Passages as they are printed, and the one parser of what is printed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.passages import (
    Passage,
    ScoredPassage,
    format_passages,
    information_block,
    marked_documents,
    parse_passages,
)

HITS = [
    ScoredPassage(Passage("1", "Oslo", "Oslo is in Norway."), 2.0),
    ScoredPassage(Passage("2", "", "Untitled."), 1.0),
]
BODY = "Doc 1(Title: Oslo) Oslo is in Norway.\nDoc 2(Title: ) Untitled.\n"
INFORMATION = "\n\n<information>Doc 1(Title: A) a text\n</information>\n\n"
WORDS = st.text(alphabet="ab (c)[1]:.\n", max_size=12).map(lambda text: " ".join(text.split()))
FOUND = st.lists(st.tuples(st.text(alphabet="ab .:-", max_size=8), WORDS), min_size=1, max_size=4)


def scored(pairs: list[tuple[str, str]]) -> list[ScoredPassage]:
    return [ScoredPassage(Passage("id", title, text), 1.0) for title, text in pairs]


def test_passages_are_numbered_lines() -> None:
    assert format_passages(HITS) == BODY
    assert format_passages([]) == ""


def test_information_block_styles() -> None:
    assert information_block(BODY, compact=True) == f"<information>{BODY}</information>"
    assert (
        information_block(BODY, compact=False)
        == f"\n\n<information>{BODY.strip()}</information>\n\n"
    )


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("max_chars", [0, 1, 20, 10_000])
def test_cutting_keeps_the_closing_tag(compact: bool, max_chars: int) -> None:
    block = information_block(BODY, compact=compact, max_chars=max_chars)
    body = block.strip().removeprefix("<information>").removesuffix("</information>")
    assert block.strip() == f"<information>{body}</information>"
    assert BODY.startswith(body)
    assert len(body) <= max_chars


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (INFORMATION, [("A", "a text")]),
        ('<information>Doc 1(Title: "A (b)") one (c)\nDoc 2(Title: B) two</information>',
         [("A (b)", "one (c)"), ("B", "two")]),
        ("Doc 1 (Title: A)\none\n\nDoc 2 (Title: B)\ntwo\n", [("A", "one"), ("B", "two")]),
        ('<tool_response>{"result": "Doc 1 (Title: A)\\none"}</tool_response>', [("A", "one")]),
        ("<tool_response>Doc 1(Title: A) a</tool_response>\n<tool_response>Doc 1(Title: B) b"
         "</tool_response>", [("A", "a"), ("B", "b")]),
        ('{"result": [[{"document": {"id": "1", "contents": "\\"A\\"\\none"}, "score": 1}]]}',
         [("A", "one")]),
        ('[{"title": "A", "text": "one"}, {"title": "B", "snippet": "two"}]',
         [("A", "one"), ("B", "two")]),
        ("[1] one\n[2] two", [("", "one"), ("", "two")]),
        ("Doc 1: one\nDoc 3: not the second", [("", "one\nDoc 3: not the second")]),
        ("free text", [("", "free text")]),
        ("<information>Doc 1(Title: A (b)) text (c)\nDoc 2(Title: ) two\n</information>",
         [("A (b)", "text (c)"), ("", "two")]),
        ("\n\n<information>Doc 1(Title: A) one\nDoc 2(Tit</information>\n\n<think>",
         [("A", "one"), ("", "(Tit")]),
        ("<information>Doc 1(Title: :-( one\n</information>", [(":-( one", "")]),
        ("<information>Doc 1(Title: x) see </information> in text\n</information>",
         [("x", "see </information> in text")]),
        ("<|begin_of_documents|>\nNone\n<|end_of_documents|>", []),
        ("<|begin_of_documents|>\nfree\n<|end_of_documents|>", [("", "free")]),
        ("<information></information>", []),
        ("{broken", [("", "{broken")]),
        ("Doc 1(Title: never closed", [("never closed", "")]),
        ("", []),
    ],
)  # fmt: skip
def test_passages_are_split(observation: str, expected: Any) -> None:
    assert parse_passages(observation) == expected


@given(FOUND, st.booleans())
def test_what_is_printed_is_read_back(pairs: list[tuple[str, str]], compact: bool) -> None:
    block = information_block(format_passages(scored(pairs)), compact=compact)
    assert parse_passages(block) == [(title.strip(), text) for title, text in pairs]


@given(FOUND)
def test_marked_documents_are_read_back_without_titles(pairs: list[tuple[str, str]]) -> None:
    lines = [" ".join(pair).strip() for pair in pairs]
    assert parse_passages(marked_documents(scored(pairs))) == [("", line) for line in lines]


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for observation in (text, f"Doc 1(Title: {text}", f"<information>{text}", f"(1){text}"):
        assert all(len(pair) == 2 for pair in parse_passages(observation))
