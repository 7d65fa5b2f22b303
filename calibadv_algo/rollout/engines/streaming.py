"""What an engine promises whose turns join and leave one running batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, cast

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
)


class StreamingEngine(Protocol):
    """Samples turns that begin and end at any time. One thread at a time may call it."""

    @property
    def num_running(self) -> int:
        """Turns that were submitted and not given back yet, waiting ones included."""
        ...

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Queues turns; nothing is computed yet.

        Args:
            requests: At most one of each episode.
            params: How to sample; the same for all turns that run at one time.

        Raises:
            EngineError: if a context is empty or too long, an episode already runs a turn, or
                turns with other params run. Nothing of the call is queued then.
        """
        ...

    def step(self) -> list[tuple[str, Generation]]:
        """Goes on with every running turn by the engine's smallest unit, such as a token.

        Returns:
            Episode id and turn of those that ended; empty if none did or nothing runs.

        Raises:
            EngineError: if the engine failed; nothing runs any more then.
        """
        ...

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops what is kept for these episodes, running turns included; unknown are ignored."""
        ...

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Takes over the trainer's weights; everything cached under the old ones is dropped.

        Raises:
            EngineError: if turns are running, or the engine failed.
        """
        ...


class BatchedStreaming:
    """Gives a plain engine the streaming interface: a step is one call over all that waits.

    Turns that are submitted during a call wait for its end.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        """Takes the engine."""
        self._engine = engine
        self._waiting: dict[str, GenerationRequest] = {}
        self._params = SamplingParams()

    @property
    def num_running(self) -> int:
        """Turns that wait."""
        return len(self._waiting)

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Queues turns for the next step.

        Raises:
            EngineError: if an episode already waits, or turns with other params do.
        """
        check_submission(requests, params, self._waiting, self._params)
        self._params = params
        self._waiting |= {request.episode_id: request for request in requests}

    def step(self) -> list[tuple[str, Generation]]:
        """Samples all waiting turns to their end.

        Raises:
            EngineError: if the engine failed.
        """
        requests = list(self._waiting.values())
        self._waiting = {}
        if not requests:
            return []
        generations = self._engine.generate(requests, self._params)
        names = [request.episode_id for request in requests]
        return list(zip(names, generations, strict=True))

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops waiting turns and what the engine keeps."""
        for episode_id in episode_ids:
            self._waiting.pop(episode_id, None)
        self._engine.release(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Passes the weights on.

        Raises:
            EngineError: if turns wait.
        """
        check_idle(self.num_running)
        self._engine.sync_weights(model, version)


def as_streaming(engine: GenerationEngine | StreamingEngine) -> StreamingEngine:
    """The engine itself if its turns can join a running batch, else with an adapter round it."""
    if hasattr(engine, "submit") and hasattr(engine, "step"):
        return cast("StreamingEngine", engine)
    return BatchedStreaming(engine)


def check_submission(
    requests: Sequence[GenerationRequest],
    params: SamplingParams,
    running: Collection[str],
    running_params: SamplingParams,
) -> None:
    """Refuses turns that cannot run along with those that run.

    Args:
        requests: The new turns.
        params: How they are to be sampled.
        running: Episodes of the running turns.
        running_params: How those are sampled.

    Raises:
        EngineError: if an episode comes twice, or the params differ.
    """
    names = {request.episode_id for request in requests}
    if len(names) < len(requests):
        raise EngineError("every request must be of another episode")
    for name in names:
        if name in running:
            raise EngineError(f"episode {name!r} already runs a turn")
    if running and params != running_params:
        raise EngineError(f"params must be those of the running turns, got {params}")


def check_idle(num_running: int) -> None:
    """Refuses what cannot be done while turns run: new weights, a call for a whole batch.

    Raises:
        EngineError: if any do.
    """
    if num_running:
        raise EngineError(f"no turn may run for this, got {num_running} running")
