"""Sampling turns with a Hugging Face model, its keys and values kept between turns.

What runs is in ``hf_batch.py``: one batch whose turns come and go. :meth:`HfEngine.generate` puts
turns in and steps until they are done; who does not want to wait for the slowest uses
:meth:`HfEngine.submit` and :meth:`HfEngine.step`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.hf.batch import BatchLimits, EngineCounters, RunningBatch
from calibadv_algo.rollout.engines.stopping import StopMatcher, TurnDecoder
from calibadv_algo.rollout.engines.streaming import check_idle, check_submission

CPU_ALIGN = 16
"""Multiple that shapes are rounded up to on a CPU; below it the rounding of products differs."""


class HfEngine:
    """A generation engine over a causal language model, for whole batches and for streams.

    It is a :class:`~calibadv_algo.rollout.engines.base.GenerationEngine` and a
    :class:`~calibadv_algo.rollout.engines.streaming.StreamingEngine`.

    Attributes:
        model: The model, shared with the trainer.
        version: Version of the weights, as given to :meth:`sync_weights`.
        counters: What was computed so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_slots: int = 128,
        max_context: int | None = None,
        max_prefill_tokens: int | None = None,
        compact_share: float = 0.125,
        align: int | None = None,
    ) -> None:
        """Takes a model whose attention is causal, full and positional by ``position_ids``.

        Args:
            model: Any Hugging Face causal model, on any device, in float32 or bfloat16.
            tokenizer: Its tokenizer.
            max_slots: Most episodes whose keys and values are kept; bounds the memory.
            max_context: Longest context in tokens; the model's own limit if None.
            max_prefill_tokens: Most tokens, padding included, in one forward pass over
                contexts; a single row may exceed it. If None, 1024 on a CPU, where a larger
                batch no longer fits its caches, and 16384 elsewhere.
            compact_share: Rows that have ended are left out once they are this share of the
                batch, 0 to 1; 0 leaves out each at once.
            align: Rows of a decoding step, and new tokens and columns of any, are rounded up to
                a multiple of this. If None, 16 on a CPU, where a turn's float32 numbers then do
                not depend on what shares its batch, and 1 elsewhere: nothing is rounded up.

        Raises:
            ValueError: if a setting is out of range or the model's attention is of another
                kind.
        """
        if max_slots < 1:
            raise ValueError(f"max_slots must be positive, got {max_slots}")
        if max_prefill_tokens is None:
            max_prefill_tokens = 1024 if model.device.type == "cpu" else 16384
        if max_prefill_tokens < 1:
            raise ValueError(f"max_prefill_tokens must be positive, got {max_prefill_tokens}")
        if not 0 <= compact_share <= 1:
            raise ValueError(f"compact_share must be in [0, 1], got {compact_share}")
        if align is None:
            align = CPU_ALIGN if model.device.type == "cpu" else 1
        if align < 1:
            raise ValueError(f"align must be positive, got {align}")
        config = model.config.get_text_config()
        limit = int(getattr(config, "max_position_embeddings", 0)) or 2**20
        self.max_context = limit if max_context is None else max_context
        if not 2 <= self.max_context <= limit:
            raise ValueError(f"max_context must be in [2, {limit}], got {max_context}")
        check_attention(model, self.max_context)
        self.model = model
        self.version = 0
        self.counters = EngineCounters()
        self._limits = BatchLimits(
            max_slots=max_slots,
            max_context=self.max_context,
            max_prefill_tokens=max_prefill_tokens,
            compact_share=compact_share,
            align=align,
        )
        self._decoder = TurnDecoder(tokenizer, eos_token_ids(model, tokenizer))
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._modules = tuple(model.modules())
        self._batch = self._empty_batch()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Samples one turn for each request, in order.

        Args:
            requests: At most one of each episode.
            params: How to sample.

        Returns:
            One generation a request. A turn that fills the context ends with "length".

        Raises:
            EngineError: if a request is empty or too long, an episode is named twice, or the
                model failed; in the last case everything that was kept is dropped.
        """
        check_idle(self.num_running)
        self.submit(requests, params)
        done: dict[str, Generation] = {}
        while self.num_running:
            done.update(self.step())
        return [done[request.episode_id] for request in requests]

    @property
    def num_running(self) -> int:
        """Turns that were submitted and not given back yet."""
        return self._batch.num_running

    def submit(self, requests: Sequence[GenerationRequest], params: SamplingParams) -> None:
        """Queues turns; they join the running batch at the next step.

        Raises:
            EngineError: if a request is empty or too long, an episode is named twice or already
                runs a turn, or turns with other params run. Nothing is queued then.
        """
        for request in requests:
            if not 0 < len(request.token_ids) < self.max_context:
                raise EngineError(
                    f"context of episode {request.episode_id!r} must have 1 to "
                    f"{self.max_context - 1} tokens, got {len(request.token_ids)}"
                )
        check_submission(requests, params, self._batch.running, self._batch.params)
        if requests:
            self._batch.submit(requests, params, self._matcher(params.stop))

    def step(self) -> list[tuple[str, Generation]]:
        """Samples one token of every running turn.

        Returns:
            Episode id and turn of those that ended.

        Raises:
            EngineError: if the model failed; nothing runs any more, and everything that was kept
                is dropped.
        """
        num_running = self.num_running
        is_done = False
        try:
            with torch.inference_mode(), evaluating(self._modules):
                ended = self._batch.step()
            is_done = True
        except RuntimeError as error:
            raise EngineError(f"the model failed on {num_running} requests: {error}") from error
        finally:
            if not is_done:
                self._batch = self._empty_batch()
        return ended

    def release(self, episode_ids: Sequence[str]) -> None:
        """Frees the rows of these episodes, running or not; unknown ids are ignored."""
        for episode_id in episode_ids:
            self._batch.cancel(episode_id)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Takes over weights and drops everything that was computed under the old ones.

        Args:
            model: The engine's own model (nothing is copied) or one of the same shape.
            version: Number of updates behind these weights.

        Raises:
            EngineError: if turns are running.
        """
        check_idle(self.num_running)
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        self.version = version
        self._batch = self._empty_batch()

    @property
    def memory_bytes(self) -> int:
        """Memory that keys and values take now."""
        return self._batch.rows.cache.memory_bytes

    def _empty_batch(self) -> RunningBatch:
        return RunningBatch(self.model, self._decoder, self._limits, self.counters)

    def _matcher(self, stop: tuple[str, ...]) -> StopMatcher:
        if stop not in self._matchers:
            size = int(self.model.config.get_text_config().vocab_size)
            self._matchers[stop] = StopMatcher(self._decoder, stop, size)
        return self._matchers[stop]


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a turn: those of the model's generation config and the tokenizer's."""
    generation_config = getattr(model, "generation_config", None)
    found = [getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id]
    ids: set[int] = set()
    for value in found:
        if isinstance(value, int):
            ids.add(value)
        elif value is not None:
            ids.update(int(token) for token in value)
    return tuple(sorted(ids))


def check_attention(model: PreTrainedModel, max_context: int) -> None:
    """Refuses models whose attention is not full and causal over the whole context.

    Raises:
        ValueError: naming what is not supported.
    """
    config = model.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError("model must be decoder-only, got an encoder-decoder")
    if getattr(model, "_is_stateful", False):
        raise ValueError(f"model must keep keys and values only, got {type(model).__name__}")
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    if not takes_positions or getattr(config, "alibi", False):
        raise ValueError(f"model must be positional by position_ids, got {type(model).__name__}")
    kinds = set(getattr(config, "layer_types", None) or ())
    other = kinds - {"full_attention", "sliding_attention"}
    if other:
        raise ValueError(f"layer_types must be full or sliding attention, got {sorted(other)}")
    window = getattr(config, "sliding_window", None)
    is_sliding = "sliding_attention" in kinds or not kinds
    if window is not None and is_sliding and window < max_context:
        raise ValueError(
            f"max_context must not exceed the model's sliding window {window}, got {max_context}"
        )


@contextmanager
def evaluating(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Switches the parts of a model to evaluation mode, and each of them back afterwards."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
