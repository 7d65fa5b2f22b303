"""Names of graders: ``judge``, ``0.8*f1 + 0.2*citations``, ``module:function``."""

from __future__ import annotations

import hashlib
import importlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

from calibadv_env.common.plugins import plugins
from calibadv_env.graders import judge, rules, typed
from calibadv_env.graders.base import GradedTask, Grader, WeightedSum

ENTRY_POINT_GROUP: Final = "calibadv_env.graders"
"""Where packages register graders, by the name that ``reward`` takes."""

_TERM: Final = re.compile(r"^(?:(?P<weight>[0-9.eE+-]+)\s*\*\s*)?(?P<name>[^*\s]+)$")

_LOOKED_AT: Final = 50
"""Questions of a split that are searched for abstentions."""

METRIC_NAMES: Final = (*rules.METRICS, "step_search")
"""Metrics of the answer, which the environment computes by itself."""

_BUILT_IN: Final[Mapping[str, Callable[[], Grader]]] = MappingProxyType(
    {**rules.GRADERS, **judge.GRADERS, "typed": typed.Typed}
)


def load_grader(reward: str | Grader) -> Grader | None:
    """The grader, read anew if a file that it lies in holds something else than when it was read.

    Environments call this when they are made, and :func:`find_grader` at their steps.

    Raises:
        ValueError: as `find_grader` does.
    """
    if any(_content(file) != content for file, content in _read_files.items()):
        _read_files.clear()
        _named.cache_clear()
    return find_grader(reward)


_read_files: dict[str, str | None] = {}
"""Files that graders were read from, and the hash of what they held."""


def _content(file: str) -> str | None:
    """Hash of what a file holds; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return None


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
    return None if reward in METRIC_NAMES else _named(reward)


def grader_names() -> list[str]:
    """Names that ``reward`` takes, those of other packages included."""
    return [name for name, _ in describe_graders()]


def describe_graders() -> list[tuple[str, str]]:
    """Names that ``reward`` takes, each with a line about it; no other package is imported."""
    lines = dict.fromkeys(METRIC_NAMES, "metric of the answer against the accepted ones")
    lines |= {name: (make.__doc__ or "").split("\n")[0] for name, make in _BUILT_IN.items()}
    lines |= {name: each.origin for name, each in plugins(ENTRY_POINT_GROUP).items()}
    return sorted(lines.items())


def warn_of_abstentions(name: str, tasks: Sequence[GradedTask], reward: str | Grader) -> None:
    """Warns where questions accept an abstention that the reward pays by its words alone, or never.

    Args:
        name: Of the dataset.
        tasks: Questions, of which some at even distances are looked at.
        reward: As `find_grader` takes it; nothing is known of one's own.
    """
    if not isinstance(reward, str):
        return
    names = {term.split("*")[-1].strip() for term in reward.split("+")}
    if not names <= {*METRIC_NAMES, "numeric", "citations"}:
        return
    chosen = [tasks[index] for index in range(0, len(tasks), -(-len(tasks) // _LOOKED_AT) or 1)]
    found = [
        answer
        for task in chosen
        for answer in task.golden_answers[:1]
        if rules.is_abstention(answer)
    ]
    if found:
        warnings.warn(
            f"{len(found)} of {len(chosen)} questions of {name} that were looked at have no answer "
            f"and accept {found[0]!r}; reward {reward!r} pays that by its words or not at all: "
            "set reward to 'abstain' to pay every way of saying so",
            stacklevel=4,
        )


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
    if ":" in name:
        return _imported(name)
    if name in rules.METRICS:
        return rules.METRICS[name]
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
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
            module = _module_of(module_name)
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise ValueError(f"reward {path!r} cannot be imported: {error}") from error
    return _instance(found, path)


def _module_of(file: str) -> ModuleType:
    """Runs a file as it is now: bytecode that lies beside it may be of another second's text."""
    text = Path(file).read_bytes()
    _read_files[file] = hashlib.sha256(text).hexdigest()
    module = ModuleType(Path(file).stem)
    module.__file__ = file
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def _instance(found: Any, path: str) -> Grader:
    """A grader of what was imported: a class is made with its defaults."""
    made = found() if isinstance(found, type) else found
    if not callable(made):
        raise ValueError(f"reward {path!r} must be callable, got {type(made).__name__}")
    grader: Grader = made
    return grader
