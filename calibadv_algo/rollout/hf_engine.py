"""Sampling turns with a Hugging Face model, its keys and values kept between turns.

One call of :meth:`HfEngine.generate` goes through these steps:

1. Requests get rows of the store (``kv_cache.py``); what a row still holds of its episode is
   kept as far as it agrees with the request.
2. What is missing is computed in a few batches of similar length. Equal prompts are computed
   once and copied, and so is a long beginning that all new prompts share.
3. All rows decode together. Rows that end are left out as soon as enough of them have ended,
   and rows for waiting requests are filled in their place.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.base import FinishReason, Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.kv_cache import RowTable, SlotCache
from calibadv_algo.rollout.sampling import draw_uniforms, sample_tokens
from calibadv_algo.rollout.stopping import StopMatcher, TurnDecoder

Ints = NDArray[np.int64]

MIN_SHARED_PREFIX = 32
GROWTH = 1.25


@dataclass(slots=True)
class EngineCounters:
    """What an engine has done since it was made.

    Attributes:
        num_sampled: Tokens sampled.
        num_prefilled: Context tokens computed, without padding.
        num_padding: Padding computed along with them.
        num_reused: Context tokens found in the store, copies of equal prompts included.
        num_decode_rows: Rows computed in decoding steps.
        num_decode_steps: Decoding steps.
    """

    num_sampled: int = 0
    num_prefilled: int = 0
    num_padding: int = 0
    num_reused: int = 0
    num_decode_rows: int = 0
    num_decode_steps: int = 0


class HfEngine:
    """A :class:`~calibadv_algo.rollout.base.GenerationEngine` over a causal language model.

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
        config = model.config.get_text_config()
        limit = int(getattr(config, "max_position_embeddings", 0)) or 2**20
        self.max_context = limit if max_context is None else max_context
        if not 2 <= self.max_context <= limit:
            raise ValueError(f"max_context must be in [2, {limit}], got {max_context}")
        check_attention(model, self.max_context)
        self.model = model
        self.version = 0
        self.counters = EngineCounters()
        self.max_slots = max_slots
        self.max_prefill_tokens = max_prefill_tokens
        self.compact_share = compact_share
        self._decoder = TurnDecoder(tokenizer, eos_token_ids(model, tokenizer))
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._rows = RowTable(SlotCache(), max_slots)

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
        self._check(requests)
        if not requests:
            return []
        run = _Run(self, self._rows, requests, params, self._matcher(params.stop))
        is_done = False
        try:
            with torch.inference_mode(), evaluating(self.model):
                generations = run.run()
            is_done = True
        except RuntimeError as error:
            raise EngineError(f"the model failed on {len(requests)} requests: {error}") from error
        finally:
            if not is_done:
                self._drop()
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Frees the rows of these episodes; unknown ids are ignored."""
        for episode_id in episode_ids:
            self._rows.release(episode_id)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Takes over weights and drops everything that was computed under the old ones.

        Args:
            model: The engine's own model (nothing is copied) or one of the same shape.
            version: Number of updates behind these weights.
        """
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        self.version = version
        self._drop()

    @property
    def memory_bytes(self) -> int:
        """Memory that keys and values take now."""
        return self._rows.cache.memory_bytes

    def _drop(self) -> None:
        self._rows = RowTable(SlotCache(), self.max_slots)

    def _matcher(self, stop: tuple[str, ...]) -> StopMatcher:
        if stop not in self._matchers:
            size = int(self.model.config.get_text_config().vocab_size)
            self._matchers[stop] = StopMatcher(self._decoder, stop, size)
        return self._matchers[stop]

    def _check(self, requests: Sequence[GenerationRequest]) -> None:
        for request in requests:
            if not 0 < len(request.token_ids) < self.max_context:
                raise EngineError(
                    f"context of episode {request.episode_id!r} must have 1 to "
                    f"{self.max_context - 1} tokens, got {len(request.token_ids)}"
                )
        if len({request.episode_id for request in requests}) < len(requests):
            raise EngineError("every request must be of another episode")


