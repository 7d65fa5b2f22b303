"""From turns to tokens: the only place where advantages are scattered.

A batch is flat and ragged: the tokens of all sequences one after the other, with the places
where sequences begin. There is no padding, so nothing has to be masked away later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibadv_algo.types import Segment, Trajectory, segments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Sequences of tokens, flat; per-action-token vectors are in order of position.

    Attributes:
        input_ids: All tokens of all sequences: prompt, actions and observations.
        sequence_starts: Where each sequence begins, and the total at the end.
        action_mask: True at tokens that the policy sampled.
        advantages: Advantage of each action token.
        sampling_logprobs: Log-probability of each action token when it was sampled.
        sequence: Index, within this batch, of each action token's sequence.
        turn: Index of each action token's turn.
        sequence_rewards: Return of each sequence, as shaped; None if it is not known.
        old_logprobs: Log-probabilities under the policy before the update, once they are known.
        ref_logprobs: Log-probabilities under the reference policy, if there is one.
        values: The critic's value before each action token, if there is a critic.
        returns: The critic's targets.
        squared_probs: Sum of the squared probabilities of all tokens at each action token's place,
            where an estimator asks for it.
        clip_scale: Factor of the objective's clip range at each action token; None for 1.
        places: Place of each action token in the batch that this one was cut from, where results
            have to find their way back.
        is_row_start: True where something begins that is read by itself: each sequence, and within
            it each segment whose context does not go on from the last. None for the sequences.
    """

    input_ids: Int[Tensor, " position"]
    sequence_starts: Int[Tensor, " bound"]
    action_mask: Bool[Tensor, " position"]
    advantages: Float[Tensor, " token"]
    sampling_logprobs: Float[Tensor, " token"]
    sequence: Int[Tensor, " token"]
    turn: Int[Tensor, " token"]
    sequence_rewards: Float[Tensor, " sequence"] | None = None
    old_logprobs: Float[Tensor, " token"] | None = None
    ref_logprobs: Float[Tensor, " token"] | None = None
    values: Float[Tensor, " token"] | None = None
    returns: Float[Tensor, " token"] | None = None
    squared_probs: Float[Tensor, " token"] | None = None
    clip_scale: Float[Tensor, " token"] | None = None
    places: Int[Tensor, " token"] | None = None
    is_row_start: Bool[Tensor, " position"] | None = None

    @property
    def num_sequences(self) -> int:
        """Number of sequences."""
        return len(self.sequence_starts) - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens, observed ones included."""
        return len(self.input_ids)

    @property
    def num_action_tokens(self) -> int:
        """Number of sampled tokens."""
        return len(self.advantages)

    @property
    def lengths(self) -> Int[Tensor, " sequence"]:
        """Number of tokens of each sequence."""
        return self.sequence_starts.diff()

    @property
    def row_starts(self) -> Int[Tensor, " bound"]:
        """Where each part begins that the model reads by itself, and the total at the end."""
        if self.is_row_start is None:
            return self.sequence_starts
        return torch.cat([self.is_row_start.nonzero().flatten(), self.sequence_starts[-1:]])

    @property
    def row_lengths(self) -> Int[Tensor, " row"]:
        """Number of tokens of each of these parts."""
        return self.row_starts.diff()

    @property
    def is_last_turn(self) -> Bool[Tensor, " token"]:
        """True at action tokens of the last turn of their sequence."""
        last = self.turn.new_zeros(self.num_sequences)
        last = last.scatter_reduce(0, self.sequence, self.turn, "amax")
        return self.turn == last[self.sequence]

    def per_sequence(self, values: Float[Tensor, " token"]) -> list[Float[np.ndarray, " _"]]:
        """Cuts a vector over the action tokens into one vector a sequence."""
        counts = torch.bincount(self.sequence, minlength=self.num_sequences)
        return [part.numpy() for part in torch.split(values, counts.tolist())]


_OPTIONAL_VECTORS = (
    "old_logprobs",
    "ref_logprobs",
    "values",
    "returns",
    "squared_probs",
    "clip_scale",
    "places",
)
"""Fields of a batch that hold one number an action token, or None."""


def build_token_batch(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[Sequence[float] | Float[np.ndarray, " turn"]] | None = None,
) -> TokenBatch:
    """Joins trajectories into one flat batch.

    A sequence is the prompt, then action and observation of each turn; an observation after
    the last action is left out, because nothing is predicted from it. Where thoughts of earlier
    turns were stripped, it holds the segments of its episode one after the other, each with the
    context that its turns were sampled from: every action token stands there once, and its
    sequence is still the episode.

    Args:
        trajectories: At least one, each with a prompt of at least one token.
        advantages: For each trajectory one value a turn; entries beyond its turns are ignored.
            None means zeros, until there are some.

    Returns:
        The batch, in the order of the trajectories.

    Raises:
        ValueError: if the numbers do not match, a prompt is empty or an advantage not finite.
    """
    if not trajectories:
        raise ValueError("trajectories must not be empty")
    rows = [_rows(trajectory) for trajectory in trajectories]
    lengths = [sum(each.num_tokens for each in own) for own in rows]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    turn_lengths = np.array([len(turn.action_ids) for turn in turns])
    num_turns = np.array([len(trajectory.turns) for trajectory in trajectories])
    turn_sequence = np.repeat(np.arange(len(trajectories)), num_turns)
    turn_index = np.concatenate([np.arange(count) for count in num_turns])
    if advantages is None:
        values = np.zeros(int(turn_lengths.sum()))
    else:
        values = np.concatenate(turns_to_tokens(trajectories, advantages))
    return TokenBatch(
        input_ids=torch.tensor(
            [token for own in rows for row in own for token in row.token_ids], dtype=torch.int64
        ),
        sequence_starts=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64),
        action_mask=torch.from_numpy(_flat_mask(rows)),
        advantages=torch.from_numpy(values.astype(np.float32)),
        sampling_logprobs=torch.tensor(
            list(chain.from_iterable(turn.logprobs for turn in turns)), dtype=torch.float32
        ),
        sequence=torch.from_numpy(np.repeat(turn_sequence, turn_lengths)),
        turn=torch.from_numpy(np.repeat(turn_index, turn_lengths)),
        sequence_rewards=torch.tensor([each.reward for each in trajectories]),
        is_row_start=_row_starts(rows),
    )


def turns_to_tokens(
    trajectories: Sequence[Trajectory],
    values: Sequence[Sequence[float] | Float[np.ndarray, " turn"]],
) -> list[Float[np.ndarray, " _"]]:
    """Repeats the value of each turn for its action tokens.

    Args:
        trajectories: The episodes.
        values: For each of them one value a turn; entries beyond its turns are ignored.

    Returns:
        One vector a trajectory, over its action tokens in order.

    Raises:
        ValueError: if the numbers do not match or a value is not finite.
    """
    if len(values) != len(trajectories):
        raise ValueError(
            f"advantages must have one row a trajectory ({len(trajectories)}), got {len(values)}"
        )
    return [
        np.repeat(_turn_values(row, each), [len(turn.action_ids) for turn in each.turns])
        for row, each in zip(values, trajectories, strict=True)
    ]


def last_token_rewards(trajectory: Trajectory) -> Float[np.ndarray, " token"]:
    """The reward of every action token: its turn's if it is the turn's last, else 0."""
    rewards = np.zeros(trajectory.num_action_tokens)
    ends = np.cumsum([len(turn.action_ids) for turn in trajectory.turns]) - 1
    rewards[ends] = [turn.reward for turn in trajectory.turns]
    return rewards


def tokens_to_turns(
    trajectory: Trajectory, values: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " turn"]:
    """The sum over each turn of a value of every action token."""
    starts = np.cumsum([0, *(len(turn.action_ids) for turn in trajectory.turns[:-1])])
    return np.add.reduceat(values, starts)


def select_sequences(batch: TokenBatch, indices: Sequence[int]) -> TokenBatch:
    """A batch of some of the sequences, in the order given and numbered anew.

    Args:
        batch: Where to take them from.
        indices: Which sequences, each between 0 and ``num_sequences - 1``.

    Returns:
        A new batch with copies of their tokens.
    """
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    positions = _ranges(batch.sequence_starts, chosen)
    counts = torch.bincount(batch.sequence, minlength=batch.num_sequences)
    token_starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    tokens = _ranges(token_starts, chosen)
    starts = torch.nn.functional.pad(batch.lengths[chosen].cumsum(0), (1, 0))
    rewards = batch.sequence_rewards
    return TokenBatch(
        input_ids=batch.input_ids[positions],
        sequence_starts=starts,
        action_mask=batch.action_mask[positions],
        advantages=batch.advantages[tokens],
        sampling_logprobs=batch.sampling_logprobs[tokens],
        sequence=torch.arange(len(chosen)).repeat_interleave(counts[chosen]),
        turn=batch.turn[tokens],
        sequence_rewards=None if rewards is None else rewards[chosen],
        is_row_start=None if batch.is_row_start is None else batch.is_row_start[positions],
        **_changed(batch, _OPTIONAL_VECTORS, lambda vector: vector[tokens]),
    )


def to_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """Moves what belongs to action tokens to a device; the rest is not needed there."""
    if device.type == "cpu":
        return batch
    names = ("advantages", "sampling_logprobs", "sequence", "turn", "sequence_rewards")
    return replace(
        batch, **_changed(batch, (*names, *_OPTIONAL_VECTORS), lambda values: values.to(device))
    )


def _changed(
    batch: TokenBatch, names: Sequence[str], change: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Fields of a batch, changed alike; None stays None."""
    values = {name: getattr(batch, name) for name in names}
    return {name: None if each is None else change(each) for name, each in values.items()}


