"""One or two settings varied over some values: each combination is a method of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from calibadv_algo.experiments.baseline import Algorithm
from calibadv_algo.experiments.compare import Change, CompareConfig
from calibadv_algo.training.config import TrainConfig

MOST_SETTINGS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """A setting and the values that it takes.

    Attributes:
        place: Its name with dots, such as ``optim.lr``.
        values: Its values, as they were written.
    """

    place: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.place.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One method of a sweep.

    Attributes:
        method: Its name in the comparison.
        arm: The arm that the values are put on.
        values: One value a varied setting, as it was written.
    """

    method: str
    arm: str
    values: tuple[str, ...]


def parse_varied(texts: Sequence[str]) -> tuple[Varied, ...]:
    """Reads ``optim.lr=1e-4,3e-4`` and the like.

    Raises:
        ValueError: if there is none, there are more than two, or one has not two values.
    """
    found = []
    for text in texts:
        place, equals, rest = text.partition("=")
        values = tuple(value for value in rest.split(",") if value)
        if not equals or not place or len(set(values)) < 2 or len(set(values)) != len(values):
            raise ValueError(f"vary must be SETTING=VALUE,VALUE,…, got {text!r}")
        found.append(Varied(place=place, values=values))
    if not 1 <= len(found) <= MOST_SETTINGS or len({each.place for each in found}) < len(found):
        raise ValueError(f"vary must name one or two settings, got {len(found)}")
    return tuple(found)


def swept(
    config: CompareConfig, varied: Sequence[Varied]
) -> tuple[CompareConfig, tuple[Point, ...]]:
    """A comparison of every arm with every combination of values, and what its methods are.

    Raises:
        ValueError: if a setting does not exist or cannot have a value.
    """
    points, methods = [], {}
    for arm, algorithm in config.algorithms.items():
        for values in itertools.product(*(each.values for each in varied)):
            parts = [f"{v.name}-{value}" for v, value in zip(varied, values, strict=True)]
            point = Point(method="+".join([arm, *parts]), arm=arm, values=values)
            methods[point.method] = _method(algorithm, varied, values)
            methods[point.method].apply(config.train)
            points.append(point)
    names = tuple(methods)
    return replace(config, arms=names, own=methods, controls=False), tuple(points)


def _method(algorithm: Algorithm, varied: Sequence[Varied], values: Sequence[str]) -> Change:
    def apply(config: TrainConfig) -> TrainConfig:
        config = algorithm.apply(config)
        for each, value in zip(varied, values, strict=True):
            config = with_setting(config, each.place, value)
        return config

    said = ", ".join(f"{v.place} = {value}" for v, value in zip(varied, values, strict=True))
    return Change(description=f"{algorithm.description}; {said}", apply=apply)


def with_setting(settings: Any, place: str, text: str) -> Any:
    """Settings with another value at a place; the text is read as the value that is there.

    Raises:
        ValueError: if there is no such place, or the text is no such value.
    """
    name, _, rest = place.partition(".")
    if not is_dataclass(settings) or isinstance(settings, type) or not hasattr(settings, name):
        raise ValueError(f"vary: there is no setting {place!r} in {type(settings).__name__}")
    before = getattr(settings, name)
    if rest:
        return replace(settings, **{name: with_setting(before, rest, text)})
    return replace(settings, **{name: _read(before, text, name)})


def _read(before: Any, text: str, name: str) -> Any:
    if isinstance(before, bool):
        if text not in ("true", "false"):
            raise ValueError(f"vary: {name} must be true or false, got {text!r}")
        return text == "true"
    if isinstance(before, int | float | str):
        try:
            return type(before)(text)
        except ValueError as error:
            raise ValueError(
                f"vary: {name} must be a {type(before).__name__}, got {text!r}"
            ) from error
    raise ValueError(f"vary: {name} is no number, word or switch: it is {before!r:.60}")
