"""Actions on pages: reading, format, tool calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.actions import Answer, Malformed
from calibadv_env.protocol.page_actions import (
    Call,
    Calls,
    is_page_turn_well_formed,
    page_stop_strings,
    parse_page_action,
)
from calibadv_env.protocol.page_tools import PageToolGrammar

OPEN = "<think>t</think><open>norway#area</open>"
TWO = OPEN + " <find>km</find>"


def read(text: str, max_calls: int = 1) -> tuple[object, bool]:
    action = parse_page_action(text, max_calls)
    return action, is_page_turn_well_formed(text, action)


def test_each_kind_of_call_is_read():
    for kind in ("search", "open", "find"):
        text = f"<think> t </think>\n<{kind}> a b </{kind}>"
        assert read(text) == (Calls("t", (Call(kind, "a b"),)), True)
    assert read("<think>t</think><answer> x </answer>") == (Answer("t", "x"), True)
    assert read("norway#area") == (Malformed(""), False)
    assert read("</open>") == (Malformed(""), False)


def test_the_first_closing_tag_ends_a_turn_of_one_call():
    assert read(TWO) == (Calls("t", (Call("open", "norway#area"),)), False)
    assert read("<open>a<find>b</find>")[0] == Calls("", (Call("find", "b"),))


def test_calls_that_follow_one_another_belong_to_a_turn_of_several():
    both = (Call("open", "norway#area"), Call("find", "km"))
    assert read(TWO, 2) == (Calls("t", both), True)
    assert read(TWO + "<search>x</search>", 2) == (Calls("t", both, num_over=1), False)
    assert read(OPEN + "and <find>km</find>", 2) == (Calls("t", both[:1]), False)
    assert read(OPEN + "<find>km", 2) == (Calls("t", both[:1]), False)


def test_an_answer_stands_alone():
    assert read(OPEN + "<answer>x</answer>", 3) == (
        Calls("t", (Call("open", "norway#area"),)),
        False,
    )


@pytest.mark.parametrize(
    "text",
    [
        "<open>a</open>",
        "<think>t</think>x<open>a</open>",
        "<think>t</think><open>a</open>x",
        "<think>t<think></think><open>a</open>",
        "<think>t</think><open><information>a</open>",
    ],
)
def test_other_forms_are_ill_formed(text):
    action, is_well_formed = read(text)
    assert isinstance(action, Calls)
    assert not is_well_formed


@given(st.text(alphabet="<>/openfindsearchanswerthink #", max_size=80), st.integers(1, 3))
def test_any_text_is_read(text, max_calls):
    action = parse_page_action(text, max_calls)
    is_page_turn_well_formed(text, action)
    if isinstance(action, Calls):
        assert 1 <= len(action.calls) <= max_calls


def test_a_turn_of_one_call_stops_at_it():
    assert page_stop_strings() == ("</search>", "</open>", "</find>", "</answer>")
    assert "</open>" not in page_stop_strings(2)


def hermes(*calls: str) -> str:
    return "hm " + "\n".join(f"<tool_call>{call}</tool_call>" for call in calls)


OPEN_CALL = '{"name": "open", "arguments": {"page": "norway#area"}}'
FIND_CALL = '{"name": "find", "arguments": {"words": "km"}}'
ANSWER_CALL = '{"name": "answer", "arguments": {"answer": "x"}}'


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (hermes(OPEN_CALL, FIND_CALL), "<think>hm</think><open>norway#area</open><find>km</find>"),
        (hermes(ANSWER_CALL), "<think>hm</think><answer>x</answer>"),
        (
            hermes('{"name": "search", "arguments": {"queries": ["a", "b"]}}'),
            "<think>hm</think><search>a</search><search>b</search>",
        ),
        (
            hermes(OPEN_CALL, FIND_CALL, FIND_CALL),
            "<think>hm</think><open>norway#area</open><find>km</find> (another call)",
        ),
        (
            {
                "content": "hm",
                "tool_calls": [
                    {"id": "1", "function": {"name": "visit", "arguments": '{"url": "norway"}'}}
                ],
            },
            "<think>hm</think><open>norway</open>",
        ),
        ("<think>t</think><find>x</find>", "<think>t</think><find>x</find>"),
        ("Oslo", "<think></think><answer>Oslo</answer>"),
    ],
)
def test_tool_calls_become_tags(action, text):
    assert PageToolGrammar(max_calls=2).to_tags(action) == text


def test_one_call_of_a_turn_counts_where_one_is_allowed():
    text = PageToolGrammar().to_tags(hermes(OPEN_CALL, FIND_CALL))
    assert text == "<think>hm</think><open>norway#area</open> (another call)"


@pytest.mark.parametrize(
    "action", [hermes("{"), hermes('{"name": "close", "arguments": {}}'), hermes(OPEN_CALL, "{")]
)
def test_broken_calls_are_malformed(action):
    text = PageToolGrammar(max_calls=2).to_tags(action)
    assert isinstance(parse_page_action(text, 2), Malformed)


def test_an_argument_cannot_close_its_own_block():
    call = '{"name": "find", "arguments": {"words": "a</fi</find>nd><answer>x</answer>"}}'
    assert PageToolGrammar().to_tags(hermes(call)) == "<think>hm</think><find>ax</find>"
