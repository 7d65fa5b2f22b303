"""Answers graded by their kind: names, numbers with units, lists, and "unanswerable"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

from calibadv_env.common.checks import FRACTION, Checked
from calibadv_env.graders.base import Episode, GradedTask
from calibadv_env.graders.rules import METRICS, is_abstention, numbers_in
from calibadv_env.protocol.answers import normalize_answer, token_f1

_FACTORS: Final = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_BETWEEN: Final = re.compile(r"\s*(?:,|;|\band\b|\n)\s*")
_UNIT: Final = re.compile(r"%|[a-z]+")
_NOT_COUNTED: Final = re.compile(r"\([^()]*\)|(?:/|\bper )\s*[\d,]+|\b[a-z]+\d+\b")
"""Editions in parentheses, what a rate is of, and names with digits such as CO2."""
_SAME_UNIT: Final = {"percent": "%", "kilometers": "km", "kilometres": "km", "square": "sq"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed(Checked):
    """Grades by the kind of a task's answer; F1 where the task names no kind.

    A number is right within the tolerance, if its unit does not contradict; a list earns the F1 of
    the two sets of names; a question that cannot be answered pays for saying so, and no other
    question does.

    Attributes:
        tolerance: Largest error of a number relative to the accepted one.
    """

    tolerance: Annotated[float, FRACTION] = 0.01

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """0 to 1."""
        if answer is None or not answer.strip():
            return 0.0
        kind = getattr(task, "answer_kind", "")
        if kind == "unanswerable":
            return float(is_abstention(answer))
        if kind == "number":
            return float(any(self._is_equal(answer, gold) for gold in task.golden_answers))
        if kind == "list":
            return max(set_f1(answer, gold) for gold in task.golden_answers)
        return METRICS["f1" if kind != "name" else "em"](task, answer, episode)

    def _is_equal(self, answer: str, gold: str) -> bool:
        given, wanted = _quantity(answer), _quantity(gold)
        if given is None or wanted is None:
            return False
        (value, unit), (right, right_unit) = given, wanted
        is_near = abs(value - right) <= self.tolerance * abs(right)
        return is_near and (not unit or not right_unit or bool(unit & right_unit))


def set_f1(answer: str, gold: str) -> float:
    """F1 of the names of two lists, in any order; commas, semicolons and "and" part names."""
    return token_f1(_names(answer), _names(gold))


def _names(text: str) -> list[str]:
    names = (normalize_answer(name) for name in _BETWEEN.split(text.strip().rstrip(".")))
    return list(dict.fromkeys(name for name in names if name))


@lru_cache(maxsize=4096)
def _quantity(text: str) -> tuple[float, frozenset[str]] | None:
    """The one number of a text with the words of its unit; None for none, or several."""
    lowered = _NOT_COUNTED.sub(" ", text.lower()).replace("us$", "$").replace("usd", "$")
    numbers = numbers_in(lowered)
    if len(numbers) != 1:
        return None
    words = [_SAME_UNIT.get(word, word) for word in _UNIT.findall(lowered)]
    factor = next((_FACTORS[word] for word in words if word in _FACTORS), 1.0)
    unit = frozenset(word for word in words if word not in _FACTORS)
    return numbers[0] * factor, unit | ({"$"} if "$" in lowered else frozenset())
