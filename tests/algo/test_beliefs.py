"""Belief in the accepted answers: how it is scored, and the methods that learn from it.

``tests/data/methods_2026_second.json`` names the repositories and commits that were run.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.information_gain import A2Tgpo, Igpo
from calibadv_algo.batching import TokenBatch
from calibadv_algo.credit.beliefs import (
    ANSWER_LOGPROBS,
    TAGGED_LOGPROBS,
    AnswerBelief,
    belief_of,
    information_gains,
    total_potential,
)
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.learner.answers import scores_of, with_answer_logprobs
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.turn_clipped import TurnClipped
from calibadv_algo.shaping.base import turn_rewards
from calibadv_algo.shaping.beliefs import PicaRewards, TipsRewards, search_surcharges
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.types import Group, Trajectory, Turn
from tests.algo.loss_tokens import loss_tokens
from tests.algo.scored_groups import scored_group, scored_trajectory
from tests.algo.test_advantages_baselines import make_group, no_scores
from tests.algo.test_methods_2026 import check, tensor

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "methods_2026_second.json").read_text(encoding="utf-8")
)
GAINS: list[dict[str, Any]] = RECORDED["information_gain"]


def rows_of(matrix: np.ndarray, group: Group) -> list[float]:
    return [
        float(matrix[row, column])
        for row, each in enumerate(group.trajectories)
        for column in range(len(each.turns))
    ]


def by_groups(case: dict[str, Any], name: str) -> list[list[float]]:
    """Recorded numbers of the turns, group by group."""
    remaining = iter(case["outputs"][name])
    return [[x for _ in members for x in next(remaining)] for members in case["groups"]]


@pytest.mark.parametrize("case", GAINS)
@pytest.mark.parametrize("pool", ["joint", "separate"])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_igpo_agrees_with_its_code(case: dict[str, Any], pool: Any, scale: Any) -> None:
    name = pool if scale == "group" else f"{pool}_mean"
    estimator = Igpo(pool=pool, gamma=case["gamma"], normalization=scale)
    for members, expected in zip(case["groups"], by_groups(case, name), strict=True):
        if pool == "separate" and sum(len(each["gains"]) for each in members) < 2:
            continue  # The code takes a lone gain, which compares to exactly 0, for no turn.
        group = scored_group(members)
        np.testing.assert_allclose(
            rows_of(estimator(group, no_scores(group)), group), expected, rtol=2e-4, atol=2e-4
        )


@pytest.mark.parametrize("case", GAINS)
def test_a2tgpo_agrees_with_its_code(case: dict[str, Any]) -> None:
    estimator = A2Tgpo(gamma=case["gamma"])
    for members, advantages, scales in zip(
        case["groups"], by_groups(case, "v1d"), by_groups(case, "clip_scale"), strict=True
    ):
        group = scored_group(members, is_log=True)
        np.testing.assert_allclose(
            rows_of(estimator(group, no_scores(group)), group), advantages, rtol=2e-4, atol=2e-4
        )
        np.testing.assert_allclose(
            rows_of(estimator.clip_scales(group), group), scales, rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize("case", RECORDED["turn_clip"])
def test_the_clip_of_a_turn_follows_its_scale(case: dict[str, Any]) -> None:
    turns = [(row, turn) for row, own in enumerate(case["lengths"]) for turn in range(len(own))]
    counts = torch.tensor([count for own in case["lengths"] for count in own])
    sequence, turn = torch.tensor(turns).repeat_interleave(counts, dim=0).unbind(1)
    tokens = loss_tokens(
        tensor(case["logp"]), tensor(case["old_logp"]), tensor(case["adv"]), sequence, turn
    )
    tokens = replace(tokens, clip_scale=tensor(case["scale"]))
    objective = TurnClipped(clip_low=0.1, clip_high=0.15)
    check(objective, tokens, case)
    share = objective.is_clipped(tokens).double().mean().item()
    assert share == pytest.approx(case["clipped"], abs=1e-6)


def test_some_recorded_turns_are_at_their_own_bound() -> None:
    assert 0 < np.mean([case["clipped"] for case in RECORDED["turn_clip"]]) < 1
    assert any(len(set(each["outputs"]["clip_scale"][0])) > 1 for each in GAINS)


def test_an_objective_whose_clip_cannot_be_scaled_is_refused() -> None:
    optim = replace(ATLAS_TINY.optim, objective=Gspo(), aggregation="seq-mean-token-mean")
    with pytest.raises(ValueError, match=r"objective must be one whose clip A2Tgpo can scale"):
        replace(ATLAS_TINY, advantage=A2Tgpo(), optim=optim)
    assert replace(ATLAS_TINY, advantage=A2Tgpo(clip_width=0.0), optim=optim).advantage


@pytest.mark.parametrize("case", RECORDED["tips"])
def test_tips_rewards_agree_with_its_code(case: dict[str, Any]) -> None:
    levels = case["logprobs"]
    turns = tuple(
        Turn(
            action_ids=(1,),
            action_text="",
            logprobs=(0.0,),
            reward=0.25,
            info={TAGGED_LOGPROBS: tuple(each)},
        )
        for each in levels
    )
    group = Group(
        (Trajectory(group_id="g", task_id="t", prompt_ids=(0,), prompt_text="", turns=turns),)
    )
    expected = [0.25 + 0.02 * each for each in case["delta"]] + [0.25]
    found = turn_rewards(TipsRewards()(group))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert total_potential(levels[0]) == pytest.approx(math.log(sum(map(math.exp, levels[0]))))


@pytest.mark.parametrize("case", RECORDED["pica"])
def test_pica_rewards_agree_with_its_code(case: dict[str, Any]) -> None:
    chances = [1 - each for each in case["failure"]]
    levels = [0.5, *chances]
    gains = [after - before for before, after in zip(levels, chances, strict=False)]
    one = scored_trajectory([1] * len(levels), gains, 0.8)
    turns = tuple(
        replace(turn, info={ANSWER_LOGPROBS: (-9.0, math.log(level))})
        for turn, level in zip(one.turns, levels, strict=True)
    )
    found = turn_rewards(PicaRewards()(Group((replace(one, turns=turns),))))[0]
    np.testing.assert_allclose(found, [*case["rewards"], 1.5 * 0.8], rtol=1e-6, atol=1e-9)
    assert search_surcharges(5).tolist() == pytest.approx([0, 0, 0, 0.45, 0.675])


def test_a_group_that_agrees_on_everything_has_no_igpo_advantage() -> None:
    group = Group(tuple(scored_trajectory([1, 1], [0.1], 0.1) for _ in range(3)))
    np.testing.assert_allclose(Igpo()(group, no_scores(group)), 0.0, atol=1e-6)


def test_gains_need_scored_episodes() -> None:
    group = make_group([[(0.0, 1), (1.0, 2)]])
    with pytest.raises(MissingInfoKeyError, match=r"Igpo needs 'answer_logprobs'.*golden_answers"):
        information_gains(group, "Igpo")


def test_two_forms_of_belief_are_refused() -> None:
    shaping = (PicaRewards(belief=AnswerBelief(lead="So:")),)
    with pytest.raises(ValueError, match="belief must be the same in all parts"):
        replace(ATLAS_TINY, advantage=Igpo(), shaping=shaping)


# The scoring itself.


@pytest.fixture(scope="module")
def policy() -> tuple[Policy, Any]:
    model, tokenizer = load_policy("atlas-tiny")
    return Policy(model), tokenizer


def episode(tokenizer: Any, prompt: str, parts: list[tuple[str, str]], answers: Any) -> Trajectory:
    turns = []
    for action, observation in parts:
        ids = tuple(tokenizer.encode(action, add_special_tokens=False))
        turns.append(
            Turn(
                action_ids=ids,
                action_text=action,
                logprobs=(0.0,) * len(ids),
                observation_ids=tuple(tokenizer.encode(observation, add_special_tokens=False)),
                observation_text=observation,
            )
        )
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=tuple(tokenizer.encode(prompt, add_special_tokens=False)),
        prompt_text=prompt,
        turns=tuple(turns),
        reset_info={"golden_answers": answers},
    )


def scorer(policy: Policy) -> Any:
    """Few tokens at a time, so that sequences come back from several passes."""
    return scores_of(policy, max_tokens=64)


def by_hand(policy: Policy, given: list[int], scored: list[int]) -> list[float]:
    """Log-probabilities of some tokens, from the whole model's logits."""
    ids = torch.tensor([given + scored])
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    places = range(len(given) - 1, len(given) + len(scored) - 1)
    return [float(logits[p, t]) for p, t in zip(places, scored, strict=True)]


