"""Systems of `calibadv eval --system`: ways to put a policy to use, and floors without one.

Others than the agent change the prompt, put passages before the question or write answers by rule:
they subclass :class:`System` and stand in :data:`SYSTEMS`, or in the entry-point group
``calibadv_algo.systems`` of an installed package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Final

from calibadv_env.data.base import TaskSet
from calibadv_env.data.registry import Dataset
from calibadv_env.retrieval.base import Retriever

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import GenerationEngine, Tokenizer

GROUP: Final = "calibadv_algo.systems"

SYSTEMS: Final[dict[str, str]] = {
    "agent": "calibadv_algo.cli.systems:System",
    "closed-book": "calibadv_algo.cli.floors:ClosedBook",
    "rag": "calibadv_algo.cli.floors:SingleRetrieval",
    "oracle": "calibadv_algo.cli.floors:Oracle",
}
"""Name -> module and class, which takes no arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemData:
    """The data that a system is put to use on.

    Attributes:
        dataset: The dataset.
        tasks: The split that is evaluated.
        retriever: Answers its searches.
        top_k: Passages a search.
    """

    dataset: Dataset
    tasks: TaskSet
    retriever: Retriever
    top_k: int


class System:
    """A way to put a policy to use; this one lets it play the environment as it is.

    Attributes:
        name: The name that `--system` takes.
        description: One line for people.
        needs_model: True if a policy writes the turns.
    """

    name: ClassVar[str] = "agent"
    description: ClassVar[str] = "the policy searches and answers, as it was trained to"
    needs_model: ClassVar[bool] = True

    @property
    def needs_tokens(self) -> bool:
        """True if it may put tokens of its own into a policy's turns, which no endpoint continues.

        Taken for granted of a system that wraps a policy's engine.
        """
        return self.needs_model and type(self).engine is not System.engine

    def env_kwargs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the environment, given those of the command line."""
        return dict(kwargs)

    def engine(
        self, engine: GenerationEngine | None, tokenizer: Tokenizer, data: SystemData
    ) -> GenerationEngine:
        """The engine that writes its turns.

        Args:
            engine: The policy's; None for a system that needs no model.
            tokenizer: The policy's, or one of plain text.
            data: The data that is evaluated.

        Raises:
            ValueError: if the system needs a policy's engine and there is none.
        """
        if engine is None:
            raise ValueError(f"the system {self.name} must have an engine, got None")
        return engine


def system_names() -> list[str]:
    """Names of all systems: those of the library, then those of installed packages."""
    return list(SYSTEMS | dict.fromkeys(point.name for point in entry_points(group=GROUP)))


def find_system(name: str) -> System:
    """The system of a name: a key of :data:`SYSTEMS`, or of an entry point of the group.

    Raises:
        ValueError: if nothing has this name.
    """
    if name in SYSTEMS:
        module, _, attribute = SYSTEMS[name].partition(":")
        system: System = getattr(importlib.import_module(module), attribute)()
        return system
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        raise ValueError(f"system must be one of {', '.join((*SYSTEMS, *others))}; got {name!r}")
    found: System = others[name].load()()
    return found
