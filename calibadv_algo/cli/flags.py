"""Flags that name settings: they are read first, and all other flags change what they name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Self, TypeVar

import tyro

Flags = TypeVar("Flags")

PartName = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
"""Name of a part, or ``module:Class``; None leaves what is there."""

PartNames = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")]
"""Names of parts, one each time that the flag is given; "none" for no part."""

InnerParts = Annotated[
    tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PLACE=NAME")
]
"""Places of parts and their names, one each time that the flag is given."""

EngineName = Annotated[
    str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=(1, 2),
        metavar="NAME [URL]",
        instance_from_str="=".join,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: value.split("=", 1),
    ),
]
"""Name of an engine; the address of a server may follow it as a word of its own."""

CONFIG: Final = (tyro.conf.AvoidSubcommands,)
"""A union shows the flags of the type that is chosen, not a subcommand for each."""


class NamedSettings(ABC):
    """Base of commands some of whose flags name the settings that the others change."""

    __slots__ = ()

    @classmethod
    def in_full(cls, arguments: Sequence[str]) -> list[str]:
        """The arguments with short forms of flags written out; none by default."""
        return list(arguments)

    @classmethod
    @abstractmethod
    def named(cls, arguments: Sequence[str]) -> Self:
        """The command with the settings that its arguments name; other flags are not read.

        Raises:
            ValueError: if a name is not known or names contradict each other.
            ImportError: if the module of a part cannot be imported.
        """


def read_some(flags: type[Flags], arguments: Sequence[str], command: str) -> Flags:
    """Reads the flags of a dataclass from among others, by the rules of the full command line.

    Args:
        flags: A dataclass whose fields have defaults.
        arguments: Those of a command; flags that are no field are passed over.
        command: Name of the command, for messages.
    """
    found, _ = tyro.cli(
        flags,
        args=arguments,
        prog=f"calibadv {command}",
        add_help=False,
        return_unknown_args=True,
        config=CONFIG,
    )
    return found


def chosen_parts(
    kinds: Mapping[str, str | Sequence[str] | None], inner: Iterable[str]
) -> list[tuple[str, Sequence[str]]]:
    """Places and names of parts as :func:`~calibadv_algo.training.parts.with_parts` takes them.

    Args:
        kinds: Name or names by kind, empty or None where the flag was not given.
        inner: ``PLACE=NAME`` each.

    Raises:
        ValueError: if one of these has no equals sign.
    """
    chosen: list[tuple[str, Sequence[str]]] = [
        (kind, (names,) if isinstance(names, str) else names)
        for kind, names in kinds.items()
        if names
    ]
    for part in inner:
        place, equals, name = part.partition("=")
        if not (place and equals and name):
            raise ValueError(f"part must be PLACE=NAME, got {part!r}")
        chosen.append((place, (name,)))
    return chosen


def one_of(presets: Mapping[str, Any], name: str) -> Any:
    """A preset by name.

    Raises:
        ValueError: if there is none; the message lists those that there are.
    """
    if name not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}; got {name!r}")
    return presets[name]
