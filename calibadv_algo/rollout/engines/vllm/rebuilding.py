"""An engine that is built anew when it fails, so that a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationRequest,
    SamplingParams,
    StreamingEngine,
    check_idle,
)
from calibadv_algo.rollout.engines.vllm.turns import VllmCounters

if TYPE_CHECKING:
    import torch

    from calibadv_algo.rollout.engines.vllm.engine import VllmEngine

Result = TypeVar("Result")


class RebuildingEngine(StreamingEngine):
    """An engine that is built anew when it fails, and then does again what it was asked.

    Attributes:
        engine: The engine at work, None before the first and after :meth:`close`.
        num_rebuilds: How often it was replaced.
    """

    def __init__(self, build: Callable[[], VllmEngine], *, max_rebuilds: int = 2) -> None:
        """Keeps the recipe of an engine, which is built when it is first needed.

        Args:
            build: Makes an engine without weights.
            max_rebuilds: Most attempts in a row that may fail before the error is passed on.
        """
        self._build, self._max_rebuilds = build, max_rebuilds
        self._weights: tuple[torch.nn.Module, int] | None = None
        self._is_sent = False
        self._turns: dict[str, tuple[GenerationRequest, SamplingParams]] = {}
        # Failures since a turn ended or weights arrived. A step that only did not fail is no
        # progress: an engine that dies at every tenth token would be built anew for ever.
        self._num_failures = 0
        self.engine: VllmEngine | None = None
        self.num_rebuilds = 0

    @property
    def version(self) -> int:
        """Version of the weights, -1 before the first."""
        return -1 if self.engine is None else self.engine.version

    @property
    def counters(self) -> VllmCounters:
        """Counts of the engine at work."""
        counters = VllmCounters() if self.engine is None else self.engine.counters
        counters.num_rebuilds = self.num_rebuilds
        return counters

    @property
    def num_running(self) -> int:
        """Turns that were submitted and not returned yet."""
        return len(self._turns)

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Samples one turn for each request; all begin again with a new engine."""
        check_idle(self.num_running)
        generations = self._retry(lambda engine: engine.generate(requests, params))
        self._num_failures = 0
        return generations

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Queues turns, and remembers them until they end."""
        self._retry(lambda engine: engine.submit(requests, params))
        self._turns |= {request.episode_id: (request, params) for request in requests}

    def step(self) -> list[tuple[str, Generation]]:
        """Advances every running turn; turns of a failed engine begin again."""
        ended = self._retry(lambda engine: engine.step())
        for episode_id, _ in ended:
            del self._turns[episode_id]
            self._num_failures = 0
        return ended

    def release(self, episode_ids: Sequence[str]) -> None:
        """Aborts running turns of these episodes."""
        for episode_id in episode_ids:
            self._turns.pop(episode_id, None)
        self._retry(lambda engine: engine.release(episode_ids))

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Sends weights to vLLM; repeated with a new engine if it fails."""
        check_idle(self.num_running)
        self._weights, self._is_sent = (model, version), False
        self._retry(lambda engine: None if self._is_sent else self._sync(engine))
        self._num_failures = 0

    def sleep(self) -> None:
        """Makes room on the GPU, as the settings say."""
        if self.engine is not None:
            self.engine.sleep()

    def close(self) -> None:
        """Ends the engine."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def _retry(self, call: Callable[[VllmEngine], Result]) -> Result:
        """Calls an engine, and another one for as long as engines die of it."""
        while True:
            try:
                if self.engine is None:
                    self._renew()
                assert self.engine is not None
                return call(self.engine)
            except EngineError:
                is_lost = self.engine is None or self.engine.is_dead
                if not is_lost:
                    raise
                if self._num_failures >= self._max_rebuilds:
                    self._num_failures = 0
                    raise
                self._num_failures += 1
                self.close()
                self.num_rebuilds += 1

    def _renew(self) -> None:
        """Builds an engine that knows the last weights and runs the turns that were running."""
        self.engine = self._build()
        if self._weights is not None:
            self._sync(self.engine)
            for request, params in self._turns.values():
                self.engine.submit([request], params)

    def _sync(self, engine: VllmEngine) -> None:
        assert self._weights is not None
        engine.sync_weights(*self._weights)
        self._is_sent = True
