import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.actions import Answer, Malformed, Search, parse_action

PIECES = st.sampled_from(
    ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "a", " ", "\n", "<"]
)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>t</think><search>q</search>", Search("t", "q")),
        ("<think> t </think>\n<search> a\nb </search>", Search("t", "a\nb")),
        ("<think>t</think><answer>x</answer>", Answer("t", "x")),
        ("<search></search>", Search("", "")),
        ("<answer></answer>", Answer("", "")),
        ("", Malformed("")),
        ("just talk", Malformed("")),
        ("<think>t</think>", Malformed("t")),
        ("<think>t", Malformed("t")),
        ("t</think><search>q</search>", Search("t", "q")),
        ("<think>t<search>q</search>", Search("t", "q")),
        ("<search>q", Malformed("")),
        ("q</search>", Malformed("")),
        ("<search>q</answer>", Malformed("")),
        ("<search>q</search><answer>x</answer>", Search("", "q")),
        ("<answer>x</answer><search>q</search>", Answer("", "x")),
        ("</answer><search>q</search>", Malformed("")),
        ("<answer>x</answer><answer>y</answer>", Answer("", "x")),
        ("<search>a<search>b</search>", Search("", "a<search>b")),
        ("<search>a<answer>b</answer>", Answer("", "b")),
        ("<SEARCH>q</SEARCH>", Malformed("")),
        ("< search>q</search>", Malformed("")),
        ("\x00<search>\ud800</search>", Search("", "\ud800")),
    ],
)
def test_parse(text, action):
    assert parse_action(text) == action


@given(st.lists(PIECES, max_size=12).map("".join))
def test_agrees_with_the_regular_expression_on_the_cut_text(text):
    stops = [text.find(stop) + len(stop) for stop in ("</search>", "</answer>") if stop in text]
    cut = text[: min(stops)] if stops else text
    match = re.search(r"<(search|answer)>(.*?)</\1>", cut, re.DOTALL)
    action = parse_action(text)
    if match is None:
        assert isinstance(action, Malformed)
    else:
        assert action.kind == match.group(1)
        content = action.query if isinstance(action, Search) else action.answer
        assert content == match.group(2).strip()


@given(st.text(alphabet=st.characters()))
def test_never_raises(text):
    assert parse_action(text).kind in ("search", "answer", "malformed")


@pytest.mark.parametrize("piece", ["<search>", "</search>", "<think>", "<answer>x", "</", "a"])
def test_a_megabyte_takes_no_time(piece):
    started = time.perf_counter()
    parse_action(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - started < 1
