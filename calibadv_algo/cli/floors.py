"""The systems of `calibadv eval --system` that take no training: two floors and a ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calibadv_algo.cli.systems import System, SystemData
from calibadv_algo.experiments.no_training import SystemName, system_engine

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import GenerationEngine, Tokenizer


class Untrained(System):
    """A system whose turns, or parts of them, an engine of its own writes."""

    name: ClassVar[SystemName]

    def engine(
        self, engine: GenerationEngine | None, tokenizer: Tokenizer, data: SystemData
    ) -> GenerationEngine:
        """The engine that writes the turns.

        Raises:
            ValueError: if a policy is needed and there is none.
        """
        return system_engine(self.name, engine, tokenizer)


class ClosedBook(Untrained):
    """The policy answers from memory."""

    name = "closed-book"
    description = "floor: the policy thinks and answers, without a search"


class SingleRetrieval(Untrained):
    """One search with the question, then an answer."""

    name = "rag"
    description = "floor: one search, made with the question, then the policy answers"


class Oracle(Untrained):
    """A script that knows the gold chain."""

    name = "oracle"
    description = "ceiling: a script follows the gold chain and answers if the answer was retrieved"
    needs_model = False
