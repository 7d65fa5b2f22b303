"""HCAPO and TRIAGE: by hand, by a slow loop from the papers' equations, in the trainer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.hcapo import Hcapo, hindsight_returns
from calibadv_algo.advantages.triage import Triage
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.credit.hindsight import HINDSIGHT_LOGPROB, Hindsight
from calibadv_algo.credit.judges import JudgeError, transcript
from calibadv_algo.credit.roles import (
    CORRECTNESS,
    Role,
    RoleCredit,
    RoleJudge,
    ScriptedRoles,
    read_roles,
)
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.learner.answers import scores_of, with_hindsight
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.types import Group, Trajectory
from tests.algo import letters
from tests.algo.test_advantages_baselines import make_group, no_scores


def with_facts(group: Group, facts: list[list[dict[str, Any]]]) -> Group:
    return Group(
        tuple(
            replace(
                each,
                turns=tuple(
                    replace(turn, info={**turn.info, **fact})
                    for turn, fact in zip(each.turns, own, strict=True)
                ),
            )
            for each, own in zip(group.trajectories, facts, strict=True)
        )
    )


def in_hindsight(rows: list[list[float]], rewards: list[float]) -> Group:
    """Episodes with these log-probabilities in hindsight, whose last turns earn the rewards."""
    plain = make_group(
        [
            [*[(0.0, 1)] * (len(row) - 1), (reward, 1)]
            for row, reward in zip(rows, rewards, strict=True)
        ]
    )
    return with_facts(plain, [[{HINDSIGHT_LOGPROB: value} for value in row] for row in rows])


def slow_hcapo(
    rows: list[list[float]], rewards: list[float], own_weight: float
) -> list[list[float]]:
    """Equations 3 to 8 one after the other."""
    values: list[list[float]] = []
    for row, reward in zip(rows, rewards, strict=True):
        likelihoods = [math.exp(value / 5.0) for value in row]
        mean = sum(likelihoods) / len(likelihoods)
        own = [
            min(max(h / mean, 0.8), 1.2) * 0.95 ** (len(row) - 1 - place) * reward
            for place, h in enumerate(likelihoods)
        ]
        later = [*own[1:], own[-1]]
        values.append(
            [own_weight * q + (1 - own_weight) * n for q, n in zip(own, later, strict=True)]
        )
    pool = [q for row in values for q in row]
    mean = sum(pool) / len(pool)
    std = math.sqrt(sum((q - mean) ** 2 for q in pool) / len(pool))
    centre = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((r - centre) ** 2 for r in rewards) / (len(rewards) - 1))
    result = []
    for own, reward in zip(values, rewards, strict=True):
        micro = [(q - mean) / (std + 1e-6) for q in own]
        if reward > 0.5:
            micro = [max(each, 0.0) for each in micro]
        macro = (reward - centre) / (spread + 1e-6) if spread else 0.0
        result.append([macro + each for each in micro])
    return result


@pytest.mark.parametrize("own_weight", [1.0, 0.5])
def test_hcapo_is_what_its_equations_say(own_weight: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = [list(-rng.exponential(3.0, size=int(rng.integers(1, 5)))) for _ in range(5)]
        rewards = [float(value) for value in rng.choice([0.0, 0.4, 1.0], size=5)]
        group = in_hindsight(rows, rewards)
        found = Hcapo(own_weight=own_weight)(group, no_scores(group))
        for row, expected in enumerate(slow_hcapo(rows, rewards, own_weight)):
            np.testing.assert_allclose(found[row, : len(expected)], expected, atol=1e-9)
            assert not found[row, len(expected) :].any()


def test_a_likely_turn_weighs_at_most_a_fifth_more() -> None:
    logprobs = np.array([[0.0, -50.0], [-2.0, np.nan]])
    returns = np.array([[1.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(hindsight_returns(logprobs, returns), [[1.2, 0.8], [1.0, 0.0]])
    smooth = hindsight_returns(logprobs, returns, own_weight=0.5)
    np.testing.assert_allclose(smooth, [[1.0, 0.8], [1.0, 0.0]])
    # Turns that are all impossible are equally so.
    none = hindsight_returns(np.array([[-1e9, -1e9]]), np.ones((1, 2)))
    np.testing.assert_allclose(none, [[1.0, 1.0]])
    with pytest.raises(ValueError, match="floor must not be above cap"):
        Hcapo(floor=1.3)


def test_episodes_that_nobody_scored_are_named() -> None:
    group = make_group([[(1.0, 1)], [(0.0, 1)]])
    with pytest.raises(MissingInfoKeyError, match="Hcapo needs 'hindsight_logprob'"):
        Hcapo()(group, no_scores(group))


def test_turns_are_scored_behind_the_outcome() -> None:
    model, tokenizer = load_policy("atlas-tiny")
    (one,) = make_group([[(0.0, 2), (1.0, 3)]]).trajectories
    prompt = tuple(tokenizer.encode("Question: who?\n", add_special_tokens=False))
    turns = (one.turns[0], replace(one.turns[1], info={"answer": "Oslo"}))
    played = replace(one, prompt_ids=prompt, turns=turns)
    words = Hindsight()
    assert words.text(played) == "\n(In the end the answer given is: Oslo)\n"
    assert "none" in words.text(one)
    (group,) = with_hindsight([Group((played,))], words, tokenizer, scores_of(Policy(model)))
    hint = tokenizer.encode(words.text(played), add_special_tokens=False)
    ids = [*prompt, *hint, *turns[0].action_ids, *turns[0].observation_ids, *turns[1].action_ids]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        logprobs = logits.float().log_softmax(-1)
    start = len(prompt) + len(hint)
    for turn in group.trajectories[0].turns:
        places = range(start, start + len(turn.action_ids))
        expected = np.mean([float(logprobs[place - 1, ids[place]]) for place in places])
        assert turn.info[HINDSIGHT_LOGPROB] == pytest.approx(expected, abs=1e-4)
        start += len(turn.action_ids) + len(turn.observation_ids)
    assert with_hindsight([], words, tokenizer, scores_of(Policy(model))) == []


def test_the_trainer_scores_turns_in_hindsight(tmp_path: Path) -> None:
    config = letters.make_config(tmp_path, optim=letters.OptimConfig(num_updates=2, lr=1e-2))
    letters.make_trainer(replace(config, advantage=Hcapo())).train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("grad_norm", 0) > 0 for row in rows)


# TRIAGE


def searches(*facts: tuple[str, tuple[str, ...], int]) -> Trajectory:
    """An episode of searches with query, new gold passages and number of new passages."""
    group = make_group([[(0.0, 1)] * len(facts) + [(1.0, 1)]])
    infos: list[dict[str, Any]] = [
        {"action": "search", "query": query, "gold_new": gold, "num_passages_new": new}
        for query, gold, new in facts
    ]
    last = {"action": "answer", "query": None, "gold_new": (), "num_passages_new": 0}
    return with_facts(group, [[*infos, last]]).trajectories[0]


def test_roles_are_read_off_facts() -> None:
    played = searches(("a", ("g",), 3), ("b", (), 2), ("c", (), 0), (" A ", (), 0))
    roles = ["progress", "exploration", "no-progress", "regression"]
    assert ScriptedRoles().roles([played])[0][:4] == roles
    found = RoleCredit()(Group((played,)))
    np.testing.assert_array_equal(found, [[1.0, 0.5, 0.25, SCORED_BAD, np.nan]])


def test_roles_are_read_from_a_reply() -> None:
    reply = "Turn 1: progress\n**Turn 2**: No progress\nTurn 9: regression\nturn 1: exploration"
    assert read_roles(reply, 3) == ["exploration", "no-progress", None]


def test_a_judge_of_roles_does_not_see_the_answers() -> None:
    played = searches(("a", (), 1))
    told = replace(played, reset_info={"question": "Who?", "golden_answers": ("Oslo",)})
    assert "Oslo" in transcript(told)
    assert "Oslo" not in transcript(told, has_answers=False)


class Fool(RoleJudge):
    def roles(self, trajectories: Any) -> list[list[Role | None]]:
        return [["genius"] * len(each.turns) for each in trajectories]  # type: ignore[list-item]


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(JudgeError, match="got 'genius' at turn 1"):
        RoleCredit(judge=Fool())(Group((searches(("a", (), 1)),)))


def test_triage_adds_the_rewards_of_the_roles_and_whitens() -> None:
    group = make_group([[(0.0, 1), (0.0, 1), (1.0, 1)], [(0.0, 1), (0.0, 1), (0.0, 1)]])
    roles = [["progress", "regression"], ["exploration", "no-progress"]]
    correctness = np.full((2, 3), np.nan)
    correctness[:, :2] = [[CORRECTNESS[role] for role in row] for row in roles]  # type: ignore[index]
    base = Grpo()(group, no_scores(group))
    expected = base.copy()
    expected[:, :2] += 0.5 * np.array([[1.0, -0.5], [0.5, -0.1]])
    estimator = Triage()
    found = estimator(group, correctness)
    np.testing.assert_allclose(found, expected)
    counts = [np.ones((2, 3))]
    (white,) = estimator.finish([found], counts)
    np.testing.assert_allclose(white, (found - found.mean()) / found.std(), atol=1e-7)
    assert Triage(whitens=False).finish([found], counts)[0] is found
    (nothing,) = estimator.finish([np.ones((2, 3))], counts)
    assert not nothing.any()
