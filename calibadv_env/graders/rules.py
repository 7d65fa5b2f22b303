"""Graders that need no model: metrics, numbers, abstention, citations, criteria."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

from calibadv_env.common.checks import FRACTION, NOT_NEGATIVE, Checked
from calibadv_env.graders.base import Episode, GradedTask, Grader
from calibadv_env.protocol.answers import (
    contains_answer,
    grade_answer,
    normalize_answer,
    searchable_answers,
)
from calibadv_env.rewards import answer_reward

MetricName = Literal["f1", "em", "cover_em"]

ABSTENTIONS: Final = (
    "i do not know",
    "i dont know",
    "unknown",
    "not known",
    "unanswerable",
    "not enough information",
    "insufficient information",
    "cannot be determined",
    "no answer",
)
"""Answers that admit ignorance, normalised as answers are."""

_NUMBER: Final = re.compile(
    r"[-+\N{MINUS SIGN}]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
)
_CITATION: Final = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Metric:
    """A string metric of the answer.

    Attributes:
        name: Which one.
    """

    name: MetricName

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """0 to 1."""
        scores = grade_answer(answer, task.golden_answers, "auto")
        return answer_reward(answer, task.golden_answers, scores, self.name, normalizer="auto")


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "f1": Metric("f1"),
        "em": Metric("em"),
        "cover_em": Metric("cover_em"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric(Checked):
    """1 for a number that is near an accepted one; other answers by exact match.

    Both must hold exactly one number: a list of guesses earns nothing, and an accepted answer with
    none or several ("4 July 1776") has to be given word by word. Thousands may be separated by
    commas; words beside the number (a unit) are not looked at. A year needs ``relative=0``: one
    per cent of it are two decades.

    Attributes:
        relative: Tolerance relative to the accepted number.
        absolute: Tolerance in its own unit; the larger of the two counts.
    """

    relative: Annotated[float, FRACTION] = 0.01
    absolute: Annotated[float, NOT_NEGATIVE] = 0.0

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """0 or 1."""
        given = numbers_in(answer or "")
        if len(given) == 1 and any(self._is_near(given[0], gold) for gold in task.golden_answers):
            return 1.0
        return METRICS["em"](task, answer, episode)

    def _is_near(self, value: float, gold: str) -> bool:
        accepted = numbers_in(gold)
        if len(accepted) != 1:
            return False
        return abs(value - accepted[0]) <= max(self.absolute, self.relative * abs(accepted[0]))


def numbers_in(text: str) -> list[float]:
    """Numbers that stand in a text, in order; 1,234.5 is one number."""
    found = [
        match[0].replace(",", "").replace("\N{MINUS SIGN}", "-") for match in _NUMBER.finditer(text)
    ]
    return [float(each) for each in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstain(Checked):
    """A metric, with something for an agent that admits that it does not know.

    Where the task accepts an abstention (a question without an answer) it earns 1, and nothing
    else is right there: "Paris, or unknown" shares a word with an accepted answer and earns 0.

    Attributes:
        metric: Grades all other answers.
        credit: What an abstention earns where there is an answer.
        penalty: Taken off an answer by as much as it is wrong: all of it where the metric is 0,
            half where it is one half, so that a word in common buys no way out.
    """

    metric: MetricName = "f1"
    credit: Annotated[float, FRACTION] = 0.25
    penalty: Annotated[float, NOT_NEGATIVE] = 0.0

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """``-penalty`` to 1."""
        if answer is None:
            return 0.0
        if is_abstention(answer):
            return 1.0 if any(map(is_abstention, task.golden_answers)) else self.credit
        is_answerable = not any(map(is_abstention, task.golden_answers))
        earned = METRICS[self.metric](task, answer, episode) if is_answerable else 0.0
        return earned - self.penalty * (1 - earned)


def is_abstention(answer: str) -> bool:
    """True if an answer says no more than that it is not known."""
    return (
        normalize_answer(answer.replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))
        in ABSTENTIONS
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Citations(Checked):
    """A metric of the answer, times the share of its citations that hold up.

    An answer cites passages by title or id in brackets: ``Paris [Eiffel Tower]``. A citation holds
    if such a passage was shown and an accepted answer stands in it. Without a citation nothing is
    earned, so that an answer from memory is not paid; each passage counts once.

    Attributes:
        metric: Grades the answer without its citations.
        max_citations: Most citations; with more nothing is earned.
    """

    metric: MetricName = "f1"
    max_citations: Annotated[int, NOT_NEGATIVE] = 3

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """0 to 1."""
        cited = {each.strip().casefold() for each in _CITATION.findall(answer or "")}
        if answer is None or not 0 < len(cited) <= self.max_citations:
            return 0.0
        wanted = searchable_answers(task.golden_answers, "auto")
        holds = {
            name.casefold()
            for id_, title, text in episode.shown
            if contains_answer([(title, text)], wanted)
            for name in (id_, title)
        }
        bare = _CITATION.sub("", answer).strip()
        return METRICS[self.metric](task, bare, episode) * len(cited & holds) / len(cited)


GRADERS: Final[Mapping[str, Callable[[], Grader]]] = MappingProxyType(
    {"numeric": Numeric, "abstain": Abstain, "citations": Citations}
)
"""Graders by name, each made with its defaults."""
