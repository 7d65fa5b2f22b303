"""Observations as messages: thoughts of earlier turns kept or stripped, with exact tokens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from calibadv_algo.advantages.hcapo import Hcapo
from calibadv_algo.batching import TokenBatch, build_token_batch, select_sequences
from calibadv_algo.cli.main import main
from calibadv_algo.integrations.completions import completion_of
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.prefixes import plant
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.conversation import (
    EarlierThoughts,
    Observations,
    strips_thoughts,
    thoughts_notice,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.scripted import ReplayEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec
from calibadv_algo.rollout.records import trajectory_from_json, trajectory_to_json
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.config import RolloutConfig, TrainConfig
from calibadv_algo.types import Trajectory, Turn, context_of, segments
from calibadv_env.info import STOP_STRINGS

TEMPLATES = Path(__file__).parent / "chat_templates"

OPENINGS: dict[tuple[str, tuple[str, ...]], str] = {
    ("qwen3", ()): "",
    ("qwen3", ("enable_thinking=false",)): "<think>\n\n</think>\n\n",
    ("qwen3_thinking", ()): "<think>\n",
    ("qwen2.5", ()): "",
    ("llama3.2", ()): "",
    ("r1_distill", ()): "<think>\n",
}
"""What each template opens the policy's messages with, by its settings."""

STRIP = {"qwen3", "qwen3_thinking", "r1_distill"}
"""Templates that leave out the thoughts of messages before the last question."""

CASES = [pytest.param(*case, id=" ".join((case[0], *case[1]))) for case in OPENINGS]


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = load_policy("atlas-tiny")[1]
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer  # type: ignore[return-value]


def play(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[str],
    settings: tuple[str, ...] = (),
    *,
    observations: Observations = "user",
    thoughts: EarlierThoughts = "template",
    kind: type[Player] = Player,
    **env: Any,
) -> Trajectory:
    player = kind(
        make_slots("calibadv_env:DeepSearch-Toy-v1", 1, env),
        ReplayEngine({"0:g": list(turns)}, tokenizer),
        tokenizer,
        SamplingParams(max_tokens=400, stop=STOP_STRINGS),
        DriverConfig(
            chat_template=True,
            template_settings=parse_settings(settings),
            observations=observations,
            earlier_thoughts=thoughts,
        ),
    )
    (found,) = player.play([EpisodeSpec(task_index=3, group_id="g", seed=0)]).trajectories
    return found


def written(opening: str) -> list[str]:
    """Turns of a policy that goes on from what its template opens every message with."""
    info = gymnasium.make("calibadv_env:DeepSearch-Toy-v1").reset(options={"task_index": 3})[1]
    starts = ["" if "</think>" in opening else f"Thought {i}.</think>" for i in range(3)]
    if not opening:
        starts = [f"<think>{each}" for each in starts]
    actions = [f"<search>{info['question']}</search>", "<search>Rabat</search>"]
    actions.append(f"<answer>{info['golden_answers'][0]}</answer>")
    return [start + action for start, action in zip(starts, actions, strict=True)]


def conversation(found: Trajectory, place: int, *, role: str = "user") -> list[dict[str, str]]:
    """The messages before a turn, as somebody would give them to an inference server."""
    messages = [{"role": "user", "content": found.prompt_text}]
    for turn in found.turns[:place]:
        messages.append({"role": "assistant", "content": turn.action_text})
        messages.append({"role": role, "content": turn.observation_text.strip()})
    return messages


@pytest.mark.parametrize(("template", "settings"), CASES)
def test_contexts_are_those_that_the_template_renders(
    template: str, settings: tuple[str, ...]
) -> None:
    tokenizer, opening = tokenizer_with(template), OPENINGS[template, settings]
    turns = written(opening)
    found = play(tokenizer, turns, settings)
    assert (found.reward, len(found.turns)) == (1.0, 3)
    assert [turn.action_text for turn in found.turns] == [opening + each for each in turns]
    assert [tokenizer.decode(list(turn.action_ids)) for turn in found.turns] == turns
    for place in range(3):
        context = context_of(found, place)
        messages, given = conversation(found, place), parse_settings(settings)
        rendered = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **given
        )
        assert tokenizer.decode(list(context)) == rendered
        if template in STRIP:
            wanted = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False, **given
            )
            assert list(context) == wanted
            assert "Thought" not in rendered
        else:
            assert rendered.count("Thought") == place
    assert len(segments(found)) == (3 if template in STRIP else 1)


