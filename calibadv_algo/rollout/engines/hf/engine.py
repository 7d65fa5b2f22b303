"""Generation engine over a Hugging Face model, its keys and values kept between turns.

Its state is a :class:`~calibadv_algo.rollout.engines.hf.batch.RunningBatch`: one batch whose turns
come and go. :meth:`HfEngine.generate` waits for the slowest turn; :meth:`HfEngine.submit` and
:meth:`HfEngine.step` do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    Generation,
    GenerationRequest,
    SamplingParams,
    StreamingEngine,
    check_idle,
    check_submission,
)
from calibadv_algo.rollout.engines.decoding import StopMatcher, TurnDecoder, eos_token_ids
from calibadv_algo.rollout.engines.hf.batch import BatchLimits, EngineCounters, RunningBatch
from calibadv_algo.rollout.engines.hf.columns import PROBED_QUERIES, ColumnSteps, stable_columns
from calibadv_algo.rollout.engines.hf.lean import LeanForward, is_lean

CPU_ALIGN = 16
"""Multiple that shapes are rounded up to on a CPU; below it the rounding of products differs."""


class HfEngine(StreamingEngine):
    """Generation engine over a causal language model, for whole batches and for streams.

    A turn that fills the context ends with "length".

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
        """Serves a model whose attention is causal, full and positional by ``position_ids``.

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
        on_cpu = model.device.type == "cpu"
        if max_prefill_tokens is None:
            max_prefill_tokens = 1024 if on_cpu else 16384
        if align is None:
            align = CPU_ALIGN if on_cpu else 1
        limit = context_limit(model)
        self.max_context = limit if max_context is None else max_context
        if not 2 <= self.max_context <= limit:
            raise ValueError(f"max_context must be in [2, {limit}], got {max_context}")
        check_attention(model, self.max_context)
        self.model = model
        self.version = 0
        self.counters = EngineCounters()
        decode_columns, prefill_columns = column_steps(model, align)
        self._limits = BatchLimits(
            max_slots=max_slots,
            max_context=self.max_context,
            max_prefill_tokens=max_prefill_tokens,
            compact_share=compact_share,
            align=align,
            decode_columns=decode_columns,
            prefill_columns=prefill_columns,
        )
        self._lean = LeanForward(model) if is_lean(model) else None
        self._decoder = TurnDecoder(tokenizer, eos_token_ids(model, tokenizer))
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._modules = tuple(model.modules())
        self._batch = self._empty_batch()

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
        batch = self._batch
        check_submission(requests, params, batch.running, batch.params, self.max_context)
        if requests:
            batch.submit(requests, params, self._matcher(params.stop))

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
        """Copies weights and drops everything that was computed under the old ones.

        Args:
            model: The engine's own model (nothing is copied) or one of the same shape.
            version: Number of updates behind these weights.

        Raises:
            EngineError: if turns are running.
        """
        check_idle(self.num_running)
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        if self._lean is not None:
            self._lean.refresh(force=True)
        self.version = version
        self._batch = self._empty_batch()

    @property
    def memory_bytes(self) -> int:
        """Memory that keys and values take now."""
        return self._batch.rows.cache.memory_bytes

    def _empty_batch(self) -> RunningBatch:
        return RunningBatch(self.model, self._decoder, self._limits, self.counters, self._lean)

    def _matcher(self, stop: tuple[str, ...]) -> StopMatcher:
        if stop not in self._matchers:
            size = int(self.model.config.get_text_config().vocab_size)
            self._matchers[stop] = StopMatcher(self._decoder, stop, size)
        return self._matchers[stop]


def context_limit(model: PreTrainedModel) -> int:
    """Longest context in tokens that a model has positions for; 2^20 if it does not say."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", 0)) or 2**20


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


def column_steps(model: PreTrainedModel, align: int) -> tuple[ColumnSteps, ColumnSteps]:
    """Columns that attention may read while decoding, and while reading contexts.

    Args:
        model: The model.
        align: Multiple of which the numbers are; 1 allows any.
    """
    if align <= 1:
        return ColumnSteps(()), ColumnSteps(())
    config = model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 1))
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (
        stable_columns(heads // kv_heads, int(size), align),
        stable_columns(PROBED_QUERIES, int(size), align),
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
