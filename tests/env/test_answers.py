"""Answers compared with accepted ones, and looked for in texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.protocol.answers import (
    MAX_WORDS_ROUND_ANSWER,
    NO_ANSWER,
    AnswerScores,
    contains_answer,
    contains_words,
    cover_exact_match,
    covers_words,
    exact_match,
    f1_score,
    grade_answer,
    normalize_answer,
    official_f1,
    searchable_answers,
)

ANY_TEXT = st.text(alphabet=st.characters())


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat!", "cat"),
        ("a.n. apple", "apple"),  # punctuation goes first, which makes an article of "a.n."
        ("Theatre an-other", "theatre another"),
        ("U.S.A", "usa"),
        ("", ""),
        ("The", ""),
        ("Zürich\t\u00a0CITY", "zürich city"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is deleted
    ],
)
def test_normalize(text, normalized):
    assert normalize_answer(text) == normalized


@given(ANY_TEXT)
def test_normalization_does_not_add_words_the_second_time(text):
    once = normalize_answer(text)
    assert len(normalize_answer(once).split()) <= len(once.split())


def test_metrics_by_hand():
    golds = ["the Eiffel Tower", "Tour Eiffel"]
    assert exact_match("Eiffel tower.", golds) == 1
    assert exact_match("Eiffel", golds) == 0
    assert f1_score("the tall Eiffel tower", golds) == pytest.approx(2 * 2 / (3 + 2))
    assert f1_score("x x eiffel", ["eiffel eiffel x"]) == pytest.approx(2 * 2 / 6)
    assert f1_score("louvre", golds) == 0
    assert cover_exact_match("It is the Eiffel Tower in Paris", golds) == 1
    assert cover_exact_match("tower Eiffel", golds) == 0
    assert f1_score("x", []) == exact_match("x", []) == cover_exact_match("x", []) == 0


def test_answers_of_which_nothing_is_left():
    assert f1_score("the", ["a"]) == 0
    assert exact_match("the", ["a"]) == 0
    assert cover_exact_match("the", ["a"]) == 0
    assert f1_score("A", ["a"]) == exact_match("A", ["a"]) == cover_exact_match("A", ["a"]) == 1
    assert cover_exact_match("anything", ["a"]) == 0


@pytest.mark.parametrize(
    ("answer", "goldens", "plain", "official"),
    [
        ("Yes, they are both American", ["yes"], 1 / 3, 0.0),
        ("no one", ["no"], 2 / 3, 0.0),
        ("Yes.", ["yes"], 1.0, 1.0),
        ("no", ["yes no"], 2 / 3, 0.0),
        ("no one", ["no", "no one else"], 0.8, 0.8),
        ("noanswer", ["noanswer"], 1.0, 1.0),
        ("the Eiffel tower", ["Eiffel"], 2 / 3, 2 / 3),
    ],
)
def test_official_f1_of_yes_and_no(answer, goldens, plain, official):
    """Numbers of hotpot_evaluate_v1.py; those of SQuAD give partial credit."""
    assert f1_score(answer, goldens) == pytest.approx(plain)
    assert official_f1(answer, goldens) == pytest.approx(official)


def test_grade_answer():
    assert grade_answer(None, ["x"]) == NO_ANSWER
    assert grade_answer("", ["the"]) == NO_ANSWER
    assert grade_answer(" \n", ["the"]) == NO_ANSWER
    assert grade_answer("The X y", ["x", "z"]) == AnswerScores(
        em=0, f1=pytest.approx(2 / 3), cover_em=1
    )


@given(ANY_TEXT, st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_grade_agrees_with_the_metrics(answer, golds):
    scores = grade_answer(answer, golds)
    if not answer.strip():
        assert scores == NO_ANSWER
        return
    assert scores.em == exact_match(answer, golds)
    assert scores.f1 == f1_score(answer, golds)
    assert scores.cover_em == cover_exact_match(answer, golds)
    assert 0 <= scores.f1 <= 1


@pytest.mark.parametrize(
    ("title", "text", "golds", "expected"),
    [
        ("", "It lies in Oman.", ["Oman"], True),
        ("", "It lies in Romania.", ["Oman"], False),
        ("Oman", "A country.", ["the OMAN!"], True),
        ("New", "York is big.", ["New York"], False),
        ("", "Anything at all", ["the", "..."], False),
        ("", "x", [], False),
        ("", "one two", ["three", "two"], True),
    ],
)
def test_contains_answer(title, text, golds, expected):
    passages = [("", "nothing"), (title, text)]
    answers = searchable_answers(golds)
    assert contains_answer(passages, answers) is expected
    assert not contains_answer([], answers)


@pytest.mark.parametrize(
    ("text", "words", "stands"),
    [
        ("Romania", "Oman", False),
        ("a b", "B", True),
        ("in oman.", "The Oman", True),
        ("the", "the", False),
    ],
)
def test_words_stand_at_word_boundaries(text, words, stands):
    assert contains_words(text, words) is stands


@pytest.mark.parametrize(
    ("answer", "golden", "is_covered"),
    [
        ("The capital is Rabat.", "Rabat", True),
        ("rabat", "Rabat", True),
        ("Romania", "Oman", False),
        ("Puncak Jaya", ".ca", False),
        ("the .ca domain", ".ca", True),
        ("not Rabat", "Rabat", True),  # containment cannot tell; the docs say so
        ("one " * MAX_WORDS_ROUND_ANSWER + "Rabat", "Rabat", True),
        ("one " * (MAX_WORDS_ROUND_ANSWER + 1) + "Rabat", "Rabat", False),
        ("one " * MAX_WORDS_ROUND_ANSWER + "New York", "New York", True),
        (" ", "the", False),
        ("", "Rabat", False),
        ("anything", "?", False),
    ],
)
def test_covering_as_a_reward_counts_whole_words_in_a_short_answer(answer, golden, is_covered):
    assert covers_words(answer, [golden]) is is_covered
    assert covers_words(answer, ["Lima", golden]) is is_covered