def test_where_thoughts_stay_no_sampled_token_is_encoded_again() -> None:
    """Tokens that the tokenizer would not choose itself stay, letter by letter as sampled."""
    tokenizer = tokenizer_with("qwen2.5")
    text = written("")
    player = Player(
        make_slots("calibadv_env:DeepSearch-Toy-v1", 1, {}),
        ReplayEngine({"0:g": text}, tokenizer),
        tokenizer,
        SamplingParams(max_tokens=400, stop=STOP_STRINGS),
        DriverConfig(chat_template=True, observations="user", earlier_thoughts="template"),
    )
    original = player.engine.generate

    def letters(requests: Any, params: Any) -> Any:
        done = original(requests, params)
        ids = [
            [i for letter in each.text for i in tokenizer.encode(letter, add_special_tokens=False)]
            for each in done
        ]
        return [
            replace(each, token_ids=tuple(own), logprobs=(0.0,) * len(own))
            for each, own in zip(done, ids, strict=True)
        ]

    player.engine.generate = letters  # type: ignore[method-assign]
    (found,) = player.play([EpisodeSpec(task_index=3, group_id="g", seed=0)]).trajectories
    before = context_of(found, 0) + found.turns[0].action_ids
    assert len(found.turns[0].action_ids) == len(text[0])
    assert context_of(found, 1)[: len(before)] == before
    assert len(segments(found)) == 1


@pytest.mark.parametrize("template", ["qwen2.5", "llama3.2"])
def test_thoughts_can_go_where_the_template_would_keep_them(template: str) -> None:
    tokenizer = tokenizer_with(template)
    found = play(tokenizer, written(""), thoughts="strip")
    assert len(segments(found)) == 3
    text = tokenizer.decode(list(context_of(found, 2)))
    assert "Thought" not in text
    assert text.count("<search>") == found.prompt_text.count("<search>") + 2


@pytest.mark.parametrize("template", ["qwen3", "r1_distill"])
def test_thoughts_can_stay_where_the_template_would_strip_them(template: str) -> None:
    tokenizer = tokenizer_with(template)
    found = play(tokenizer, written(OPENINGS[template, ()]), thoughts="keep")
    assert found.reward == 1
    assert len(segments(found)) == 1
    for place in (1, 2):
        last = found.turns[place - 1]
        before = context_of(found, place - 1) + last.action_ids
        assert context_of(found, place) == before + last.observation_ids
        text = tokenizer.decode(list(last.observation_ids))
        assert last.observation_text.strip() in text
        assert text.endswith(OPENINGS[template, ()] or "<|im_start|>assistant\n")


def test_a_tools_message_is_no_question() -> None:
    """Qwen3 keeps the thoughts of a turn that goes on with a tool's answer."""
    tokenizer = tokenizer_with("qwen3")
    turns = [each.replace("</think>", "\n</think>\n\n") for each in written("")]
    turns = [each.replace("<think>", "<think>\n") for each in turns]
    found = play(tokenizer, turns, observations="tool")
    assert len(segments(found)) == 1
    messages = conversation(found, 2, role="tool")
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(list(context_of(found, 2))) == rendered
    assert rendered.count("Thought") == 2
    # Written without the template's line ends, the same thoughts are rendered with them.
    other = play(tokenizer, written(""), observations="tool")
    assert len(segments(other)) == 3
    assert tokenizer.decode(list(context_of(other, 2))) == rendered


def test_a_tag_that_the_environment_gives_stands_once() -> None:
    for template in ("qwen2.5", "r1_distill"):
        tokenizer = tokenizer_with(template)
        turns = [each.removeprefix("<think>") for each in written("")]
        found = play(tokenizer, turns, prepend_think=True)
        assert found.reward == 1
        for place in range(3):
            text = tokenizer.decode(list(context_of(found, place)))
            assert text.rstrip().endswith("<think>")
            assert not text.rstrip().removesuffix("<think>").rstrip().endswith("<think>")


def test_a_message_that_the_policy_closed_is_closed_once() -> None:
    tokenizer = tokenizer_with("qwen2.5")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|im_start|>"]})
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = written("")
    found = play(tokenizer, [turns[0] + "<|im_end|>", *turns[1:]], thoughts="keep")
    closing = [end, *tokenizer.encode("\n", add_special_tokens=False)]
    for place in (0, 1):
        context = list(context_of(found, place + 1))
        assert str(closing + closing[:1])[1:-1] not in str(context)
        assert context.count(end) == 2 * place + 4


