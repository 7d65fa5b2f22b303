"""What a grader is given, and how one is named: ``reward="judge"`` or ``"0.8*f1 + 0.2*citations"``.

A grader is any callable ``(task, answer, episode) -> float``. The metrics of the environment
(``f1``, ``em``, ...) are graders too, so that sums can hold them.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

from calibadv_env.common.plugins import plugins
from calibadv_env.errors import RewardError

ENTRY_POINT_GROUP: Final = "calibadv_env.graders"
"""Where packages register graders, by the name that ``reward`` takes."""

_TERM: Final = re.compile(r"^(?:(?P<weight>[0-9.eE+-]+)\s*\*\s*)?(?P<name>[^*\s]+)$")


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


def find_grader(reward: str | Grader) -> Grader | None:
    """The grader of a name, an import path or a sum of them; None for a metric by itself.

    Args:
        reward: ``f1``; ``numeric``; ``my_module:function``; ``rewards.py:function``;
            ``0.8*f1 + 0.2*citations``; or a callable.

    Raises:
        ValueError: if there is none of that name; it lists those that there are.
    """
    if not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"reward must be a name or a callable, got {reward!r:.80}")
        return reward
    return None if reward in metric_names() else _named(reward)


@cache
def metric_names() -> tuple[str, ...]:
    """Names of the string metrics, which the environment computes by itself."""
    from calibadv_env.graders.rules import METRICS

    return (*METRICS, "step_search")


def grader_names() -> list[str]:
    """Names that ``reward`` takes, those of other packages included."""
    return [name for name, _ in describe_graders()]


def describe_graders() -> list[tuple[str, str]]:
    """Names that ``reward`` takes, each with a line about it; no other package is imported."""
    lines = dict.fromkeys(metric_names(), "metric of the answer against the accepted ones")
    lines |= {name: (make.__doc__ or "").split("\n")[0] for name, make in _built_in().items()}
    lines |= {name: each.origin for name, each in plugins(ENTRY_POINT_GROUP).items()}
    return sorted(lines.items())


@cache
def _built_in() -> Mapping[str, Callable[[], Grader]]:
    from calibadv_env.graders import judge, rules

    return MappingProxyType({**rules.GRADERS, **judge.GRADERS})


@cache
def _named(reward: str) -> Grader:
    """Reads the text of a reward; the object is shared, and with it what it remembers."""
    terms = [_TERM.match(part.strip()) for part in re.split(r"(?<![eE*])\s*\+\s*", reward)]
    found = []
    for term in terms:
        if term is None:
            raise ValueError(
                f"reward must be a name or a sum such as '0.8*f1 + 0.2*citations', got {reward!r}"
            )
        try:
            weight = float(term["weight"] or 1)
        except ValueError as error:
            raise ValueError(f"reward has no number before '*' in {term[0]!r}") from error
        found.append((weight, _single(term["name"])))
    if len(found) == 1 and found[0][0] == 1:
        return found[0][1]
    return WeightedSum(tuple(found))


def _single(name: str) -> Grader:
    """One grader by name or import path."""
    from calibadv_env.graders.rules import METRICS

    if ":" in name:
        return _imported(name)
    if name in METRICS:
        return METRICS[name]
    if name in _built_in():
        return _built_in()[name]()
    if name in plugins(ENTRY_POINT_GROUP):
        loaded = plugins(ENTRY_POINT_GROUP)[name].load()
        return _instance(loaded, name)
    known = ", ".join(grader_names())
    raise ValueError(f"reward must be one of {known}, or module:function, got {name!r}")


def _imported(path: str) -> Grader:
    """An object by ``module:name`` or ``file.py:name``."""
    module_name, _, attribute = path.rpartition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            if spec is None or spec.loader is None:
                raise ImportError(f"{module_name} cannot be read")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, attribute)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"reward {path!r} cannot be imported: {error}") from error
    return _instance(found, path)


def _instance(found: Any, path: str) -> Grader:
    """A grader of what was imported: a class is made with its defaults."""
    made = found() if isinstance(found, type) else found
    if not callable(made):
        raise ValueError(f"reward {path!r} must be callable, got {type(made).__name__}")
    grader: Grader = made
    return grader


def _name(grader: Grader) -> str:
    return getattr(grader, "__qualname__", type(grader).__qualname__)
