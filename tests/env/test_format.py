"""The verdict on the format, of single turns and of whole responses."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.actions import is_turn_well_formed
from calibadv_env.protocol.answers import grade_answer
from calibadv_env.protocol.prompts import INVALID_ACTION_TEXT
from calibadv_env.protocol.transcripts import extract_answer, is_format_valid

SEARCH = "<think>t</think><search>q</search>"
INFO = "\n\n<information>Doc 1(Title: T) x</information>\n\n"
ANSWER = "<think>t</think><answer>x</answer>"
TAGS = [
    f"<{slash}{tag}>" for tag in ("think", "search", "information", "answer") for slash in ("", "/")
]
ANY_TEXT = st.text(alphabet=st.characters())


@pytest.mark.parametrize(
    "response",
    [
        SEARCH + INFO + ANSWER,
        SEARCH + INFO + SEARCH + INFO + ANSWER,
        f"\n {SEARCH}\n{INFO}{ANSWER} \n<|endoftext|>",
        SEARCH + "<information></information>" + "<think></think>\n<answer></answer>",
        SEARCH + INFO + "<think>1 < 2 and <b>bold</b></think><answer>x</answer>",
    ],
)
def test_valid_responses(response):
    assert is_format_valid(response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        ANSWER,  # no search
        SEARCH + INFO,  # no answer
        SEARCH + ANSWER,  # no information
        "x" + SEARCH + INFO + ANSWER,
        SEARCH + "x" + INFO + ANSWER,
        SEARCH + INFO + ANSWER + "x",
        SEARCH + INFO + ANSWER + ANSWER,
        SEARCH + INFO + "<think>t</think>x<answer>x</answer>",
        SEARCH + INFO + "<think>t<answer>x</answer>",
        SEARCH + INFO + "<think>t <think>u</think></think><answer>x</answer>",
        SEARCH + INFO + "<think>t</think><answer>x<answer></answer>",
        SEARCH + "<information>a <answer>x</answer></information>" + ANSWER,
        SEARCH + INFO + f"<think>{INVALID_ACTION_TEXT.strip()}</think><answer>x</answer>",
        SEARCH + INFO + "<answer>x</answer>",
        INFO + SEARCH + INFO + ANSWER,
    ],
)
def test_invalid_responses(response):
    assert not is_format_valid(response)


def slow_state_machine(response):
    """The rules again, by cutting tags off the front one at a time."""
    response = response.replace("<|endoftext|>", "")
    if any(response.count(tag) != response.count("</" + tag[1:]) for tag in TAGS[::2]):
        return False

    def block(text, tag):
        text = text.lstrip()
        if not text.startswith(f"<{tag}>") or f"</{tag}>" not in text:
            return None
        body, rest = text[len(tag) + 2 :].split(f"</{tag}>", 1)
        return None if any(other in body for other in TAGS) else rest

    searches, rest = 0, response
    while True:
        rest = block(rest, "think")
        if rest is None:
            return False
        final = block(rest, "answer")
        if final is not None:
            return searches > 0 and not final.strip()
        rest = block(rest, "search")
        rest = None if rest is None else block(rest, "information")
        if rest is None:
            return False
        searches += 1


@given(
    st.lists(
        st.sampled_from([SEARCH, INFO, ANSWER, *TAGS, " ", "x", "<|endoftext|>"]), max_size=8
    ).map("".join)
)
def test_state_machine_agrees_with_a_slow_one(response):
    assert is_format_valid(response) == slow_state_machine(response)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (SEARCH, "search", True),
        (ANSWER, "answer", True),
        (f" {SEARCH} \n", "search", True),
        ("<think>a < b <b></think> <search>x<y</search><|endoftext|>", "search", True),
        (SEARCH, "answer", False),
        (ANSWER, "search", False),
        ("<think>t</think>", "malformed", False),
        ("<search>q</search>", "search", False),
        (SEARCH + "x", "search", False),
        (SEARCH + ANSWER, "search", False),
        (SEARCH + INFO + ANSWER, "search", False),
        (ANSWER + "</answer>", "answer", False),
        ("x" + ANSWER, "answer", False),
        ("<think>t</think>x<answer>x</answer>", "answer", False),
        ("<think>t <search></think><search>q</search>", "search", False),
        ("<think>t</think><answer><information>x</answer>", "answer", False),
        ("<think><think>t</think><answer>x</answer>", "answer", False),
        ("<think>t</think><search>q</answer>", "search", False),
    ],
)
def test_turns(text, kind, expected):
    assert is_turn_well_formed(text, kind) is expected


@given(
    st.lists(st.sampled_from([*TAGS, " ", "x", "<", "\u2003"]), max_size=8).map("".join),
    st.booleans(),
)
def test_turn_verdict_is_the_state_machine_with_the_rest_put_round_it(text, is_answer):
    for piece in (text, (ANSWER if is_answer else SEARCH) + text):
        if is_answer:
            assert is_turn_well_formed(piece, "answer") == (
                is_format_valid(SEARCH + INFO + piece) and "<search>" not in piece
            )
        else:
            assert is_turn_well_formed(piece, "search") == (
                is_format_valid(piece + INFO + ANSWER) and "<information>" not in piece
            )


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (SEARCH + INFO + ANSWER, "x"),
        ("<answer>a</answer><answer> b </answer>", "b"),
        ("<answer>a<answer>b</answer>", "a<answer>b"),
        ("<answer>a</answer><answer>b", "a"),
        ("</answer>a<answer>", None),
        ("", None),
        ("<answer></answer>", ""),
    ],
)
def test_extract_answer(response, answer):
    assert extract_answer(response) == answer


@given(
    st.lists(st.sampled_from([*TAGS, "\x00", "\ud800", "é", "x" * 50]), max_size=40).map("".join)
)
def test_hostile_text_never_raises(text):
    is_format_valid(text)
    extract_answer(text)
    grade_answer(text, ["x"])
    for kind in ("search", "answer", "malformed"):
        is_turn_well_formed(text, kind)


@pytest.mark.parametrize(
    "piece", [*TAGS, "<", " ", "the ", "<answer>x</answer>", "<think>x</think>"]
)
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.perf_counter()
    is_format_valid(text)
    extract_answer(text)
    is_turn_well_formed(text, "answer")
    is_turn_well_formed("<think>" + text + "</think><answer>x</answer>", "answer")
    grade_answer(text, ["x"])
    assert time.perf_counter() - started < 5