@pytest.mark.parametrize("kind", [Player, AsyncPlayer])
def test_records_and_drivers_keep_the_contexts(kind: type[Player]) -> None:
    found = play(tokenizer_with("qwen3"), written(""), kind=kind)
    assert found == play(tokenizer_with("qwen3"), written(""))
    line = trajectory_to_json(found)
    assert trajectory_from_json(line) == found
    assert [sorted({"context_ids"} & set(each)) for each in json.loads(line)["turns"]] == [
        [], ["context_ids"], ["context_ids"]
    ]  # fmt: skip


def test_roles_that_a_template_does_not_write_are_refused() -> None:
    with pytest.raises(ValueError, match="does not write messages of role tool as they stand"):
        play(tokenizer_with("r1_distill"), written("<think>\n"), observations="tool")


# Training


def test_roles_that_a_template_escapes_are_refused_before_anything_is_sampled() -> None:
    tokenizer = tokenizer_with("qwen2.5")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}<assistant>"
    )
    assert thoughts_notice(tokenizer, {}, "user", "template") is None
    for thoughts in ("keep", "template"):
        with pytest.raises(ValueError, match="escapes them or leaves them out"):
            thoughts_notice(tokenizer, {}, "tool", thoughts)


def batch_of(template: str, **settings: Any) -> tuple[Trajectory, TokenBatch]:
    opening = OPENINGS[template, ()]
    found = play(tokenizer_with(template), written(opening), **settings)
    return found, build_token_batch([found, found], [[1.0, 2.0, 3.0], [0.0, 0.5, -1.0]])


def rows_of(batch: TokenBatch) -> list[tuple[list[int], list[bool]]]:
    bounds = batch.row_starts.tolist()
    return [
        (batch.input_ids[a:b].tolist(), batch.action_mask[a:b].tolist())
        for a, b in pairwise(bounds)
    ]


def test_every_sampled_token_is_trained_once_behind_its_own_context() -> None:
    found, batch = batch_of("qwen3")
    assert batch.num_sequences == 2
    rows = rows_of(batch)
    assert len(rows) == 6
    for place, (ids, mask) in enumerate(rows):
        turn = found.turns[place % 3]
        assert tuple(ids) == context_of(found, place % 3) + turn.action_ids
        observed = len(ids) - len(turn.action_ids)
        assert mask == [False] * observed + [True] * len(turn.action_ids)
    assert batch.num_action_tokens == 2 * found.num_action_tokens
    counts = [len(turn.action_ids) for turn in found.turns]
    wanted = np.repeat([1.0, 2.0, 3.0, 0.0, 0.5, -1.0], counts * 2)
    assert batch.advantages.tolist() == wanted.tolist()
    assert batch.sequence.tolist() == np.repeat([0, 1], sum(counts)).tolist()
    second = select_sequences(batch, [1])
    assert rows_of(second) == rows[3:]
    assert plant(batch).node_of.shape == batch.input_ids.shape


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("has_prefixes", [True, False])
def test_the_model_reads_each_segment_by_itself(is_packed: bool, has_prefixes: bool) -> None:
    found, batch = batch_of("r1_distill")
    model = load_policy("atlas-tiny")[0]
    policy = Policy(model)
    policy.is_packed = is_packed
    if has_prefixes and not is_packed:
        pytest.skip("prefixes are shared in packed rows alone")
    policy._shares_prefixes = has_prefixes
    logprobs, _ = policy.logprobs(batch)
    wanted = []
    for place, turn in enumerate(found.turns):
        ids = torch.tensor([[*context_of(found, place), *turn.action_ids]])
        logits = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        own = logits.gather(1, ids[0, 1:, None])[:, 0]
        wanted.append(own[-len(turn.action_ids) :])
    expected = torch.cat(wanted * 2)
    assert torch.allclose(logprobs, expected, atol=2e-5)
    gradient = torch.autograd.grad(logprobs.sum(), next(model.parameters()))[0]
    assert torch.allclose(
        gradient, torch.autograd.grad(expected.sum(), next(model.parameters()))[0], atol=1e-3
    )


