"""The running batch of :class:`~calibadv_algo.rollout.engines.hf.engine.HfEngine`.

A step goes through these stages:

1. Rows that decode get their next token's logits.
2. Waiting turns get rows of the store (``kv_cache.py``); what a row still holds of its episode is
   kept as far as it agrees with the context. What is missing is computed in a few batches of
   similar length. Equal prompts are computed once and copied, and so is a long beginning that
   all new prompts share.
3. Every row samples a token. Turns that end are given back, and their rows leave the batch as
   soon as enough of them have ended.

Shapes are rounded up (``align``) because matrix products of very few rows, or with an odd
remainder, are computed by other code with other rounding, and long sums are split in parts whose
length depends on the whole. With the right shapes a row comes out the same to the bit on a CPU in
float32, whatever shares its batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from calibadv_algo.rollout.engines.base import (
    FinishReason,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from calibadv_algo.rollout.engines.decoding import (
    StopMatcher,
    TurnDecoder,
    draw_uniforms,
    sample_tokens,
)
from calibadv_algo.rollout.engines.hf.columns import ColumnSteps
from calibadv_algo.rollout.engines.hf.kv_cache import RowTable, SlotCache
from calibadv_algo.rollout.engines.hf.lean import LeanForward, Piece
from calibadv_env.common.checks import FRACTION, POSITIVE, Checked

Ints = NDArray[np.int64]

MIN_SHARED_PREFIX = 32
GROWTH = 1.25


@dataclass(slots=True)
class EngineCounters:
    """Counts of an engine since it was made.

    Attributes:
        num_sampled: Tokens sampled.
        num_prefilled: Context tokens computed, without padding.
        num_padding: Padding computed along with them.
        num_reused: Context tokens found in the store, copies of equal prompts included.
        num_decode_rows: Rows computed in decoding steps, rows that fill up a step included.
        num_decode_steps: Decoding steps.
    """

    num_sampled: int = 0
    num_prefilled: int = 0
    num_padding: int = 0
    num_reused: int = 0
    num_decode_rows: int = 0
    num_decode_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits(Checked):
    """Sizes of a running batch; see :class:`~calibadv_algo.rollout.engines.hf.engine.HfEngine`."""

    max_slots: Annotated[int, POSITIVE]
    max_context: int
    max_prefill_tokens: Annotated[int, POSITIVE]
    compact_share: Annotated[float, FRACTION]
    align: Annotated[int, POSITIVE]
    decode_columns: ColumnSteps
    prefill_columns: ColumnSteps


class RunningBatch:
    """Turns that decode together; rows before ``_n`` are in the batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: TurnDecoder,
        limits: BatchLimits,
        counters: EngineCounters,
        lean: LeanForward | None = None,
    ) -> None:
        """Starts with nothing kept and nothing running; ``lean`` may do the model's work."""
        self.rows = RowTable(SlotCache(), limits.max_slots)
        self.params = SamplingParams()
        self._model, self._decoder, self._limits = model, decoder, limits
        self._counters = counters
        self._given_lean = lean
        self._lean: LeanForward | None = None
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._matcher: StopMatcher | None = None
        self._waiting: deque[GenerationRequest] = deque()
        self._jobs: list[GenerationRequest | None] = [None] * limits.max_slots
        self._n = 0
        self._last: Ints = np.zeros(0, dtype=np.int64)
        # By row: which job it works at, what its episode holds, tokens sampled, still sampling.
        self._job = np.zeros(limits.max_slots, dtype=np.int64)
        self._length = np.zeros(limits.max_slots, dtype=np.int64)
        self._step = np.zeros(limits.max_slots, dtype=np.int64)
        self._is_live = np.zeros(limits.max_slots, dtype=np.bool_)
        # By job: most tokens, and what was sampled.
        self._most = np.zeros(limits.max_slots, dtype=np.int64)
        self._shape(1)

    @property
    def running(self) -> set[str]:
        """Episodes whose turns have not ended."""
        jobs = (self._jobs[job] for job in self._job[: self._n][self._is_live[: self._n]])
        return {job.episode_id for job in (*jobs, *self._waiting) if job is not None}

    @property
    def num_running(self) -> int:
        """Number of turns that have not ended."""
        return len(self._waiting) + int(self._is_live[: self._n].sum())

    def submit(
        self, requests: Sequence[GenerationRequest], params: SamplingParams, matcher: StopMatcher
    ) -> None:
        """Queues turns whose episodes do not run; the params are those of the running ones."""
        width = min(params.max_tokens, self._limits.max_context)
        if not self.num_running:
            self._choose_forward()
            if self._tokens.shape[1] != width:
                self._shape(width)
        self.params, self._matcher = params, matcher
        self._waiting += requests

    def cancel(self, episode_id: str) -> None:
        """Drops the turn of an episode, if there is one, and whatever is kept for it."""
        self._waiting = deque(r for r in self._waiting if r.episode_id != episode_id)
        row = self.rows.row_of(episode_id)
        if row is not None and row < self._n:
            self._end(row)
        self.rows.release(episode_id)

    def step(self) -> list[tuple[str, Generation]]:
        """Samples one token of every running turn; returns those that ended."""
        self._leave()
        parts: list[Tensor] = []
        if self._n:
            parts.append(self._decode())
        if self._waiting and self._n < len(self._job):
            parts.append(self._admit())
        if not parts:
            return []
        self._last = self._sample(parts[0] if len(parts) == 1 else torch.cat(parts))
        return self._finish()

    def _choose_forward(self) -> None:
        """Goes through the model itself if something hangs on its forward passes."""
        lean = self._given_lean
        if lean is not None and lean.is_watched():
            lean = None
        if lean is not self._lean:
            # The two keep keys in another order.
            self.rows, self._n = RowTable(SlotCache(), self._limits.max_slots), 0
            self._lean = lean
        if lean is not None:
            lean.refresh()

    def _shape(self, width: int) -> None:
        """Makes room for turns of so many tokens."""
        shape = (self._limits.max_slots, width)
        self._tokens = np.zeros(shape, dtype=np.int64)
        self._logprobs = np.zeros(shape, dtype=np.float64)
        self._uniforms = np.zeros(shape, dtype=np.float64)

    def _aligned(self, count: int) -> int:
        return -(-count // self._limits.align) * self._limits.align

    def _sample(self, logits: Tensor) -> Ints:
        n = self._n
        job, step, live = self._job[:n], self._step[:n], self._is_live[:n]
        column = np.minimum(step, self._uniforms.shape[1] - 1)
        uniforms = torch.from_numpy(self._uniforms[job, column]).to(self._device)
        params = self.params
        tokens, logprobs = sample_tokens(logits, uniforms, params.temperature, params.top_p)
        last: Ints = tokens.cpu().numpy()
        self._tokens[job[live], step[live]] = last[live]
        self._logprobs[job[live], step[live]] = logprobs.cpu().numpy()[live]
        step += live
        self._counters.num_sampled += int(live.sum())
        return last

    def _finish(self) -> list[tuple[str, Generation]]:
        """Ends the turns whose last token completed them."""
        n = self._n
        assert self._matcher is not None
        is_full = self._step[:n] >= self._most[self._job[:n]]
        events = self._is_live[:n] & (self._matcher.may_end[self._last] | is_full)
        ended: list[tuple[str, Generation]] = []
        for row in np.flatnonzero(events).tolist():
            job, count = int(self._job[row]), int(self._step[row])
            request = self._jobs[job]
            assert request is not None
            ids = self._tokens[job, :count].tolist()
            end = self._ended(ids, bool(is_full[row]))
            if end is None:
                continue
            text, reason = end
            logprobs = tuple(self._logprobs[job, :count].tolist())
            ended.append((request.episode_id, Generation(tuple(ids), logprobs, text, reason)))
            self._end(row)
        return ended

    def _end(self, row: int) -> None:
        """A row samples no more; it holds all but the last token that it sampled."""
        job, count = int(self._job[row]), int(self._step[row])
        request = self._jobs[job]
        if not self._is_live[row] or request is None:
            return
        sampled = self._tokens[job, : max(0, count - 1)].tolist()
        self.rows.ids[row] = (*request.token_ids, *sampled)
        self._is_live[row] = False
        self._jobs[job] = None

    def _ended(self, ids: list[int], is_full: bool) -> tuple[str, FinishReason] | None:
        assert self._matcher is not None
        if ids[-1] in self._decoder.eos_ids:
            return self._decoder.decode(ids), "eos"
        if self._matcher.may_end[ids[-1]]:
            text = self._matcher.find_end(ids)
            if text is not None:
                return text, "stop"
        return (self._decoder.decode(ids), "length") if is_full else None

    def _leave(self) -> None:
        """Removes rows that have ended from the batch, if that pays or others wait."""
        live = np.flatnonzero(self._is_live[: self._n])
        num_ended = self._n - len(live)
        is_shorter = self._aligned(len(live)) < self._aligned(self._n)
        is_worth_it = is_shorter and num_ended > self._limits.compact_share * self._n
        if num_ended and (is_worth_it or self._waiting or len(live) == 0):
            self._compact(live)

    def _compact(self, live: Ints) -> None:
        """Swaps the rows that go on to the front."""
        for row in live[live >= len(live)].tolist():
            job, count = int(self._job[row]), int(self._step[row])
            request = self._jobs[job]
            assert request is not None
            self.rows.ids[row] = (*request.token_ids, *self._tokens[job, : count - 1].tolist())
        moved = self.rows.gather(live.tolist())
        order = np.arange(len(live))
        for old, new in moved.items():
            if new < len(live):
                order[new] = old
        for values in (self._job, self._length, self._step, self._is_live):
            values[: len(live)] = values[order]
        self._n = len(live)
        self._last = self._last[order]

    def _decode(self) -> Tensor:
        """Feeds one token a row; returns the logits ``[row, vocabulary]`` of those in the batch.

        Rows that have ended, and rows beyond the batch that fill the step up, compute something
        too; it is stored right of what they hold, in a place that is not read.
        """
        n, batch = self._n, self._aligned(self._n)
        tokens, positions = np.zeros((2, batch, 1), dtype=np.int64)
        tokens[:n, 0], positions[:n, 0] = self._last, self._length[:n]
        columns = positions.copy()
        held = [len(ids) for ids in self.rows.ids[n:batch]]
        columns[n : n + len(held), 0] = held
        end = self._aligned(int(self._length[:n].max()) + 1)
        longest = self._limits.decode_columns.cover(end)
        self._reserve(max(longest, int(columns.max()) + 1), batch)
        cache, lean = self.rows.cache, self._lean
        if lean is not None:
            fed, at, to = (torch.from_numpy(each[:, 0]) for each in (tokens, positions, columns))
            logits = lean.decode(cache, fed, at, to, longest)
        else:
            cache.plan(torch.from_numpy(columns).to(self._device), longest)
            logits = self._forward(torch.from_numpy(tokens), torch.from_numpy(positions), longest)
        self._length[:n] += self._is_live[:n]
        self._counters.num_decode_rows += batch
        self._counters.num_decode_steps += 1
        return logits[:n]

    def _forward(self, token_ids: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Logits of the last column ``[batch, vocabulary]`` under a mask by position."""
        positions = positions.to(self._device)
        visible = torch.arange(longest, device=self._device) <= positions[:, None, :, None]
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(self._dtype).min)
        num_kept = min(token_ids.shape[1], -(-self._limits.align // token_ids.shape[0]))
        output = self._model(
            input_ids=token_ids.to(self._device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.rows.cache,
            use_cache=True,
            logits_to_keep=num_kept,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _reserve(self, columns: int, num_rows: int = 0) -> None:
        cache = self.rows.cache
        rows = max(cache.num_rows, num_rows)
        if columns > cache.num_columns:
            columns = max(columns, int(cache.num_columns * GROWTH))
        cache.reserve(rows, columns)

    def _admit(self) -> Tensor:
        """Brings waiting turns into the batch; returns the logits of their next tokens."""
        first = self._n
        requests = self._next_requests(len(self._job) - first)
        columns = max(len(request.token_ids) for request in requests)
        names = [request.episode_id for request in requests]
        rows = self.rows.place(names, first, columns)
        free = (job for job, request in enumerate(self._jobs) if request is None)
        for request, row, job in zip(requests, rows, list(free)[: len(rows)], strict=True):
            self._jobs[job] = request
            self._job[row], self._length[row] = job, len(request.token_ids)
            room = self._limits.max_context - len(request.token_ids)
            self._most[job] = min(room, self.params.max_tokens)
            if self.params.temperature > 0:
                self._uniforms[job] = draw_uniforms(request.seed, self._uniforms.shape[1])
        self._n = first + len(requests)
        self._step[first : self._n] = 0
        self._is_live[first : self._n] = True
        return self._prefill(first)

    def _next_requests(self, count: int) -> list[GenerationRequest]:
        """Pops turns that wait; those whose episodes have a row come first."""
        if len(self._waiting) > count:
            has_row = [self.rows.row_of(each.episode_id) is not None for each in self._waiting]
            order = np.argsort(~np.array(has_row), kind="stable")
            self._waiting = deque(self._waiting[index] for index in order.tolist())
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def _prefill(self, first: int) -> Tensor:
        """Computes what the rows from ``first`` on lack of their contexts."""
        requests = {row: self._jobs[self._job[row]] for row in range(first, self._n)}
        contexts = {row: each.token_ids for row, each in requests.items() if each is not None}
        starts = {row: shared_length(self.rows.ids[row], ids) for row, ids in contexts.items()}
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
                self.rows.cache.copy_row(leader, others, len(contexts[leader]))
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
        self.rows.cache.copy_row(rows[0], rows[1:], length)
        starts.update((row, length) for row in rows)
        self._counters.num_reused -= length

    def _chunks(
        self, rows: list[int], contexts: dict[int, tuple[int, ...]], starts: dict[int, int]
    ) -> Iterator[list[int]]:
        """Cuts rows into batches of similar numbers of missing tokens."""
        missing = {row: self._aligned(len(contexts[row]) - starts[row]) for row in rows}
        chunk: list[int] = []
        for row in sorted(rows, key=lambda row: (missing[row], row)):
            if chunk and missing[row] * (len(chunk) + 1) > self._limits.max_prefill_tokens:
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
        cover = self._limits.prefill_columns.cover
        if self._lean is not None:
            return self._prefill_lean(self._lean, rows, missing, starts)
        counts = np.array([len(ids) for ids in missing])
        width = self._aligned(int(counts.max()))
        token_ids = np.zeros((len(rows), width), dtype=np.int64)
        for i, ids in enumerate(missing):
            token_ids[i, width - len(ids) :] = ids
        start = np.array([starts[row] for row in rows])[:, None]
        padding = width - counts[:, None]
        offset = np.arange(width)
        is_real = offset >= padding
        positions = np.where(is_real, start + offset - padding, 0)
        columns = np.where(is_real, positions, start + counts[:, None] + offset)
        longest = max(cover(self._aligned(end)) for end in (start[:, 0] + counts).tolist())
        self._reserve(max(longest, int(columns.max()) + 1))
        is_front = rows == list(range(len(rows)))
        index = None if is_front else torch.tensor(rows, device=self._device)
        self.rows.cache.plan(torch.from_numpy(columns).to(self._device), longest, index)
        self._counters.num_prefilled += int(counts.sum())
        self._counters.num_padding += int(padding.sum())
        return self._forward(torch.from_numpy(token_ids), torch.from_numpy(positions), longest)

    def _prefill_lean(
        self,
        lean: LeanForward,
        rows: list[int],
        missing: Sequence[Sequence[int]],
        starts: dict[int, int],
    ) -> Tensor:
        """Feeds the missing tokens of some rows, each reading its own columns."""
        cover = self._limits.prefill_columns.cover
        pieces = [
            Piece(row, starts[row], ids, cover(self._aligned(starts[row] + len(ids))))
            for row, ids in zip(rows, missing, strict=True)
        ]
        filled = [each.start + self._aligned(len(each.token_ids)) for each in pieces]
        self._reserve(max(*(each.longest for each in pieces), *filled))
        num_real = sum(map(len, missing))
        self._counters.num_prefilled += num_real
        self._counters.num_padding += sum(self._aligned(len(ids)) for ids in missing) - num_real
        return lean.prefill(self.rows.cache, pieces, self._limits.align)


def shared_length(cached: Sequence[int], context: Sequence[int]) -> int:
    """Number of leading tokens that need not be computed again, at most ``len(context) - 1``."""
    limit = min(len(cached), len(context) - 1)
    if tuple(cached[:limit]) == tuple(context[:limit]):
        return limit
    differ = np.flatnonzero(np.asarray(cached[:limit]) != np.asarray(context[:limit]))
    return int(differ[0])
