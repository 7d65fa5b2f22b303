"""No setting takes NaN or infinity unless it says what infinity means."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

import calibadv_algo
import calibadv_env
from calibadv_env.common.checks import MAY_BE_INFINITE, Checked

OPTIONAL = ("integrations", "vllm")
"""Rooms whose modules need packages that are not installed everywhere."""


def settings() -> Iterator[Any]:
    """Every class of settings of both packages."""
    for package in (calibadv_env, calibadv_algo):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(room in module.name.split(".") for room in OPTIONAL):
                importlib.import_module(module.name)
    waiting = [Checked]
    while waiting:
        found = waiting.pop().__subclasses__()
        waiting += found
        yield from (each for each in found if each.__module__.startswith("calibadv"))


def numbers() -> list[Any]:
    """Fields that hold a number with a point, with an instance that they can be changed in."""
    found = []
    for kind in dict.fromkeys(settings()):
        if not is_dataclass(kind) or getattr(kind, "__abstractmethods__", None):
            continue
        if any(
            each.default is MISSING and each.default_factory is MISSING for each in fields(kind)
        ):
            continue
        hints = get_type_hints(kind, include_extras=True)
        for each in fields(kind):
            if _holds_float(hints[each.name]):
                name = f"{kind.__name__}.{each.name}"
                found.append(pytest.param(kind, each.name, hints[each.name], id=name))
    return found


def _holds_float(hint: Any) -> bool:
    return hint is float or any(_holds_float(part) for part in get_args(hint))


def _may_be_infinite(hint: Any) -> bool:
    return get_origin(hint) is Annotated and MAY_BE_INFINITE in get_args(hint)


@pytest.mark.parametrize(("kind", "name", "hint"), numbers())
def test_a_number_is_finite(kind: Any, name: str, hint: Any) -> None:
    sound = kind()
    value = getattr(sound, name)

    def changed(bad: float) -> Any:
        return replace(sound, **{name: (bad, *value[1:]) if isinstance(value, tuple) else bad})

    with pytest.raises(ValueError, match=f"{name} must .*nan"):
        changed(math.nan)
    if _may_be_infinite(hint):
        changed(math.inf)
    else:
        with pytest.raises(ValueError, match=f"{name} must .*inf"):
            changed(math.inf)


def test_the_search_finds_them() -> None:
    names = {each.id for each in numbers()}
    assert {
        "OptimConfig.lr",
        "OptimConfig.betas",
        "TokenTis.cap",
        "SilverCredit.answer_threshold",
    } <= names
    assert len(names) > 60
