"""Engines without a model, for tests and demonstrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    FinishReason,
    Generation,
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
    StreamingEngine,
    Tokenizer,
    check_idle,
    check_submission,
)

Script = Callable[[str, int], str]


class ScriptedEngine:
    """Turns written by a function of the context's text and the turn's seed.

    Log-probabilities are 0: the script is certain of what it writes. Text beyond a stop string
    or ``max_tokens`` is cut as a model's would be.
    """

    def __init__(self, script: Script, tokenizer: Tokenizer) -> None:
        """Makes an engine of a function ``(context_text, seed) -> turn_text``."""
        self._script = script
        self._tokenizer = tokenizer

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Asks the script for each request.

        Raises:
            EngineError: if it writes a text without tokens.
        """
        generations = []
        for request in requests:
            context = str(
                self._tokenizer.decode(list(request.token_ids), skip_special_tokens=False)
            )
            text = self._script(context, request.seed)
            generations.append(encode_turn(text, self._tokenizer, params))
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Does nothing: nothing is kept."""

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Does nothing: there are no weights."""


class ReplayEngine:
    """Turns replayed from given texts by the name of the episode.

    Attributes:
        num_released: Episodes released so far.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> None:
        """Makes an engine of the turns of every episode by episode id."""
        self._texts = {episode: list(turns) for episode, turns in texts.items()}
        self._turn = dict.fromkeys(texts, 0)
        self._tokenizer = tokenizer
        self.num_released = 0

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Encodes the next text of each episode.

        Raises:
            EngineError: if an episode is not known or has no text left.
        """
        generations = []
        for request in requests:
            turn = self._turn.get(request.episode_id, 0)
            texts = self._texts.get(request.episode_id, [])
            if turn >= len(texts):
                raise EngineError(f"episode {request.episode_id!r} has no text for turn {turn}")
            self._turn[request.episode_id] = turn + 1
            generations.append(encode_turn(texts[turn], self._tokenizer, params))
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Counts the releases."""
        self.num_released += len(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Does nothing: there are no weights."""


class PacedEngine(StreamingEngine):
    """Another engine's turns token by token, at a set pace: a model's clock without a model.

    A step costs ``step_s(num_running)`` seconds and every running turn gets one token, as in
    continuous batching.

    Attributes:
        num_steps: Steps so far.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        step_s: Callable[[int], float],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Paces ``engine``, which knows the turns, by the seconds of a step at a batch size."""
        self._engine = engine
        self._step_s = step_s
        self._sleep = sleep
        self._params = SamplingParams()
        self._running: dict[str, tuple[int, Generation]] = {}
        self.num_steps = 0

    @property
    def num_running(self) -> int:
        """Turns that have tokens left."""
        return len(self._running)

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Begins turns.

        Raises:
            EngineError: if the other engine does not know them, or an episode runs one already.
        """
        check_submission(requests, params, self._running, self._params)
        self._params = params
        generations = self._engine.generate(requests, params)
        for request, generation in zip(requests, generations, strict=True):
            self._running[request.episode_id] = len(generation.token_ids), generation

    def step(self) -> list[tuple[str, Generation]]:
        """Waits for one token of every running turn; returns those that got their last."""
        if self._running:
            self._sleep(self._step_s(len(self._running)))
            self.num_steps += 1
        left = {name: (count - 1, turn) for name, (count, turn) in self._running.items()}
        self._running = {name: each for name, each in left.items() if each[0] > 0}
        return [(name, turn) for name, (count, turn) in left.items() if count <= 0]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Cancels turns, here and in the other engine."""
        for episode_id in episode_ids:
            self._running.pop(episode_id, None)
        self._engine.release(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Passes the weights on.

        Raises:
            EngineError: if turns are running.
        """
        check_idle(self.num_running)
        self._engine.sync_weights(model, version)


def encode_turn(text: str, tokenizer: Tokenizer, params: SamplingParams) -> Generation:
    """Generation that stands for a written text.

    Args:
        text: What the turn says.
        tokenizer: Encodes it.
        params: Its ``stop`` and ``max_tokens`` are kept to; the tokens end with the one that
            completes the first stop string.

    Raises:
        EngineError: if the text has no tokens.
    """
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if not ids:
        raise EngineError(f"a turn needs at least one token, got {text!r}")
    for count in range(1, min(len(ids), params.max_tokens) + 1):
        written = str(tokenizer.decode(list(ids[:count]), skip_special_tokens=False))
        ends = [written.find(stop) + len(stop) for stop in params.stop if stop in written]
        if ends:
            return Generation(ids[:count], (0.0,) * count, written[: min(ends)], "stop")
    count = min(len(ids), params.max_tokens)
    written = str(tokenizer.decode(list(ids[:count]), skip_special_tokens=False))
    reason: FinishReason = "length" if count < len(ids) else "eos"
    return Generation(ids[:count], (0.0,) * count, written, reason)