def minibatch_indices(
    num_sequences: int, num_minibatches: int, rng: np.random.Generator
) -> list[list[int]]:
    """Deals sequences at random into minibatches of nearly equal numbers of sequences.

    Args:
        num_sequences: How many there are.
        num_minibatches: How many minibatches; fewer come back if there are fewer sequences.
        rng: Source of the order.

    Returns:
        Lists of sequence indices, none of them empty; each sequence is in exactly one.

    Raises:
        ValueError: if ``num_minibatches`` is not positive.
    """
    if num_minibatches < 1:
        raise ValueError(f"num_minibatches must be positive, got {num_minibatches}")
    order = rng.permutation(num_sequences)
    parts = np.array_split(order, min(num_minibatches, num_sequences))
    return [part.tolist() for part in parts]


def split_minibatches(
    batch: TokenBatch, num_minibatches: int, rng: np.random.Generator
) -> list[TokenBatch]:
    """Cuts a batch at random into minibatches of whole sequences; see `minibatch_indices`."""
    parts = minibatch_indices(batch.num_sequences, num_minibatches, rng)
    return [select_sequences(batch, part) for part in parts]


def split_by_tokens(batch: TokenBatch, max_tokens: int) -> list[TokenBatch]:
    """Cuts a batch into micro-batches of whole sequences within a token budget.

    Sequences are sorted by length first, so that neighbours are of like length.

    Args:
        batch: Sequences to cut it between.
        max_tokens: Most tokens of a micro-batch; a longer sequence gets one of its own.

    Returns:
        Micro-batches in order of rising length.

    Raises:
        ValueError: if ``max_tokens`` is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, got {max_tokens}")
    lengths = batch.lengths.tolist()
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    parts: list[list[int]] = []
    room = 0
    for index in order:
        if not parts or lengths[index] > room:
            parts.append([])
            room = max_tokens
        parts[-1].append(index)
        room -= lengths[index]
    return [select_sequences(batch, part) for part in parts]


def sequences_with_signal(batch: TokenBatch) -> list[int]:
    """Indices of the sequences that have a token whose advantage is not zero."""
    has_signal = torch.zeros(batch.num_sequences, dtype=torch.bool)
    has_signal[batch.sequence[batch.advantages != 0]] = True
    return [int(index) for index in has_signal.nonzero().flatten()]


def _rows(trajectory: Trajectory) -> list[Segment]:
    """The segments of a trajectory, checked to have something before their actions."""
    found = segments(trajectory)
    if not all(each.context_ids for each in found):
        raise ValueError(f"prompt_ids must not be empty (task {trajectory.task_id!r})")
    return found


def _row_starts(rows: Sequence[Sequence[Segment]]) -> Bool[Tensor, " position"] | None:
    """True where a segment begins; None if every trajectory is one."""
    if all(len(own) == 1 for own in rows):
        return None
    lengths = [each.num_tokens for own in rows for each in own]
    found = torch.zeros(sum(lengths), dtype=torch.bool)
    found[np.cumsum([0, *lengths[:-1]])] = True
    return found


def _flat_mask(rows: Sequence[Sequence[Segment]]) -> Bool[np.ndarray, " position"]:
    """True at the tokens of the segments that are actions."""
    runs: list[tuple[bool, int]] = []
    for segment in chain.from_iterable(rows):
        runs.append((False, len(segment.context_ids)))
        for turn in segment.turns[:-1]:
            runs.append((True, len(turn.action_ids)))
            runs.append((False, len(turn.observation_ids)))
        runs.append((True, len(segment.turns[-1].action_ids)))
    flags, counts = zip(*runs, strict=True)
    return np.repeat(np.array(flags, dtype=bool), counts)


def _turn_values(
    row: Sequence[float] | Float[np.ndarray, " turn"], trajectory: Trajectory
) -> Float[np.ndarray, " turn"]:
    """The advantages of a trajectory's own turns, checked."""
    values = np.asarray(row, dtype=np.float64)
    count = len(trajectory.turns)
    if values.ndim != 1 or len(values) < count:
        raise ValueError(
            f"advantages must have a value for each of the {count} turns of task "
            f"{trajectory.task_id!r}, got shape {values.shape}"
        )
    if not np.isfinite(values[:count]).all():
        raise ValueError(
            f"advantages must be finite, got {values[:count]} for task {trajectory.task_id!r}"
        )
    return values[:count]


def _ranges(
    starts: Int[Tensor, " bound"], chosen: Int[Tensor, " choice"]
) -> Int[Tensor, " element"]:
    """The positions ``starts[i] … starts[i + 1] - 1`` of each chosen ``i``, joined."""
    lengths = (starts[1:] - starts[:-1])[chosen]
    ends = lengths.cumsum(0)
    offsets = starts[:-1][chosen] - (ends - lengths)
    total = int(ends[-1]) if len(ends) else 0
    return torch.arange(total) + offsets.repeat_interleave(lengths)
