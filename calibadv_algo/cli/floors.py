"""The systems of `calibadv eval --system` that take no training: two floors and a ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calibadv_algo.cli.systems import System, SystemData
from calibadv_algo.experiments.no_training import NotedSlots, SystemName, system_engine

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import GenerationEngine, Tokenizer
    from calibadv_algo.rollout.slots import EnvSlots


class Untrained(System):
    """A system whose engine needs to know which questions were asked."""

    system: ClassVar[SystemName]

    def __init__(self) -> None:
        """Starts without environments."""
        self._slots: NotedSlots | None = None

    def slots(self, slots: EnvSlots, data: SystemData) -> EnvSlots:
        """The environments, noted."""
        self._slots = NotedSlots(slots)
        return self._slots

    def engine(
        self, engine: GenerationEngine | None, tokenizer: Tokenizer, data: SystemData
    ) -> GenerationEngine:
        """The engine that writes the turns; ``slots`` must have been called before.

        Raises:
            ValueError: if it was not, or a policy is needed and there is none.
        """
        if self._slots is None:
            raise ValueError(f"the system {self.name} must be given its slots before its engine")
        return system_engine(self.system, engine, tokenizer, self._slots)


class ClosedBook(Untrained):
    """The policy answers from memory."""

    name = "closed-book"
    description = "floor: the policy thinks and answers, without a search"
    system = "closed-book"


class SingleRetrieval(Untrained):
    """One search with the question, then an answer."""

    name = "rag"
    description = "floor: one search, made with the question, then the policy answers"
    system = "rag"


class Oracle(Untrained):
    """A script that knows the gold chain."""

    name = "oracle"
    description = "ceiling: a script follows the gold chain and answers if the answer was retrieved"
    needs_model = False
    system = "oracle"