class _Run:
    """The state of one call of ``generate``; rows before ``_n`` are in the batch."""

    def __init__(
        self,
        engine: HfEngine,
        rows: RowTable,
        requests: Sequence[GenerationRequest],
        params: SamplingParams,
        matcher: StopMatcher,
    ) -> None:
        self._engine, self._rows = engine, rows
        self._model, self._counters = engine.model, engine.counters
        self._device = next(engine.model.parameters()).device
        self._dtype = next(engine.model.parameters()).dtype
        self._requests, self._params, self._matcher = requests, params, matcher
        room = np.array([engine.max_context - len(r.token_ids) for r in requests])
        self._limits = np.minimum(room, params.max_tokens)
        shape = (len(requests), int(self._limits.max()))
        self._tokens = np.zeros(shape, dtype=np.int64)
        self._logprobs = np.zeros(shape, dtype=np.float64)
        self._uniforms = np.zeros(shape, dtype=np.float64)
        if params.temperature > 0:
            for index, request in enumerate(requests):
                self._uniforms[index] = draw_uniforms(request.seed, shape[1])
        known = [i for i, r in enumerate(requests) if rows.row_of(r.episode_id) is not None]
        unknown = [i for i, r in enumerate(requests) if rows.row_of(r.episode_id) is None]
        self._waiting = deque(known + unknown)
        self._done: list[Generation | None] = [None] * len(requests)
        self._n = 0
        most = min(len(requests), engine.max_slots)
        self._request = np.zeros(most, dtype=np.int64)
        self._length = np.zeros(most, dtype=np.int64)
        self._step = np.zeros(most, dtype=np.int64)
        self._is_live = np.zeros(most, dtype=np.bool_)

    def run(self) -> list[Generation]:
        """Serves all requests."""
        logits = self._admit()
        while True:
            last = self._sample(logits)
            self._finish(last)
            num_live = int(self._is_live[: self._n].sum())
            num_ended = self._n - num_live
            if num_live == 0 or num_ended > self._engine.compact_share * self._n:
                last = self._compact(last)
            parts = [self._decode(last)] if self._n else []
            if self._waiting and self._n < len(self._request):
                parts.append(self._admit())
            if not parts:
                break
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        return [generation for generation in self._done if generation is not None]

    def _sample(self, logits: Tensor) -> Ints:
        n = self._n
        request, step, live = self._request[:n], self._step[:n], self._is_live[:n]
        column = np.minimum(step, self._uniforms.shape[1] - 1)
        uniforms = torch.from_numpy(self._uniforms[request, column]).to(self._device)
        params = self._params
        tokens, logprobs = sample_tokens(logits, uniforms, params.temperature, params.top_p)
        last: Ints = tokens.cpu().numpy()
        if live.all():
            self._tokens[request, step] = last
            self._logprobs[request, step] = logprobs.cpu().numpy()
        else:
            self._tokens[request[live], step[live]] = last[live]
            self._logprobs[request[live], step[live]] = logprobs.cpu().numpy()[live]
        step += live
        self._counters.num_sampled += int(live.sum())
        return last

    def _finish(self, last: Ints) -> None:
        """Ends the turns whose last token completed them."""
        n = self._n
        is_full = self._step[:n] >= self._limits[self._request[:n]]
        events = self._is_live[:n] & (self._matcher.may_end[last] | is_full)
        for row in np.flatnonzero(events).tolist():
            index, count = int(self._request[row]), int(self._step[row])
            ids = self._tokens[index, :count].tolist()
            end = self._ended(ids, bool(is_full[row]))
            if end is None:
                continue
            text, reason = end
            logprobs = tuple(self._logprobs[index, :count].tolist())
            self._done[index] = Generation(tuple(ids), logprobs, text, reason)
            self._is_live[row] = False
            self._rows.ids[row] = (*self._requests[index].token_ids, *ids[:-1])

    def _ended(self, ids: list[int], is_full: bool) -> tuple[str, FinishReason] | None:
        decoder = self._engine._decoder
        if ids[-1] in decoder.eos_ids:
            return decoder.decode(ids), "eos"
        if self._matcher.may_end[ids[-1]]:
            text = self._matcher.find_end(ids)
            if text is not None:
                return text, "stop"
        return (decoder.decode(ids), "length") if is_full else None

    def _compact(self, last: Ints) -> Ints:
        """Swaps the rows that go on to the front; returns their last tokens."""
        live = np.flatnonzero(self._is_live[: self._n])
        for row in live[live >= len(live)].tolist():
            index, count = int(self._request[row]), int(self._step[row])
            ids = self._tokens[index, : count - 1].tolist()
            self._rows.ids[row] = (*self._requests[index].token_ids, *ids)
        moved = self._rows.gather(live.tolist())
        order = np.arange(len(live))
        for old, new in moved.items():
            if new < len(live):
                order[new] = old
        for values in (self._request, self._length, self._step, self._is_live):
            values[: len(live)] = values[order]
        self._n = len(live)
        return last[order]

    def _decode(self, last: Ints) -> Tensor:
        """Feeds one token a row; rows that have ended repeat theirs, in a place not read."""
        n = self._n
        length = self._length[:n]
        longest = int(length.max()) + 1
        self._reserve(longest)
        columns = torch.from_numpy(length[:, None].copy()).to(self._device)
        self._rows.cache.plan(columns, longest)
        logits = self._forward(torch.from_numpy(last[:, None]), columns, longest)
        length += self._is_live[:n]
        self._counters.num_decode_rows += n
        self._counters.num_decode_steps += 1
        return logits

    def _forward(self, token_ids: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Logits of the last column ``[batch, vocabulary]`` under a mask by position."""
        visible = torch.arange(longest, device=self._device) <= positions[:, None, :, None]
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(self._dtype).min)
        output = self._model(
            input_ids=token_ids.to(self._device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _reserve(self, columns: int) -> None:
        cache = self._rows.cache
        if columns > cache.num_columns:
            cache.reserve(cache.num_rows, max(columns, int(cache.num_columns * GROWTH)))

    def _admit(self) -> Tensor:
        """Brings waiting requests into the batch; returns the logits of their next tokens."""
        first = self._n
        count = min(len(self._waiting), len(self._request) - first)
        indices = [self._waiting.popleft() for _ in range(count)]
        requests = [self._requests[index] for index in indices]
        columns = max(len(request.token_ids) for request in requests)
        rows = self._rows.place([r.episode_id for r in requests], first, columns)
        for index, row in zip(indices, rows, strict=True):
            self._request[row] = index
            self._length[row] = len(self._requests[index].token_ids)
        self._step[first : first + count] = 0
        self._is_live[first : first + count] = True
        self._n = first + count
        return self._prefill(first)

    def _prefill(self, first: int) -> Tensor:
        """Computes what the rows from ``first`` on lack of their contexts."""
        contexts = {r: self._requests[self._request[r]].token_ids for r in range(first, self._n)}
        starts = {row: shared_length(self._rows.ids[row], ids) for row, ids in contexts.items()}
        twins: dict[tuple[int, ...], list[int]] = {}
        for row, ids in contexts.items():
            twins.setdefault(ids if starts[row] == 0 else (-1, row), []).append(row)
        leaders = [rows[0] for rows in twins.values()]
        self._share_beginning([r for r in leaders if starts[r] == 0], contexts, starts)
        logits: dict[int, Tensor] = {}
        for chunk in self._chunks(leaders, contexts, starts):
            result = self._prefill_chunk(chunk, contexts, starts)
            logits.update(zip(chunk, result, strict=True))
        for leader, *others in twins.values():
            if others:
                self._rows.cache.copy_row(leader, others, len(contexts[leader]))
                logits.update((other, logits[leader]) for other in others)
                starts.update((other, len(contexts[leader])) for other in others)
        self._counters.num_reused += sum(starts.values())
        return torch.stack([logits[row] for row in range(first, self._n)])

    def _share_beginning(
        self, rows: list[int], contexts: dict[int, tuple[int, ...]], starts: dict[int, int]
    ) -> None:
        """Computes the beginning that all new contexts share once, and copies it."""
        if len(rows) < 2:
            return
        length = min(shared_length(contexts[rows[0]], contexts[row]) for row in rows[1:])
        length = min(length, len(contexts[rows[0]]) - 1)
        if length < MIN_SHARED_PREFIX:
            return
        self._prefill_chunk(rows[:1], {rows[0]: contexts[rows[0]][:length]}, {rows[0]: 0})
        self._rows.cache.copy_row(rows[0], rows[1:], length)
        starts.update((row, length) for row in rows)
        self._counters.num_reused -= length

    def _chunks(
        self, rows: list[int], contexts: dict[int, tuple[int, ...]], starts: dict[int, int]
    ) -> Iterator[list[int]]:
        """Cuts rows into batches of similar numbers of missing tokens."""
        missing = {row: len(contexts[row]) - starts[row] for row in rows}
        chunk: list[int] = []
        for row in sorted(rows, key=lambda row: (missing[row], row)):
            if chunk and missing[row] * (len(chunk) + 1) > self._engine.max_prefill_tokens:
                yield chunk
                chunk = []
            chunk.append(row)
        yield chunk

    def _prefill_chunk(
        self, rows: list[int], contexts: dict[int, tuple[int, ...]], starts: dict[int, int]
    ) -> Tensor:
        """Feeds the missing tokens of some rows, padded on the left to one width.

        Padding attends to column 0 and is stored right of the row's end, where it is never
        read before a real token overwrites it.
        """
        missing = [contexts[row][starts[row] :] for row in rows]
        counts = np.array([len(ids) for ids in missing])
        width = int(counts.max())
        self._reserve(max(starts[row] for row in rows) + width)
        token_ids = np.zeros((len(rows), width), dtype=np.int64)
        for i, ids in enumerate(missing):
            token_ids[i, width - len(ids) :] = ids
        start = np.array([starts[row] for row in rows])[:, None]
        padding = width - counts[:, None]
        offset = np.arange(width)
        is_real = offset >= padding
        positions = np.where(is_real, start + offset - padding, 0)
        columns = np.where(is_real, positions, start + counts[:, None] + offset)
        longest = int((start[:, 0] + counts).max())
        is_front = rows == list(range(len(rows)))
        index = None if is_front else torch.tensor(rows, device=self._device)
        self._rows.cache.plan(torch.from_numpy(columns).to(self._device), longest, index)
        self._counters.num_prefilled += int(counts.sum())
        self._counters.num_padding += int(padding.sum())
        device_positions = torch.from_numpy(positions).to(self._device)
        return self._forward(torch.from_numpy(token_ids), device_positions, longest)


def shared_length(cached: Sequence[int], context: Sequence[int]) -> int:
    """Number of leading tokens that need not be computed again, at most ``len(context) - 1``."""
    limit = min(len(cached), len(context) - 1)
    if tuple(cached[:limit]) == tuple(context[:limit]):
        return limit
    differ = np.flatnonzero(np.asarray(cached[:limit]) != np.asarray(context[:limit]))
    return int(differ[0])


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
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switches a model to evaluation mode and every part of it back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
