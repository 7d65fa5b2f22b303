"""Whole episodes in the atlas environment, through vLLM and through the Hugging Face engine."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.presets import ATLAS_TINY

SPECS = [
    EpisodeSpec(task_index=task, group_id=str(task), seed=100 * task + member)
    for task in range(8)
    for member in range(2)
]


def test_an_engine_starts_beside_a_search_index(loaded: tuple[Any, Any]) -> None:
    """The environment loads numba, whose objects vLLM's start stumbles over."""
    from calibadv_algo.rollout.engines.config import VllmEngineConfig
    from calibadv_algo.rollout.engines.making import make_engine

    slots = make_slots(ATLAS_TINY.env.env_id, 1, ATLAS_TINY.env.kwargs("dev"))
    try:
        assert "llvmlite.binding.ffi" in sys.modules
        engine: Any = make_engine(VllmEngineConfig(), *loaded, max_slots=2)
        engine.close()
    finally:
        slots.close()


def play(kind: Any, engine: Any, tokenizer: Any, params: SamplingParams) -> list[Any]:
    slots = make_slots(ATLAS_TINY.env.env_id, 8, ATLAS_TINY.env.kwargs("dev"))
    try:
        batch = kind(slots, engine, tokenizer, params).play(SPECS, policy_version=3)
    finally:
        slots.close()
    assert not batch.dropped
    return list(batch.trajectories)


def facts(trajectories: list[Any]) -> list[Any]:
    return [
        (
            each.task_id,
            each.prompt_ids,
            [(t.action_ids, t.observation_ids, t.reward) for t in turns],
        )
        for each in trajectories
        for turns in [each.turns]
    ]


def test_greedy_episodes_are_those_of_the_hugging_face_engine(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, stop=kit.STOP)
    theirs = play(Player, HfEngine(*loaded, max_slots=8), loaded[1], params)
    ours = play(Player, engine, loaded[1], params)
    assert facts(ours) == facts(theirs)
    assert {each.policy_version for each in ours} == {3}
    assert max(len(each.turns) for each in ours) >= 3
    assert engine.counters.num_reused > 0
    difference = [
        abs(a - b)
        for one, two in zip(ours, theirs, strict=True)
        for mine, yours in zip(one.turns, two.turns, strict=True)
        for a, b in zip(mine.logprobs, yours.logprobs, strict=True)
    ]
    assert max(difference) < 1e-3
    streamed = play(AsyncPlayer, engine, loaded[1], params)
    assert facts(streamed) == facts(theirs)


def test_sampled_episodes_do_not_depend_on_how_they_are_driven(
    kit: SimpleNamespace, loaded: tuple[Any, Any], engine: Any
) -> None:
    params = SamplingParams(max_tokens=40, stop=kit.STOP)
    once = play(Player, engine, loaded[1], params)
    again = play(Player, engine, loaded[1], params)
    streamed = play(AsyncPlayer, engine, loaded[1], params)
    assert facts(once) == facts(again) == facts(streamed)
    logprobs = np.array([x for each in once for turn in each.turns for x in turn.logprobs])
    assert np.isfinite(logprobs).all()
    assert logprobs.max() <= 1e-6
