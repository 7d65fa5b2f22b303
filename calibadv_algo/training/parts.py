"""Parts of an algorithm by name: estimators, credits, objectives, filters and the others.

A part is a concrete subclass of its kind's base class. It is found in the modules of the package
that the base class stands in, so that a new file there is all that a new part needs. A part of
anybody's own is named ``module:Class``.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType, ModuleType, NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from calibadv_algo.training.config import TrainConfig

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "advantage": "advantage",
        "credit": "credit",
        "objective": "optim.objective",
        "mismatch": "optim.mismatch",
        "filter": "filters",
        "shaping": "shaping",
        "loss-mask": "loss_masks",
    }
)
"""Kind of part, as flags name it -> place in the settings."""

NONE: Final = "none"
"""Name that stands for no filter, shaping or loss mask, and for None where that may stand."""

_KIND_WORDS: Final = re.compile(r"(?<=.)(Credit|Filter|Mask|Rewards?|Judge)$")
_MARKUP: Final = re.compile(r"(:\w+:)?`+")
_CAPITALS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Settings = TypeVar("Settings")


def part_name(part: type) -> str:
    """Name of a part: its own class variable ``name``, or its class name in kebab case.

    Words that only say the kind are left out: ``SilverCredit`` is ``silver``.
    """
    own = vars(part).get("name")
    if isinstance(own, str):
        return own
    return _CAPITALS.sub("-", _KIND_WORDS.sub("", part.__name__)).lower()


def find_parts(base: type) -> dict[str, type]:
    """Parts of a kind, by name in alphabetical order.

    Args:
        base: Base class of the kind; the modules of its package are imported.

    Returns:
        Every concrete public subclass that is defined there.
    """
    # A base class of somebody's own may stand in a module without a package.
    room = importlib.import_module(base.__module__.rpartition(".")[0] or base.__module__)
    inner = pkgutil.iter_modules(getattr(room, "__path__", ()), room.__name__ + ".")
    found = {}
    for module in (room.__name__, *(entry.name for entry in inner)):
        for name, part in vars(importlib.import_module(module)).items():
            if (
                isinstance(part, type)
                and issubclass(part, base)
                and part.__module__ == module
                and not name.startswith("_")
                and not inspect.isabstract(part)
            ):
                found[part_name(part)] = part
    return dict(sorted(found.items()))


def first_line(part: type) -> str:
    """First line of a part's documentation without markup, "" without any."""
    return _MARKUP.sub("", (inspect.getdoc(part) or "").partition("\n")[0])


def describe_parts(kind: str) -> list[tuple[str, str, str]]:
    """Name, first line of the documentation and module of every part of a kind.

    Args:
        kind: One of `KINDS`.
    """
    parts = _named(_choices_at(TrainConfig, KINDS[kind]))
    return [(name, first_line(part), part.__module__) for name, part in parts.items()]


def with_parts(settings: Settings, chosen: Sequence[tuple[str, Sequence[str]]]) -> Settings:
    """Puts parts that names stand for into settings.

    The result is a draft to read flags onto: what a chosen class has no default for is
    ``tyro.MISSING``, and nothing is checked before the flags are read, since they may be what
    makes the parts fit each other.

    Args:
        settings: A dataclass; it stays as it is.
        chosen: Place and names of parts, in order: a field, or a field of a part further inside,
            such as ``credit.base`` or ``filter.0``. Kinds may stand for their place. A name is
            that of a part, or ``module:Class``; a field of several parts takes several.

    Returns:
        A copy with these parts.

    Raises:
        ValueError: if there is no such place, or no such part.
        ImportError: if the module of a part cannot be imported.
    """
    for place, names in chosen:
        kind, dot, rest = place.partition(".")
        settings = _changed(settings, KINDS.get(kind, kind) + dot + rest, place, names)
    return settings


def _changed(settings: Settings, path: str, place: str, names: Sequence[str]) -> Settings:
    """A copy of settings, or of a tuple of parts, with other parts at a path."""
    head, _, rest = path.replace("-", "_").partition(".")
    if isinstance(settings, tuple):
        if not head.isdigit() or int(head) >= len(settings) or not rest:
            raise ValueError(f"{place} names no part of the {len(settings)} that are chosen")
        items = list(settings)
        items[int(head)] = _changed(items[int(head)], rest, place, names)
        return type(settings)(items)
    bases = _choices_at(type(settings), head)
    if not bases:
        raise ValueError(f"{place} names no part: {type(settings).__name__} has none at {head!r}")
    value: Any = getattr(settings, head)
    if rest:
        value = _changed(value, rest, place, names)
    elif isinstance(value, tuple):
        value = () if list(names) == [NONE] else tuple(_draft(_find(bases, each)) for each in names)
    elif len(names) == 1:
        value = _draft(_find(bases, names[0]))
    else:
        raise ValueError(f"{place} must be one part, got {', '.join(names)}")
    changed = copy.copy(settings)
    object.__setattr__(changed, head, value)
    return changed


