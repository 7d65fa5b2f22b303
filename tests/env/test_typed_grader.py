"""Answers graded by their kind."""

from dataclasses import dataclass

import pytest

from calibadv_env.graders.base import Episode
from calibadv_env.graders.typed import Typed


@dataclass(frozen=True)
class Task:
    answer_kind: str
    golden_answers: tuple[str, ...]
    id: str = "t"
    question: str = "?"


def grade(kind: str, gold: str, answer: str | None) -> float:
    return Typed()(Task(kind, (gold,)), answer, Episode())


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("41.1 million kW", 1.0),
        ("41,100,000 kW", 1.0),
        ("41.1 million", 1.0),
        ("about 41.3 million kW (2023 est.)", 1.0),
        ("42 million kW", 0.0),
        ("41.1 million km", 0.0),
        ("41.1", 0.0),
        ("41.1 million or 42 million", 0.0),
        ("no idea", 0.0),
        (None, 0.0),
    ],
)
def test_numbers_have_a_tolerance_and_a_unit(answer, reward):
    assert grade("number", "41.1 million kW", answer) == reward


def test_what_a_rate_is_of_is_no_second_number():
    assert grade("number", "10.35 births", "10.35 births/1,000 population (2025 est.)") == 1.0
    assert grade("number", "42 deaths", "42 deaths per 1,000 live births") == 1.0
    assert grade("number", "7.7 million tonnes", "7.7 million metric tonnes of CO2") == 1.0
    assert grade("number", "-0.1%", "-0.1 percent") == 1.0
    assert grade("number", "$18,900", "US$18,900") == 1.0


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("Latvia, Lithuania", 1.0),
        ("Lithuania and Latvia.", 1.0),
        ("Latvia; Lithuania; Estonia", 0.8),
        ("Latvia", pytest.approx(2 / 3)),
        ("Estonia", 0.0),
    ],
)
def test_lists_are_sets(answer, reward):
    assert grade("list", "Latvia, Lithuania", answer) == reward


def test_only_an_abstention_answers_what_cannot_be_answered():
    assert grade("unanswerable", "unanswerable", "I don't know.") == 1.0
    assert grade("unanswerable", "unanswerable", "12 km") == 0.0
    assert grade("name", "Oslo", "unknown") == 0.0


def test_names_are_equal_or_not_and_other_tasks_have_f1():
    assert grade("name", "Oslo", "oslo") == 1.0
    assert grade("name", "Oslo", "Oslo city") == 0.0
    assert grade("", "Oslo", "Oslo city") == pytest.approx(2 / 3)