# Settings and commands


def test_settings_that_do_not_go_together_are_refused() -> None:
    user = RolloutConfig(observations="user")
    with pytest.raises(ValueError, match="needs the chat template"):
        TrainConfig(rollout=user)
    TrainConfig(rollout=user, prompt_style="chat")
    with pytest.raises(ValueError, match="earlier_thoughts=strip needs observations"):
        TrainConfig(rollout=RolloutConfig(earlier_thoughts="strip"), prompt_style="chat")
    with pytest.raises(ValueError, match="needs the chat template"):
        DriverConfig(observations="tool")
    with pytest.raises(ValueError, match=r"earlier_thoughts must be keep for the advantage Hcapo"):
        TrainConfig(
            advantage=Hcapo(),
            rollout=RolloutConfig(observations="user", earlier_thoughts="template"),
            prompt_style="chat",
        )


def test_a_row_of_a_trainer_cannot_hold_segments() -> None:
    first = Turn(action_ids=(1, 2), action_text="a", logprobs=(0.0, 0.0), observation_ids=(3,))
    second = Turn(action_ids=(5,), action_text="b", logprobs=(0.0,), context_ids=(10, 11, 12))
    played = Trajectory(
        group_id="g", task_id="t", prompt_ids=(10, 11), prompt_text="p", turns=(first, second)
    )
    with pytest.raises(ValueError, match="earlier_thoughts must be keep"):
        completion_of(played)
    assert completion_of(replace(played, turns=(first,))).ids == [1, 2]


@pytest.mark.parametrize(("template", "settings"), CASES)
def test_a_difference_from_the_template_is_said(template: str, settings: tuple[str, ...]) -> None:
    tokenizer, given = tokenizer_with(template), parse_settings(settings)
    assert strips_thoughts(tokenizer, given) is (template in STRIP)
    said = thoughts_notice(tokenizer, given, "continue", "keep")
    assert (said is not None) is (template in STRIP)
    assert said is None or "earlier_thoughts=template" in said
    assert thoughts_notice(tokenizer, given, "user", "template") is None


def save_policy(folder: Path, template: str) -> None:
    model, _ = load_policy("atlas-tiny")
    model.save_pretrained(folder)
    tokenizer_with(template).save_pretrained(folder)


def test_a_run_trains_on_the_contexts_that_it_sampled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_policy(tmp_path / "policy", "qwen3")
    small = shlex.split(
        "--quiet --rollout.num-questions 2 --rollout.group-size 3 --rollout.max-tokens 24 "
        "--optim.num-updates 2 --evaluation.episodes 2 --evaluation.every 2 --env.dataset toy "
        "--env.max-turns 2 --env.invalid-action continue --env.no-format-gate "
        "--optim.old-logprobs recomputed --optim.entropy-coef 0.1 --prompt-style chat "
        "--rollout.max-context 1024"
    )
    flags = ["train", "--model", "policy", *small]
    assert main([*flags, "--output-dir", "kept"]) == 0
    assert "leaves out the thoughts of earlier messages" in capfd.readouterr().err
    as_template = ["--rollout.observations", "user", "--rollout.earlier-thoughts", "template"]
    assert main([*flags, *as_template, "--output-dir", "run"]) == 0
    assert "leaves out the thoughts" not in capfd.readouterr().err
    files = sorted((tmp_path / "run").rglob("trajectories/*.jsonl"))
    found = [
        trajectory_from_json(line)
        for file in files
        for line in file.read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert len(found) == 12
    assert max(len(segments(each)) for each in found) > 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().split("\n")
    updates = [json.loads(line) for line in lines if "mismatch_max_abs" in line]
    assert len(updates) == 2
    assert max(each["mismatch_max_abs"] for each in updates) < 1e-4
    # The contexts are what the first policy sampled from: it gives the same log-probabilities.
    policy = Policy(load_policy(str(tmp_path / "policy"))[0])
    first = [each for each in found if each.policy_version == 0]
    batch = build_token_batch(first)
    with torch.no_grad():
        again, _ = policy.logprobs(batch)
    assert torch.allclose(again, batch.sampling_logprobs, atol=1e-4)
    evaluation = ["eval", "run", "--episodes", "2", "--env.dataset", "toy", "--chat-template"]
    assert main([*evaluation, "--observations", "user", "--earlier-thoughts", "strip"]) == 0