def _choices_at(settings: type, path: str) -> tuple[type, ...]:
    """Base class of the parts at a place, or the types of a union; () if there is no such."""
    head, _, rest = path.partition(".")
    annotation: Any = get_type_hints(settings).get(head)
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    if rest:
        return _choices_at(annotation, rest)
    return (annotation,) if isinstance(annotation, type) else ()


def find_part(base: type, name: str) -> type[Any]:
    """The part of a kind that a name stands for.

    Args:
        base: Base class of the kind.
        name: Name of a part, or ``module:Class``.

    Raises:
        ValueError: if there is none; the message lists those that there are.
        ImportError: if the module cannot be imported.
    """
    return _find((base,), name)


def _find(bases: Sequence[type], name: str) -> type:
    """The class that a name stands for, of a kind or of a union."""
    if ":" in name:
        return _import_part(bases, name)
    parts = _named(bases)
    same = {_plain(each.__name__): each for each in parts.values()}
    same |= {_plain(known): each for known, each in parts.items()}
    if _plain(name) in same:
        return same[_plain(name)]
    close = difflib.get_close_matches(_plain(name), same, n=1)
    hint = f" (did you mean {part_name(same[close[0]])}?)" if close else ""
    raise ValueError(
        f"{name!r} is no {bases[0].__name__}{hint}; there are {', '.join(parts)}, and any "
        "module:Class or ./file.py:Class"
    )


def _named(bases: Sequence[type]) -> dict[str, type]:
    """Parts of a kind, or the classes of a union, by name."""
    if len(bases) == 1 and inspect.isabstract(bases[0]):
        return find_parts(bases[0])
    return {NONE if each is NoneType else part_name(each): each for each in bases}


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _import_part(bases: Sequence[type], name: str) -> type:
    """The class ``module:Class`` or ``file.py:Class``."""
    module_name, _, class_name = name.rpartition(":")
    module = _import_file(Path(module_name)) if _is_file(module_name) else _import(module_name)
    part = getattr(module, class_name, None)
    if not (isinstance(part, type) and issubclass(part, tuple(bases))) or inspect.isabstract(part):
        wanted = " or ".join(each.__name__ for each in bases)
        raise ValueError(f"{name} must be a concrete subclass of {wanted}, got {part!r}")
    return part


def _is_file(module_name: str) -> bool:
    return module_name.endswith(".py")


def _import(module_name: str) -> ModuleType:
    """A module by name; those of the working directory can be imported too."""
    _add_to_path(Path.cwd())
    return importlib.import_module(module_name)


def _import_file(path: Path) -> ModuleType:
    """The module of a file, under the file's own name, by which other processes find it again.

    Raises:
        ValueError: if there is no such file, or another module has its name.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    main = sys.modules["__main__"]
    if _file_of(main) == path:
        return main
    _add_to_path(path.parent)
    module = importlib.import_module(path.stem)
    if _file_of(module) != path:
        raise ValueError(
            f"{path} must have another name: there is a module {path.stem} already, "
            f"{_file_of(module) or 'built in'}"
        )
    return module


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _add_to_path(folder: Path) -> None:
    """Lets modules of a folder be imported, here and in processes that are spawned."""
    if str(folder) not in sys.path:
        # At the end, so that a file of the user's hides no installed module.
        sys.path.append(str(folder))


def place_of(part: type) -> str:
    """``file.py:Class`` of a part of somebody's own, by which it is found again later.

    A class of a package is named ``module:Class``.
    """
    is_alone = "." not in part.__module__
    file = _file_of(sys.modules[part.__module__]) if is_alone else None
    return f"{file or part.__module__}:{part.__qualname__}"


def from_record(kind: str, record: Any, places: Mapping[str, str]) -> Any:
    """The part, or the parts, that :func:`~calibadv_algo.training.config.config_to_dict` wrote.

    Args:
        kind: One of `KINDS`.
        record: What it wrote: one part, or a list of them.
        places: ``file.py:Class`` by name of the class, for parts of somebody's own.

    Raises:
        ValueError: if a class is not known, or has other settings now.
        ImportError: if its module cannot be imported.
    """
    bases = _choices_at(TrainConfig, KINDS[kind])
    if isinstance(record, list):
        return tuple(_recorded(bases, each, places) for each in record)
    return _recorded(bases, record, places)


def _recorded(bases: Sequence[type], record: Any, places: Mapping[str, str]) -> Any:
    """A part, with the parts inside it; other values stay what they are."""
    if not (isinstance(record, Mapping) and isinstance(record.get("type"), str)):
        return tuple(record) if isinstance(record, list) else record
    name = record["type"]
    part = _find(bases, places.get(name, name))
    given = {
        key: _recorded(_choices_at(part, key), value, places)
        for key, value in record.items()
        if key != "type"
    }
    try:
        return part(**given)
    except TypeError as error:
        raise ValueError(f"{name} has other settings than recorded: {error}") from error


def _draft(part: type) -> Any:
    """An unchecked instance with defaults, and ``tyro.MISSING`` where there is none."""
    if part is NoneType:
        return None
    draft: Any = object.__new__(part)
    for field in fields(part):
        value: Any = tyro.MISSING
        if field.default is not MISSING:
            value = field.default
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        object.__setattr__(draft, field.name, value)
    return draft
