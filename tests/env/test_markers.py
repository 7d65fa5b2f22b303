"""The grammar of R1-Searcher: markers in place of search tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.dynamics import EpisodeConfig
from calibadv_env.env import DeepSearchEnv
from calibadv_env.info import MARKER_STOP_STRINGS, STOP_STRINGS
from calibadv_env.protocol.actions import (
    Answer,
    Malformed,
    Search,
    is_turn_well_formed,
    parse_action,
)
from calibadv_env.protocol.passages import Passage, ScoredPassage, marked_documents
from calibadv_env.protocol.prompts import INVALID_MARKERS_TEXT, PROMPTS, grammar_of, stop_strings

QUERY = "Hm. <|begin_of_query|> {} <|end_of_query|>"
ANSWER = "So. </think>\n<answer> {} </answer>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (QUERY.format("Wau country"), Search("Hm.", "Wau country")),
        (QUERY.format('"Wau"'), Search("Hm.", "Wau")),
        (QUERY.format('""'), Malformed("Hm.")),
        ("a <|end_of_query|>", Malformed("")),
        ("<search>x</search>", Malformed("")),
        (ANSWER.format("Oslo"), Answer("So.", "Oslo")),
        (ANSWER.format("Oslo") + QUERY.format("x"), Answer("So.", "Oslo")),
        ("", Malformed("")),
    ],
)
def test_actions(text, action):
    assert parse_action(text, "markers") == action


def test_tags_do_not_see_markers():
    assert parse_action(QUERY.format("x")) == Malformed("")


@given(st.text())
def test_never_raises(text):
    assert parse_action(text, "markers").kind in ("search", "answer", "malformed")
    for kind in ("search", "answer", "malformed"):
        is_turn_well_formed(text, kind, "markers")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (QUERY.format("x"), "search", True),
        (QUERY.format("x") + " more", "search", False),
        ("<think>" + QUERY.format("x"), "search", False),
        ("</think>" + QUERY.format("x"), "search", False),
        (QUERY.format("x") * 2, "search", False),
        ("<|begin_of_documents|>" + QUERY.format("x"), "search", False),
        (ANSWER.format("x"), "answer", True),
        ("<answer>x</answer>", "answer", False),
        ("a</think> b <answer>x</answer>", "answer", False),
        ("a</think><answer>x</answer><answer>y</answer>", "answer", False),
        (QUERY.format("x"), "malformed", False),
    ],
)
def test_format(text, kind, expected):
    assert is_turn_well_formed(text, kind, "markers") is expected


def test_the_prompt_settles_the_grammar():
    assert grammar_of("r1_searcher") == "markers"
    assert grammar_of(PROMPTS["r1_searcher"]) == "markers"
    assert {grammar_of(name) for name in ("search_r1", "question", "{question}")} == {"tags"}
    assert stop_strings("r1_searcher") == MARKER_STOP_STRINGS
    assert stop_strings("search_r1") == stop_strings(None) == STOP_STRINGS
    assert PROMPTS["r1_searcher"].endswith("<think>")
    assert "{question}" in PROMPTS["r1_searcher"]
    with pytest.raises(ValueError, match="prepend_think must be False"):
        EpisodeConfig(prompt="r1_searcher", prepend_think=True)


def test_documents():
    hits = [ScoredPassage(Passage("a", "T", "x"), 1.0), ScoredPassage(Passage("b", "", "y"), 0.5)]
    assert marked_documents(hits) == (
        "\n\n<|begin_of_documents|>\n(1)T x\n(2)y\n<|end_of_documents|>\n\n"
    )
    assert "\nNone\n" in marked_documents([])
    assert marked_documents(hits, 4).endswith("(1)T<|end_of_documents|>\n\n")


def test_a_whole_episode():
    env = DeepSearchEnv(dataset="toy", prompt="r1_searcher")
    text, info = env.reset(seed=0)
    assert info["question"] in text
    observation, *_, step = env.step(QUERY.format(info["gold_queries"][0][0]))
    assert step["action"] == "search"
    assert step["gold_new"]
    assert observation.startswith("\n\n<|begin_of_documents|>\n(1)")
    observation, reward, terminated, _, step = env.step(ANSWER.format(info["golden_answers"][0]))
    assert (reward, terminated, step["is_format_valid"]) == (1.0, True, True)
    env.reset(seed=0)
    observation, _, terminated, *_ = env.step("nothing")
    assert terminated
    assert observation == INVALID_MARKERS_TEXT
