"""Retrieval backends: how a name, an address or the folder of an index becomes a retriever.

A module or room directly under ``calibadv_env/retrieval`` that searches declares its backends in a
tuple ``BACKENDS``. Another package declares one by an entry point of the group
``calibadv_env.retrievers``, whose name is that of the backend, or the scheme of its addresses::

    [project.entry-points."calibadv_env.retrievers"]
    mine = "my_package.search:BACKEND"
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Final

from calibadv_env.common.plugins import plugins
from calibadv_env.errors import DataError
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus

GROUP: Final = "calibadv_env.retrievers"
"""Group of the entry points by which other packages add backends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A way to search. It has one of three functions, or several.

    Attributes:
        name: Name of the retriever, and the kind in the manifests of its indexes.
        build: Builds the retriever ``name`` over a corpus, in memory.
        open: Opens the folder of an index of this kind; takes ``verify``, if true every file is
            read and hashed first. The retriever has its passages at ``.corpus``.
        connect: Makes a client of an address, which needs no corpus here.
        schemes: Words before the colon of such addresses.
    """

    name: str
    build: Callable[[Corpus], Retriever] | None = None
    open: Callable[..., Retriever] | None = None
    connect: Callable[[str], Retriever] | None = None
    schemes: tuple[str, ...] = ()


def lazily(reference: str) -> Callable[..., Any]:
    """A function that passes its arguments on; the module is imported at the first call.

    Args:
        reference: ``package.module:function``; a class, or a method of one, will do.
    """
    module, _, name = reference.partition(":")

    def call(*args: Any, **options: Any) -> Any:
        return attrgetter(name)(importlib.import_module(module))(*args, **options)

    return call


def find_backend(word: str) -> Backend | None:
    """The backend of a retriever's name, an index's kind or an address's scheme, if there is one.

    That of this package comes before that of another one, which is imported now.

    Raises:
        DataError: if the other package cannot be imported or gives something else.
    """
    if word in _built_in():
        return _built_in()[word]
    plugin = plugins(GROUP).get(word)
    if plugin is None:
        return None
    made = plugin.load()
    if isinstance(made, Backend) and word in (made.name, *made.schemes):
        return made
    if callable(made):
        return Backend(name=word, build=made)
    raise DataError(f"{plugin.origin} must give a Backend of {word!r} or a class, got {made!r:.80}")


def retriever_names() -> tuple[str, ...]:
    """The names that can be built over a corpus, those of other packages included."""
    own = {backend.name for backend in _built_in().values() if backend.build}
    return tuple(sorted({*own, *plugins(GROUP)}))


@cache
def _built_in() -> dict[str, Backend]:
    """The package's own backends by name and by scheme."""
    package = importlib.import_module("calibadv_env.retrieval")
    found: dict[str, Backend] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        declared: tuple[Backend, ...]
        declared = getattr(importlib.import_module(module.name), "BACKENDS", ())
        for backend in declared:
            found |= dict.fromkeys((backend.name, *backend.schemes), backend)
    return found
