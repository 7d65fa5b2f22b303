"""Results of other systems' search tools, split into passages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.literals import parse_literal
from calibadv_env.protocol.search_results import NOTHING, WHOLE, split_results

GOOGLE = (
    "A Google search for '{0}' found 2 results:\n\n## Web Results\n"
    "1. [A (x)](https://e.org/a_(x))\nDate published: May 2020\nSource: E\n\nOne [see](https://f.org).\n\n"
    "2. [B](https://e.org/b)\n\nTwo."
)
OBJECTS = [{"title": "A", "snippet": "One."}, {"title": "B", "snippet": "Two."}]
BOTH = [("A", "One."), ("B", "Two.")]
RESULTS = "\n".join(
    f"<result><title>{title}</title><url>u</url><snippet>{text}</snippet></result>"
    for title, text in BOTH
)


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("Doc 1(Title: A) One.\nDoc 2(Title: B) Two.", "Doc 1(Title: …)", BOTH),
        (GOOGLE.format("q"), "links", [("A (x)", "One [see](https://f.org)."), ("B", "Two.")]),
        ("## Search Results\n\n[A](http://a)\nOne.\n\n[B](http://b)\nTwo.", "links", BOTH),
        ("- **[A](http://a)**: One.", "links", [("A", ": One.")]),
        ("<Document href='u'/>\nOne.\n</Document>\n<Document href='v'/>\nTwo.\n</Document>",
         "elements", [("", "One."), ("", "Two.")]),
        ("<doc id=1 title=\"A\">One.</doc><doc id=2 title='B'>Two.</doc>", "elements", BOTH),
        ("<snippet id=x><title>A</title><text>One.</text></snippet>", "elements", [("A", "One.")]),
        (f"<results>{RESULTS}</results>", "elements", BOTH),
        (f"<tool_response>\n<search_results>{RESULTS}</search_results>\n</tool_response>",
         "elements", BOTH),
        (RESULTS, "elements", BOTH),
        ("Here are the search results:\n\nOne.\n\nTwo.", "blank lines",
         [("", "One."), ("", "Two.")]),
        ("Found 2 results\n---\nOne.\n---\nTwo.", "rules", [("", "One."), ("", "Two.")]),
        ("Found 2 results\n\nOne.", WHOLE, [("", "Found 2 results\n\nOne.")]),
        (json.dumps({"searchParameters": {}, "organic": OBJECTS}), "JSON", BOTH),
        (json.dumps({"r": json.dumps({"kind": "customsearch#search", "items": OBJECTS})}), "JSON",
         BOTH),
        (json.dumps({"webPages": {"value": [{"name": "A", "snippet": "One."}]}}), "JSON",
         [("A", "One.")]),
        (json.dumps({"hits": {"hits": [{"_source": {"title": "A", "text": "One."}}]}}), "JSON",
         [("A", "One.")]),
        (json.dumps([{"page_content": "One.", "metadata": {"title": "A"}}]), "JSON",
         [("A", "One.")]),
        (json.dumps({"titles": ["A", "B"], "texts": ["One.", "Two."]}), "JSON", BOTH),
        (json.dumps({"documents": [["One.", "Two."]]}), "JSON", [("", "One."), ("", "Two.")]),
        (json.dumps([{"type": "text", "text": GOOGLE.format("q")}]), "JSON",
         [("A (x)", "One [see](https://f.org)."), ("B", "Two.")]),
        (json.dumps({"rows": [{"ticker": "X", "form": "10-K"}, {"ticker": "Y", "form": "8-K"}]}),
         "JSON", [("", "ticker: X; form: 10-K"), ("", "ticker: Y; form: 8-K")]),
        ("[{'title': 'A', 'body': \"it's\"}]", "JSON", [("A", "it's")]),
        ('{"title": "A", "text": "One."}\n{"title": "B", "text": "Two."}', "JSON", BOTH),
        ("[1] A\nOne.\n[2] B\nTwo.", "numbers", BOTH),
        ("Passage 1: \"A\"\nOne.\nPassage 2: \"B\"\nTwo.", "numbers", BOTH),
        ("[Document 1](Title: A) One.\n[Document 2](Title: B) Two.", "numbers", BOTH),
        ('**Web Page 1:**\n{"title": "A", "snippet": "One."}', "numbers", [("A", "One.")]),
        ("Title: A\nURL: http://a\nOne.\n\nTitle: B\nURL: http://b\nTwo.", "labels", BOTH),
        ("Page: A\nSummary: One.\n\nPage: B\nSummary: Two.", "labels", BOTH),
        ("snippet: One., title: A, link: http://a, snippet: Two., title: B, link: http://b",
         "labels", BOTH),
        ("One.\n---\nTwo.", "rules", [("", "One."), ("", "Two.")]),
        ("## A\nOne.\n## B\nTwo.", "headings", BOTH),
        ("One.\n\nTwo.", "blank lines", [("", "One."), ("", "Two.")]),
    ],
)  # fmt: skip
def test_every_form(text: str, form: str, expected: list[tuple[str, str]]) -> None:
    for shown in (text, f"<information>{text}</information>", f"<result>\n{text}\n</result>"):
        result = split_results(shown)
        assert [(each.title, each.text) for each in result.passages] == expected
        assert result.form == form


def test_results_of_several_queries_are_split_one_by_one() -> None:
    text = GOOGLE.format("q") + "\n=======\n" + GOOGLE.format("r")
    assert [each.title for each in split_results(text).passages] == ["A (x)", "B", "A (x)", "B"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", NOTHING),
        ("No results found for 'x'. Try with a more general query.", NOTHING),
        ("[Search] Error: timeout", NOTHING),
        ('{"organic": []}', NOTHING),
        ('{"error": "rate limit"}', NOTHING),
        ("[]", NOTHING),
        ("<|begin_of_documents|>\nNone\n<|end_of_documents|>", NOTHING),
        ("A paragraph of prose.", WHOLE),
        ('{"answer": "' + "long text " * 60 + '"}', WHOLE),
        ('{"results": "A paragraph that a model wrote, without any passages."}', WHOLE),
        ("<|begin_search_result|>1. **One.**\n2. **Two.**<|end_search_result|>", WHOLE),
        ("No doubt: " + "the text goes on. " * 30, WHOLE),
    ],
)
def test_what_holds_no_passages_says_so(text: str, form: str) -> None:
    result = split_results(text)
    assert result.form == form
    assert len(result.passages) == (form == WHOLE)


@given(st.text(alphabet="ab1.[](){}<>/:#-*\n\"' ", max_size=80))
def test_any_text_is_split(text: str) -> None:
    result = split_results(text)
    assert (result.form == NOTHING) == (not result.passages)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("['it\\'s'\n \"b\"]", ["it's", "b"]),
        ("{'target': array(['a', 'b'], dtype=object)}", {"target": ["a", "b"]}),
        ("array(['a'], dtype='<U5')", ["a"]),
        ("('a', 'b')", ["a", "b"]),
        ('{"target": "a"}', {"target": "a"}),
        ("[1] Rabat [2]", None),
        ("[sic]", None),
        ("(a)", None),
        ("Rabat", None),
        ("[" * 5000 + "]" * 5000, None),
        ("", None),
    ],
)
def test_literals(text: str, value: Any) -> None:
    assert parse_literal(text) == value
