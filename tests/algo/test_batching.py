"""The scatter from turns to tokens: right values on right tokens, nothing lost."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.batching import (
    TokenBatch,
    build_token_batch,
    last_token_rewards,
    minibatch_indices,
    select_sequences,
    sequences_with_signal,
    split_by_tokens,
    split_minibatches,
    to_device,
    tokens_to_turns,
    turns_to_tokens,
)
from calibadv_algo.types import Trajectory, Turn


def make_trajectory(name: int, prompt: int, turns: list[tuple[int, int]]) -> Trajectory:
    """A trajectory of known token ids: no id occurs twice in it, log-probs tell the id."""
    next_id = iter(range(name * 1000, name * 1000 + 1000))

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(next_id) for _ in range(count))

    prompt_ids = take(prompt)
    made = []
    for num_action, num_observation in turns:
        action = take(num_action)
        made.append(
            Turn(
                action_ids=action,
                action_text="",
                logprobs=tuple(-float(token) for token in action),
                observation_ids=take(num_observation),
                reward=float(name + len(made)),
            )
        )
    return Trajectory(
        group_id="g",
        task_id=f"t{name}",
        prompt_ids=prompt_ids,
        prompt_text="",
        turns=tuple(made),
    )


@st.composite
def trajectory_lists(draw: st.DrawFn) -> list[Trajectory]:
    """One to six trajectories of any shape, adjacent actions without observation included."""
    turns = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=4)
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), turns), min_size=1, max_size=6))
    return [make_trajectory(i, prompt, shape) for i, (prompt, shape) in enumerate(shapes)]


def turn_advantages(trajectories: list[Trajectory]) -> list[list[float]]:
    """A different advantage for every turn of every trajectory."""
    return [
        [10.0 * i + q + 1 for q in range(len(trajectory.turns))]
        for i, trajectory in enumerate(trajectories)
    ]


@settings(max_examples=60, deadline=None)
@given(trajectory_lists())
def test_every_token_carries_the_advantage_of_its_turn(trajectories: list[Trajectory]) -> None:
    advantages = turn_advantages(trajectories)
    batch = build_token_batch(trajectories, advantages)
    acted = batch.input_ids[batch.action_mask].tolist()
    k = 0
    for i, trajectory in enumerate(trajectories):
        for q, turn in enumerate(trajectory.turns):
            for token in turn.action_ids:
                assert acted[k] == token
                assert batch.advantages[k] == advantages[i][q]
                assert batch.sampling_logprobs[k] == -float(token)
                assert (int(batch.sequence[k]), int(batch.turn[k])) == (i, q)
                k += 1
    assert k == batch.num_action_tokens == int(batch.action_mask.sum())


@settings(max_examples=40, deadline=None)
@given(trajectory_lists())
def test_a_sequence_is_prompt_actions_and_observations_without_the_last(
    trajectories: list[Trajectory],
) -> None:
    batch = build_token_batch(trajectories, turn_advantages(trajectories))
    for i, trajectory in enumerate(trajectories):
        start, end = batch.sequence_starts[i : i + 2].tolist()
        expected = list(trajectory.prompt_ids)
        for turn in trajectory.turns:
            expected += [*turn.action_ids, *turn.observation_ids]
        expected = expected[: len(expected) - len(trajectory.turns[-1].observation_ids)]
        assert batch.input_ids[start:end].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(trajectory_lists(), st.integers(1, 40), st.integers(1, 7), st.integers(0, 5))
def test_splitting_keeps_every_sequence_whole_and_once(
    trajectories: list[Trajectory], budget: int, num_minibatches: int, seed: int
) -> None:
    batch = build_token_batch(trajectories, turn_advantages(trajectories))
    batch = replace(batch, ref_logprobs=batch.advantages * 2, values=batch.advantages * 3)
    seen: list[int] = []
    for minibatch in split_minibatches(batch, num_minibatches, np.random.default_rng(seed)):
        for micro in split_by_tokens(minibatch, budget):
            assert micro.num_tokens <= budget or micro.num_sequences == 1
            lengths = micro.lengths.tolist()
            assert lengths == sorted(lengths)
            for index in range(micro.num_sequences):
                seen.append(check_sequence(micro, index, trajectories))
    assert sorted(seen) == list(range(len(trajectories)))


def check_sequence(batch: TokenBatch, index: int, trajectories: list[Trajectory]) -> int:
    """Checks one sequence of a split batch against its trajectory, and says which it was."""
    start, end = batch.sequence_starts[index : index + 2].tolist()
    name = int(batch.input_ids[start]) // 1000
    alone = build_token_batch([trajectories[name]], [turn_advantages(trajectories)[name]])
    tokens = batch.sequence == index
    assert torch.equal(batch.input_ids[start:end], alone.input_ids)
    assert torch.equal(batch.action_mask[start:end], alone.action_mask)
    for key in ("advantages", "sampling_logprobs", "turn"):
        assert torch.equal(getattr(batch, key)[tokens], getattr(alone, key))
    assert batch.ref_logprobs is not None
    assert torch.equal(batch.ref_logprobs[tokens], alone.advantages * 2)
    assert batch.values is not None
    assert torch.equal(batch.values[tokens], alone.advantages * 3)
    assert batch.sequence_rewards is not None
    assert batch.sequence_rewards[index] == trajectories[name].reward
    assert torch.equal(batch.is_last_turn[tokens], alone.turn == len(trajectories[name].turns) - 1)
    return name


@settings(max_examples=40, deadline=None)
@given(trajectory_lists())
def test_between_turns_and_tokens(trajectories: list[Trajectory]) -> None:
    values = turn_advantages(trajectories)
    tokens = turns_to_tokens(trajectories, values)
    batch = build_token_batch(trajectories, values)
    for ours, theirs in zip(batch.per_sequence(batch.advantages), tokens, strict=True):
        assert ours.tolist() == theirs.astype(np.float32).tolist()
    assert build_token_batch(trajectories).advantages.tolist() == [0] * batch.num_action_tokens
    for trajectory, row, vector in zip(trajectories, values, tokens, strict=True):
        counts = [len(turn.action_ids) for turn in trajectory.turns]
        sums = tokens_to_turns(trajectory, vector)
        assert sums == pytest.approx([v * n for v, n in zip(row, counts, strict=False)])
        rewards = last_token_rewards(trajectory)
        assert tokens_to_turns(trajectory, rewards).tolist() == [t.reward for t in trajectory.turns]
        ends = np.cumsum(counts) - 1
        assert rewards[ends].tolist() == [t.reward for t in trajectory.turns]


def test_micro_batches_fill_their_budget() -> None:
    trajectories = [make_trajectory(i, 2, [(8, 0)]) for i in range(10)]
    batch = build_token_batch(trajectories, [[1.0]] * 10)
    assert [micro.num_sequences for micro in split_by_tokens(batch, 35)] == [3, 3, 3, 1]


def test_selecting_follows_the_order_given() -> None:
    trajectories = [make_trajectory(i, 1, [(i + 1, 1), (1, 0)]) for i in range(4)]
    batch = build_token_batch(trajectories, turn_advantages(trajectories))
    chosen = select_sequences(batch, [2, 0])
    assert chosen.input_ids[chosen.sequence_starts[:-1]].tolist() == [2000, 0]
    assert chosen.advantages.tolist() == [21, 21, 21, 22, 1, 2]
    assert chosen.sequence.tolist() == [0, 0, 0, 0, 1, 1]


def test_what_belongs_to_action_tokens_moves_to_the_device() -> None:
    batch = build_token_batch([make_trajectory(i, 1, [(2, 1), (1, 0)]) for i in range(2)])
    batch = replace(batch, values=torch.zeros(batch.num_action_tokens))
    moved = to_device(batch, torch.device("meta"))
    stays = {"input_ids", "sequence_starts", "action_mask"}
    for item in fields(batch):
        before, after = getattr(batch, item.name), getattr(moved, item.name)
        assert (before is None) == (after is None)
        if after is not None:
            assert after.device.type == ("cpu" if item.name in stays else "meta")
            assert after.shape == before.shape
    assert to_device(batch, torch.device("cpu")) is batch


def test_minibatches_depend_on_the_generator_alone() -> None:
    first = minibatch_indices(7, 3, np.random.default_rng(1))
    assert first == minibatch_indices(7, 3, np.random.default_rng(1))
    assert first != minibatch_indices(7, 3, np.random.default_rng(2))
    assert sorted(len(part) for part in first) == [2, 2, 3]
    assert len(minibatch_indices(2, 5, np.random.default_rng(1))) == 2


def test_signal_is_an_advantage_other_than_zero() -> None:
    trajectories = [make_trajectory(i, 1, [(2, 1), (1, 0)]) for i in range(3)]
    batch = build_token_batch(trajectories, [[0, 0], [0, -1], [2, 0]])
    assert sequences_with_signal(batch) == [1, 2]


def test_longer_rows_are_group_matrices_and_their_rest_is_ignored() -> None:
    batch = build_token_batch([make_trajectory(0, 1, [(2, 0)])], [np.array([3.0, np.nan])])
    assert batch.advantages.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "one row a trajectory"),
        ([[1.0]], "each of the 2 turns"),
        ([[1.0, float("nan")]], "must be finite"),
    ],
)
def test_bad_advantages_are_refused(rows: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_token_batch([make_trajectory(0, 1, [(1, 1), (1, 0)])], rows)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_ids must not be empty"):
        build_token_batch([make_trajectory(0, 0, [(1, 0)])], [[1.0]])
    with pytest.raises(ValueError, match="trajectories must not be empty"):
        build_token_batch([], [])


def test_budgets_must_be_positive() -> None:
    batch = build_token_batch([make_trajectory(0, 1, [(1, 0)])], [[1.0]])
    with pytest.raises(ValueError, match="max_tokens must be positive, got 0"):
        split_by_tokens(batch, 0)
    with pytest.raises(ValueError, match="num_minibatches must be positive, got 0"):
        split_minibatches(batch, 0, np.random.default_rng(0))
