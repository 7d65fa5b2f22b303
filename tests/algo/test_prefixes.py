"""Common prefixes computed once: trees by hand, and the same numbers and gradients as apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from calibadv_algo.advantages.token_baselines import (
    EnergyBaseline,
    OptimalTokenBaseline,
    TurnOptimalTokenBaseline,
)
from calibadv_algo.batching import TokenBatch, build_token_batch
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import Learner
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.prefixes import plant, split_by_nodes
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.estimation import ScoredGroup, draft_batch, estimate
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, Trajectory, Turn

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def episode(prompt: list[int], *turns: tuple[list[int], list[int]]) -> Trajectory:
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=tuple(prompt),
        prompt_text="",
        turns=tuple(
            Turn(
                action_ids=tuple(action),
                action_text="",
                logprobs=(-3.0,) * len(action),
                observation_ids=tuple(seen),
            )
            for action, seen in turns
        ),
    )


def make_episodes(rng: np.random.Generator) -> list[Trajectory]:
    """Two groups: common prompts, one common first turn, one episode twice, one a prefix."""

    def draw(size: int) -> list[int]:
        return [int(token) for token in rng.integers(1, 50, size)]

    episodes = []
    for _ in range(2):
        prompt, query, found = draw(9), draw(5), draw(12)
        last = draw(4)
        episodes += [
            episode(prompt, (query, found), (last, [])),
            episode(prompt, (query, found), (draw(6), [])),
            episode(prompt, (draw(7), draw(3)), (draw(2), [])),
            episode(prompt, (query, found), (last, [])),
            episode(prompt, (query[:3], [])),
        ]
    return episodes


def make_batch(seed: int = 0) -> TokenBatch:
    """The episodes of both groups in a random order, with random advantages."""
    rng = np.random.default_rng(seed)
    episodes = make_episodes(rng)
    order = rng.permutation(len(episodes))
    episodes = [episodes[place] for place in order]
    return build_token_batch(episodes, [rng.normal(size=len(e.turns)) for e in episodes])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def windowed() -> MistralForCausalLM:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))


def test_a_tree_by_hand() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 5], [9, 9], [1, 2, 3]]
    batch = build_token_batch([episode(row[:1], (row[1:], [])) for row in rows])
    forest = plant(batch, min_shared=2)
    assert batch.input_ids[forest.tokens].tolist() == [1, 2, 3, 4, 5, 9, 9]
    assert forest.depths.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert forest.node_of.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 0, 1, 2]
    tree, lone = forest.masks
    assert tree.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert lone.int().tolist() == [[1, 0], [1, 1]]
    assert len(plant(batch, min_shared=4).tokens) == 12  # three tokens in common are too few


def test_every_token_sees_its_own_sequence_alone() -> None:
    batch = make_batch()
    forest = plant(batch)
    assert len(forest.tokens) < 0.7 * batch.num_tokens
    first = np.cumsum([0, *(len(mask) for mask in forest.masks)])
    starts = batch.sequence_starts.tolist()
    for begin, end in pairwise(starts):
        path = forest.node_of[begin:end]
        assert torch.equal(batch.input_ids[forest.tokens[path]], batch.input_ids[begin:end])
        tree = int(np.searchsorted(first, int(path[0]), side="right")) - 1
        for place, node in enumerate(path):
            seen = forest.masks[tree][int(node) - first[tree]].nonzero().flatten() + first[tree]
            assert sorted(path[: place + 1].tolist()) == seen.tolist()


@pytest.mark.parametrize("make", [llama, windowed])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_numbers_and_gradients_are_those_of_separate_sequences(
    make: type, checkpointing: bool
) -> None:
    batch = make_batch()
    found = []
    for shares in (False, True):
        model = make()
        policy = Policy(model, is_gradient_checkpointing=checkpointing, shares_prefixes=shares)
        with policy.packed_attention():
            logprobs, entropies = policy.logprobs(batch, 0.9, has_entropy_grad=True)
            (logprobs * batch.advantages + 0.1 * entropies).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((logprobs.detach(), entropies.detach(), gradient))
    for apart, together in zip(*found, strict=True):
        assert float((apart - together).abs().max()) < 1e-5 * max(1.0, float(apart.abs().max()))


@pytest.mark.parametrize("micro_batch_tokens", [20, 60, 2048])
def test_an_update_is_the_same(micro_batch_tokens: int) -> None:
    weights = []
    for prefixes in ("separate", "shared"):
        config = OptimConfig(
            lr=1e-2, prefixes=prefixes, micro_batch_tokens=micro_batch_tokens, kl_coef=0.1
        )
        learner = Learner(llama(), config)
        learner.update(make_batch(), 0, np.random.default_rng(0))
        weights.append(torch.cat([p.detach().flatten() for p in learner.policy.model.parameters()]))
    assert float((weights[0] - weights[1]).abs().max()) < 2e-4


@pytest.mark.parametrize("estimator", [OptimalTokenBaseline(), TurnOptimalTokenBaseline()])
@pytest.mark.parametrize("micro_batch_tokens", [20, 2048])
def test_token_baselines_have_the_same_gradients(
    estimator: EnergyBaseline, micro_batch_tokens: int
) -> None:
    rng = np.random.default_rng(1)
    episodes = make_episodes(rng)
    rewarded = [
        replace(e, turns=(*e.turns[:-1], replace(e.turns[-1], reward=float(rng.normal()))))
        for e in episodes
    ]
    groups = [Group(tuple(rewarded[start : start + 5])) for start in (0, 5)]
    settings: TrainConfig = replace(ATLAS_TINY, advantage=estimator)
    nothing = np.full((5, 2), np.nan)
    trained = np.ones(5, dtype=np.bool_)
    scored = [
        ScoredGroup(
            played=each,
            shaped=each,
            correctness=nothing[:, : each.max_turns],
            is_trained=trained,
        )
        for each in groups
    ]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for prefixes in ("separate", "shared"):
        config = OptimConfig(prefixes=prefixes, micro_batch_tokens=micro_batch_tokens)
        learner = Learner(llama(), config, temperature=0.8, has_squared_probs=True)
        prepared = learner.prepare(draft_batch(scored))
        batch = estimate(scored, prepared, settings, 0).batch
        learner.accumulate_gradient(batch)
        model = learner.policy.model
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert prepared.squared_probs is not None
        found.append((prepared.squared_probs, batch.advantages, gradient))
    assert float(found[0][2].abs().max()) > 1e-3
    for apart, together in zip(*found, strict=True):
        assert float((apart - together).abs().max()) < 1e-5 * max(1.0, float(apart.abs().max()))


def test_micro_batches_keep_what_is_shared_together_and_within_the_budget() -> None:
    batch = make_batch()
    parts = split_by_nodes(batch, 60)
    assert sum(part.num_sequences for part in parts) == batch.num_sequences
    assert all(len(plant(part).tokens) <= 60 for part in parts)
    assert sum(len(plant(part).tokens) for part in parts) <= 1.2 * len(plant(batch).tokens)
    with pytest.raises(ValueError, match="max_tokens must be positive"):
        split_by_nodes(batch, 0)
