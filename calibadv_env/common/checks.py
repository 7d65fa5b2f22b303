"""Ranges and choices of settings, declared beside their fields.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Clip(Checked):
        low: Annotated[float, POSITIVE] = 0.2
        mode: Literal["token", "sequence"] = "token"

``Clip(low=0)`` raises ``ValueError: low must be positive, got 0``. Ranges are those of the package
annotated-types. None passes wherever the annotation allows it. Every number must be finite,
whatever its range; where infinity means something, ``MAY_BE_INFINITE`` stands beside the range.
"""

from __future__ import annotations

import math
import types
from collections.abc import Hashable, Iterator
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

POSITIVE: Final = Gt(0)
NOT_NEGATIVE: Final = Ge(0)
FRACTION: Final = Interval(ge=0, le=1)
"""In [0, 1]."""


class _MayBeInfinite:
    """Type of :data:`MAY_BE_INFINITE`."""


MAY_BE_INFINITE: Final = _MayBeInfinite()
"""Says of a number that infinity is one of its values, usually "no limit"; NaN never is."""


class Checked:
    """Base of dataclasses whose annotated ranges and choices are checked when one is made.

    A subclass with rules of its own calls ``Checked.__post_init__(self)`` first. (``super()``
    without arguments does not work in a dataclass with slots.)
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: if a value is outside its range or no choice; it names field, rule, value.
        """
        check_fields(self)


def check_fields(settings: Any) -> None:
    """Checks a dataclass instance against the ranges and choices of its annotations.

    Raises:
        ValueError: if a value is outside its range, no choice, NaN or infinite; it names field,
            rule and value.
    """
    for name, annotation in _checked_fields(cast("Hashable", type(settings))):
        value = getattr(settings, name)
        for rule in _broken_rules(annotation, value):
            raise ValueError(f"{name} must {rule}, got {value!r}")


def require_positive(**values: float | None) -> None:
    """Raises ValueError for a value that is not positive; None passes."""
    _require(POSITIVE, values)


def require_not_negative(**values: float | None) -> None:
    """Raises ValueError for a negative value; None passes."""
    _require(NOT_NEGATIVE, values)


def require_fraction(**values: float | None) -> None:
    """Raises ValueError for a value outside [0, 1]; None passes."""
    _require(FRACTION, values)


def require_finite(**values: float | None) -> None:
    """Raises ValueError for NaN and infinity; None passes."""
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}")


def _require(rule: object, values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not _holds(rule, value):
            raise ValueError(f"{name} must {_words(rule)}, got {value!r}")
    require_finite(**values)


@cache
def _checked_fields(settings: Any) -> tuple[tuple[str, Any], ...]:
    """Name and annotation of every field."""
    hints = get_type_hints(settings, include_extras=True)
    return tuple((field.name, hints[field.name]) for field in fields(settings))


def _broken_rules(annotation: Any, value: Any) -> Iterator[str]:
    """Rules that a value breaks, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *rules = get_args(annotation)
        may_be_infinite = MAY_BE_INFINITE in rules and not _is_nan(value)
        if value is not None:
            yield from (_words(rule) for rule in rules if not _holds(rule, value))
        if not may_be_infinite:
            yield from _broken_rules(inner, value)
    elif origin is Literal:
        choices = get_args(annotation)
        if value not in choices:
            yield f"be {_joined([str(choice) for choice in choices])}"
    elif origin in (Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        if value is not None:
            yield from _broken_rules(arms[0] if len(arms) == 1 else Any, value)
    elif origin is tuple and isinstance(value, tuple):
        inner = get_args(annotation)
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        for each, item in zip(inner, value, strict=False):
            yield from _broken_rules(each, item)
    elif isinstance(value, float) and not math.isfinite(value):
        yield "be finite"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _holds(rule: object, value: Any) -> bool:
    """Tells whether a value keeps a rule; NaN keeps none, metadata of others is no rule."""
    try:
        match rule:
            case Interval():
                return all(_holds(part, value) for part in rule)
            case Gt(gt=bound):
                return bool(value > bound)
            case Ge(ge=bound):
                return bool(value >= bound)
            case Lt(lt=bound):
                return bool(value < bound)
            case Le(le=bound):
                return bool(value <= bound)
    except TypeError:
        return False
    return True


def _words(rule: object) -> str:
    match rule:
        case Gt(gt=0):
            return "be positive"
        case Ge(ge=0):
            return "not be negative"
        case Gt(gt=bound):
            return f"be more than {bound}"
        case Ge(ge=bound):
            return f"be at least {bound}"
        case Lt(lt=bound):
            return f"be less than {bound}"
        case Le(le=bound):
            return f"be at most {bound}"
        case Interval(gt=gt, ge=ge, lt=lt, le=le):
            low = f"({gt}" if gt is not None else f"[{ge}"
            high = f"{lt})" if lt is not None else f"{le}]"
            return f"be in {low}, {high}"
    raise TypeError(f"rule must be a bound of annotated-types, got {rule!r}")


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