def test_a_belief_is_the_mean_log_probability_after_the_context(
    policy: tuple[Policy, Any],
) -> None:
    model, tokenizer = policy
    parts = [
        ("<think> look</think><search> France</search>", "<information>Paris</information>"),
        ("<think> so</think><answer> Paris</answer>", ""),
    ]
    one = episode(tokenizer, "Question: capital of France?\n", parts, ("Paris", "the City"))
    (group,) = with_answer_logprobs([Group((one,))], AnswerBelief(), tokenizer, scorer(model))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    given = list(one.prompt_ids)
    for turn in group.trajectories[0].turns:
        for place, answer in enumerate(("Paris", "the City")):
            tokens = encode(f" {answer}")
            scored = [*encode("<answer>"), *tokens, *encode("</answer>")]
            values = by_hand(model, given + encode("<think></think>"), scored)
            start = len(encode("<answer>"))
            own = values[start : start + len(tokens)]
            assert turn.info[ANSWER_LOGPROBS][place] == pytest.approx(np.mean(own), abs=1e-4)
            assert turn.info[TAGGED_LOGPROBS][place] == pytest.approx(np.mean(values), abs=1e-4)
        given += [*turn.action_ids, *turn.observation_ids]


def test_equal_contexts_are_scored_once(policy: tuple[Policy, Any]) -> None:
    model, tokenizer = policy
    sizes = []

    def score(batch: TokenBatch) -> torch.Tensor:
        sizes.append(batch.num_sequences)
        return scorer(model)(batch)

    members = [
        episode(
            tokenizer,
            "Q?\n",
            [("<search> a</search>", "x"), (f"<answer> {n}</answer>", "")],
            ("a",),
        )
        for n in range(3)
    ]
    with_answer_logprobs([Group(tuple(members))], AnswerBelief(), tokenizer, score)
    assert sizes == [2]


