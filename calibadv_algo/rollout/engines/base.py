"""Interfaces of generation engines: token ids in, token ids and log-probs out.

A :class:`GenerationEngine` samples whole batches. The turns of a :class:`StreamingEngine` join and
leave one running batch; :func:`as_streaming` makes one of any engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, cast

import torch
from annotated_types import Interval

from calibadv_algo.errors import EngineError
from calibadv_algo.types import Turn
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams(Checked):
    """Sampling settings of a turn.

    Attributes:
        temperature: 0 means greedy; log-probs are those of the tempered distribution
            (of the untempered one when greedy).
        top_p: Nucleus mass, 1 for none.
        max_tokens: Most tokens in one turn.
        stop: Strings that end a turn. A token may run past the end of one: it is kept as
            sampled, and ``Generation.text`` ends with the stop string.
    """

    temperature: Annotated[float, NOT_NEGATIVE] = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, POSITIVE] = 512
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """An episode so far, for engines that write turns by what the environment told.

    Attributes:
        prompt_text: What ``reset`` returned.
        reset_info: What ``reset`` reported.
        turns: The turns so far.
    """

    prompt_text: str
    reset_info: Mapping[str, Any]
    turns: Sequence[Turn] = ()

    @property
    def last_text(self) -> str:
        """The latest observation."""
        return self.turns[-1].observation_text if self.turns else self.prompt_text


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for the next turn of one episode.

    Attributes:
        episode_id: Names the episode: an engine may keep state for it between turns.
        token_ids: The whole context so far: prompt, earlier actions as sampled, observations.
        seed: Seed of this turn's sampling; the tokens depend on it and on the context alone,
            not on what shares the batch (up to floating-point rounding).
        history: The episode; None where no environment is played.
    """

    episode_id: str
    token_ids: tuple[int, ...]
    seed: int
    history: History | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled turn.

    Attributes:
        token_ids: As sampled, the token that completes a stop string (or EOS) included.
        logprobs: One a token, natural log.
        text: The decoded turn, cut at the end of the first stop string, without EOS.
        finish_reason: Why it ended.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rollouts use."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> Any:
        """Text of token ids, a string for one sequence."""
        ...


class GenerationEngine(Protocol):
    """Samples turns for a batch of episodes."""

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Samples one turn for each request, in order.

        Raises:
            EngineError: if a context is too long for the model or the engine failed.
        """
        ...

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drops whatever is kept for these episodes; unknown ids are ignored."""
        ...

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Copies the trainer's weights; everything cached under the old ones is dropped.

        Raises:
            EngineError: if turns are running, or the engine failed.
        """
        ...


class StreamingEngine(GenerationEngine, Protocol):
    """Samples turns that begin and end at any time. One thread at a time may call it.

    :meth:`~GenerationEngine.release` gives up turns that run, too.
    """

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

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Samples one turn for each request, in order, by steps until the longest has ended.

        Args:
            requests: At most one of each episode.
            params: How to sample.

        Raises:
            EngineError: if turns are running, an episode is named twice, a context is empty or
                too long, or the engine failed.
        """
        check_idle(self.num_running)
        self.submit(requests, params)
        done: dict[str, Generation] = {}
        while self.num_running:
            done.update(self.step())
        return [done[request.episode_id] for request in requests]


class BatchedStreaming(StreamingEngine):
    """Streaming interface of a plain engine: a step is one call over all turns that wait.

    Turns that are submitted during a call wait for its end.
    """

    def __init__(self, engine: GenerationEngine) -> None:
        """Wraps an engine."""
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


def as_streaming(engine: GenerationEngine) -> StreamingEngine:
    """The engine itself if its turns can join a running batch, else with an adapter round it."""
    if hasattr(engine, "submit") and hasattr(engine, "step"):
        return cast("StreamingEngine", engine)
    return BatchedStreaming(engine)


def check_submission(
    requests: Sequence[GenerationRequest],
    params: SamplingParams,
    running: Collection[str],
    running_params: SamplingParams | None,
    max_context: int | None = None,
) -> None:
    """Refuses turns that cannot run along with those that run.

    Args:
        requests: The new turns.
        params: How they are to be sampled.
        running: Episodes of the running turns.
        running_params: How those are sampled.
        max_context: Tokens that a context and its turn may have; None checks no length.

    Raises:
        EngineError: if a context is empty or too long, an episode comes twice, or the params
            differ.
    """
    for request in requests:
        if max_context is not None and not 0 < len(request.token_ids) < max_context:
            raise EngineError(
                f"context of episode {request.episode_id!r} must have 1 to {max_context - 1} "
                f"tokens, got {len(request.token_ids)}"
            )
        if request.episode_id in running:
            raise EngineError(f"episode {request.episode_id!r} already runs a turn")
    if len({request.episode_id for request in requests}) < len(requests):
        raise EngineError("every request must be of another episode")
    if running and params != running_params:
        raise EngineError(f"params must be those of the running turns, got {params}")


def check_idle(num_running: int) -> None:
    """Refuses calls that need an idle engine: new weights, a whole batch.

    Raises:
        EngineError: if turns run.
    """
    if num_running:
        raise EngineError(f"no turn may run for this, got {num_running} running")
