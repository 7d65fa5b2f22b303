"""What a grader is given and gives: any callable ``(task, answer, episode) -> float``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from calibadv_env.errors import RewardError


class GradedTask(Protocol):
    """A question, as far as graders know it."""

    @property
    def id(self) -> str:
        """Id of the task."""
        ...

    @property
    def question(self) -> str:
        """The bare question."""
        ...

    @property
    def golden_answers(self) -> tuple[str, ...]:
        """Accepted answers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What happened before an answer.

    Attributes:
        shown: Passages that the agent was shown, as id, title and text, each once, in order.
        thoughts: Thought of every turn, as words.
        num_searches: Searches that were carried out.
        gold_recall: Share of the hops with evidence that was hit; NaN where none is named.
        is_format_valid: Whether every turn was well-formed.
    """

    shown: tuple[tuple[str, str, str], ...] = ()
    thoughts: tuple[tuple[str, ...], ...] = ()
    num_searches: int = 0
    gold_recall: float = math.nan
    is_format_valid: bool = True


@runtime_checkable
class Grader(Protocol):
    """What an episode's answer earns, before the format gate."""

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """A finite number, usually 0 to 1.

        Args:
            task: The question with its accepted answers and evidence.
            answer: What the agent answered; None if it did not.
            episode: What happened before.
        """
        ...


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Sum of graders, each times its weight.

    Attributes:
        terms: Weight and grader of each.
    """

    terms: tuple[tuple[float, Grader], ...]

    def __call__(self, task: GradedTask, answer: str | None, episode: Episode) -> float:
        """The sum."""
        return math.fsum(weight * grader(task, answer, episode) for weight, grader in self.terms)


def grade(grader: Grader, task: GradedTask, answer: str | None, episode: Episode) -> float:
    """Asks a grader, and checks what comes back.

    Raises:
        RewardError: if that is no finite number; it names the grader and the task.
    """
    value: Any = grader(task, answer, episode)
    try:
        earned = float(value)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"the reward of task {task.id!r} must be a number, {_name(grader)} gave {value!r:.80}"
        ) from error
    if not math.isfinite(earned):
        raise RewardError(f"the reward of task {task.id!r} is {earned} by {_name(grader)}")
    return earned


def _name(grader: Grader) -> str:
    return getattr(grader, "__qualname__", type(grader).__qualname__)
