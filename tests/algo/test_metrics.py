"""The numbers of an update against episodes worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.learner.learner import CriticResult, UpdateResult
from calibadv_algo.learner.tokens import TokenScores
from calibadv_algo.training.config import RolloutConfig, TrainConfig
from calibadv_algo.training.metrics import (
    alarm,
    credit_metrics,
    learner_metrics,
    rollout_metrics,
    selection_metrics,
    text_metrics,
)
from calibadv_algo.types import Group, Trajectory, Turn


def make_turn(
    kind: str, passages: tuple[str, ...] = (), gold: tuple[str, ...] = (), **end: Any
) -> Turn:
    info = {
        "action": kind,
        "think": f"think about {passages}",
        "passage_ids": passages,
        "gold_new": gold,
        "gold_recall": 0.5,
        **end,
    }
    return Turn(
        action_ids=(1, 2),
        action_text="go on",
        logprobs=(-1.0, -1.0),
        info=info,
        reward=float(end.get("f1", 0.0)),
    )


def make_group() -> Group:
    """One right and two wrong episodes; one of the wrong ones searched rightly."""

    def episode(search: Turn, f1: float) -> Trajectory:
        answer = make_turn("answer", f1=f1, em=f1, num_searches=1, is_format_valid=True)
        return Trajectory(
            group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=(search, answer)
        )

    return Group(
        (
            episode(make_turn("search", ("p",), ("p",)), 1.0),
            episode(make_turn("search", ("p",), ("p",)), 0.0),
            episode(make_turn("search", ("x",)), 0.0),
        )
    )


def test_half_of_the_punished_searches_were_right() -> None:
    group = make_group()
    advantages = Grpo()(group, np.full((3, 2), np.nan))
    found = credit_metrics([group], [advantages])
    for name in ("mispenalized_share", "mispenalized_share_gold", "mispenalized_share_silver"):
        assert found[name] == 0.5
    assert found["kept_penalty"] == 1.0
    assert found["negative_to_positive_ratio"] == pytest.approx(1.0)
    advantages[1, 0] = 0.0
    spared = credit_metrics([group], [advantages])
    assert (spared["mispenalized_share"], spared["own_mispenalized_share"]) == (0.5, 0.0)
    assert spared["kept_penalty"] == 0.0


def test_environments_without_the_facts_have_no_such_numbers() -> None:
    turn = Turn(action_ids=(1,), action_text="a", logprobs=(-0.5,), reward=1.0)
    trajectory = Trajectory(
        group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=(turn,)
    )
    group = Group((trajectory, trajectory))
    assert "mispenalized_share" not in credit_metrics([group], [np.zeros((2, 1))])
    assert "malformed_share" not in text_metrics([trajectory])
    assert np.isnan(rollout_metrics([trajectory])["f1_mean"])
    assert credit_metrics([], []) == {}


def test_rollout_numbers() -> None:
    found = rollout_metrics(make_group().trajectories)
    assert found["reward_mean"] == found["f1_mean"] == pytest.approx(1 / 3)
    assert (found["searches_mean"], found["turns_mean"], found["sampled_nll"]) == (1.0, 2.0, 1.0)
    assert found["format_valid_share"] == 1.0
    text = text_metrics(make_group().trajectories)
    assert text["mean_perplexity"] == pytest.approx(np.e)
    assert (text["answered_share"], text["malformed_share"]) == (1.0, 0.0)


def test_learner_numbers() -> None:
    scores = TokenScores(
        logprobs=torch.tensor([0.0, -1.0, -1.0, -1.0]),
        old_logprobs=torch.tensor([-1.0, -1.0, -1.0, -1.0]),
        advantages=torch.tensor([1.0, 1.0, -1.0, -1.0]),
        is_clipped=torch.tensor([True, False, False, False]),
        entropies=torch.tensor([1.0, 2.0, 3.0, 2.0]),
        ref_logprobs=torch.full((4,), -1.0),
    )
    result = UpdateResult(
        scores=scores,
        loss=0.5,
        grad_norm=1.0,
        num_steps=2,
        num_skipped_steps=0,
        num_tokens=9,
        mismatch={"mismatch_k1": 0.1},
        critic=CriticResult(loss=0.3, grad_norm=2.0, explained_variance=math.nan),
        loss_scale=8.0,
    )
    found = learner_metrics(result, OptimConfig(kl_estimator="k1"))
    assert (found["clip_fraction"], found["entropy"], found["ref_kl"]) == (0.25, 2.0, 0.25)
    assert (found["mismatch_k1"], found["loss_scale"], found["value_loss"]) == (0.1, 8.0, 0.3)
    assert learner_metrics(None, OptimConfig()) == {"trained_tokens": 0.0}


def test_the_alarm_reads_the_logged_names() -> None:
    good = {"reward_mean": 0.6, "high_perplexity_share": 0.0, "repeated_token_share": 0.0}
    bad = {"reward_mean": 0.1, "high_perplexity_share": 0.5, "max_perplexity": None}
    assert not alarm([good] * 10)
    assert not alarm([{"eval_f1": 0.2}, *[good] * 4])
    assert alarm([*[good] * 10, *[bad] * 5])


def test_episodes_with_bad_numbers_are_counted_where_they_are_dropped() -> None:
    collection = SimpleNamespace(stats=SimpleNamespace(num_bad_numbers=3), mix={})
    for bad_numbers, expected in (("drop", {"episodes_bad_number": 3.0}), ("raise", {})):
        config = TrainConfig(rollout=RolloutConfig(bad_numbers=bad_numbers))
        facts: Any = SimpleNamespace(config=config, collection=collection, estimate=None)
        assert selection_metrics(facts) == expected
