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
    """1 for a number that is near an accepted one, exact match where none is accepted.

    The answer must hold exactly one number: a list of guesses earns nothing. Thousands may be
    separated by commas; words beside the number (a unit) are not looked at.

    Attributes:
        relative: Tolerance relative to the accepted number.
        absolute: Tolerance in its own unit; the larger of the two counts.
    """

    relative: Annotated[float, FRACTION] = 0.01
    absolute: Annotated[float, NOT_NEGATIVE] = 0.0

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """0 or 1."""
        accepted = [each for gold in task.golden_answers for each in numbers_in(gold)[:1]]
        if not accepted:
            return METRICS["em"](task, answer, episode)
        given = numbers_in(answer or "")
        if len(given) != 1:
            return 0.0
        return float(
            any(
                abs(given[0] - gold) <= max(self.absolute, self.relative * abs(gold))
                for gold in accepted
            )
        )


def numbers_in(text: str) -> list[float]:
    """Numbers that stand in a text, in order; 1,234.5 is one number."""
    found = [
        match[0].replace(",", "").replace("\N{MINUS SIGN}", "-") for match in _NUMBER.finditer(text)
    ]
    return [float(each) for each in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstain(Checked):
    """A metric, with something for an agent that admits that it does not know.

    Where the task accepts an abstention (a question without an answer) it earns 1.

    Attributes:
        metric: Grades all other answers.
        credit: What an abstention earns where there is an answer.
        penalty: Taken off an answer that the metric gives 0.
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
        earned = METRICS[self.metric](task, answer, episode)
        return earned if earned > 0 else -self.penalty


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