def test_a_tag_that_the_prompt_gives_is_not_repeated(policy: tuple[Policy, Any]) -> None:
    model, tokenizer = policy
    seen = []

    def score(batch: TokenBatch) -> torch.Tensor:
        seen.append(tokenizer.decode(batch.input_ids.tolist()))
        return scorer(model)(batch)

    one = episode(tokenizer, "Q?\n<think>", [("</think><answer> a</answer>", "")], ("a",))
    with_answer_logprobs([Group((one,))], AnswerBelief(), tokenizer, score)
    assert seen[0].count("<think>") == 1


def test_the_shipped_policy_is_asked_in_its_own_words(policy: tuple[Policy, Any]) -> None:
    """A passage that holds the answer raises the belief; so it does in no other words."""
    model, tokenizer = policy
    belief = belief_of("atlas-tiny")
    assert belief_of("Qwen/Qwen3-4B") == AnswerBelief()
    facts = "<information>Doc 1(Title: Paris) Paris is the capital of France.\n</information>"
    parts = [("<think> need capital of France</think><search> France capital</search>", facts)]
    parts.append(("<think> found Paris</think><answer> Paris</answer>", ""))
    one = episode(tokenizer, "Question: What is the capital of France?\n", parts, ("Paris",))
    (group,) = with_answer_logprobs([Group((one,))], belief, tokenizer, scorer(model))
    before, after = (turn.info[ANSWER_LOGPROBS][0] for turn in group.trajectories[0].turns)
    assert after > before + 1


def test_a_task_without_answers_says_so(policy: tuple[Policy, Any]) -> None:
    model, tokenizer = policy
    one = episode(tokenizer, "Q?\n", [("<answer> a</answer>", "")], ())
    with pytest.raises(MissingInfoKeyError, match="golden_answers in the reset info"):
        with_answer_logprobs([Group((one,))], AnswerBelief(), tokenizer, scorer(model))
