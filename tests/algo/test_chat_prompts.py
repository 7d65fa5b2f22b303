"""Chat templates that open the policy's thought: the tag counts as written, tokens stay exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from transformers import PreTrainedTokenizerFast

import calibadv_env  # noqa: F401
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.async_driver import AsyncPlayer
from calibadv_algo.rollout.chat import encode_prompt, parse_settings, template_opening
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.scripted import ReplayEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.types import Trajectory
from calibadv_env.info import STOP_STRINGS

TEMPLATES = Path(__file__).parent / "chat_templates"

OPENINGS: dict[tuple[str, tuple[str, ...]], str] = {
    ("qwen3", ()): "",
    ("qwen3", ("enable_thinking=true",)): "",
    ("qwen3", ("enable_thinking=false",)): "<think>\n\n</think>\n\n",
    ("qwen3_thinking", ()): "<think>\n",
    ("qwen2.5", ()): "",
    ("llama3.2", ()): "",
    ("llama3.2", ("date_string=26 Jul 2024",)): "",
    ("r1_distill", ()): "<think>\n",
}
"""What each template writes of the policy's first thought, by its settings."""

CASES = [pytest.param(*case, id=" ".join((case[0], *case[1]))) for case in OPENINGS]


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = load_policy("atlas-tiny")[1]
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer  # type: ignore[return-value]


def play(
    tokenizer: Any,
    turns: list[str],
    settings: tuple[str, ...] = (),
    kind: type[Player] = Player,
    **env: Any,
) -> Trajectory:
    player = kind(
        make_slots("calibadv_env:DeepSearch-Toy-v0", 1, env),
        ReplayEngine({"0:g": turns}, tokenizer),
        tokenizer,
        SamplingParams(max_tokens=400, stop=STOP_STRINGS),
        DriverConfig(chat_template=True, template_settings=parse_settings(settings)),
    )
    (found,) = player.play([EpisodeSpec(task_index=3, group_id="g", seed=0)]).trajectories
    return found


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return gymnasium.make("DeepSearch-Toy-v0").reset(options={"task_index": 3})[1]


def written(opening: str, info: dict[str, Any]) -> list[str]:
    """Turns of a policy that goes on from what its template wrote."""
    first = "" if "</think>" in opening else "Look.</think>"
    first = first if opening else f"<think>{first}"
    answer = info["golden_answers"][0]
    return [
        f"{first}<search>{info['question']}</search>",
        f"<think>So.</think><answer>{answer}</answer>",
    ]


@pytest.mark.parametrize(("template", "settings"), CASES)
def test_what_the_template_wrote_counts_as_written(
    template: str, settings: tuple[str, ...], info: dict[str, Any]
) -> None:
    opening, tokenizer = OPENINGS[template, settings], tokenizer_with(template)
    assert template_opening(tokenizer, parse_settings(settings)) == opening
    turns = written(opening, info)
    for kind in (Player, AsyncPlayer):
        found = play(tokenizer, turns, settings, kind)
        assert (found.reward, found.final_info["is_format_valid"]) == (1.0, True)
        assert [turn.action_text for turn in found.turns] == [opening + turns[0], turns[1]]


@pytest.mark.parametrize(("template", "settings"), CASES)
def test_tokens_are_those_of_the_template_and_of_the_sampling(
    template: str, settings: tuple[str, ...], info: dict[str, Any]
) -> None:
    """The prompt is rendered once; no turn is ever rendered or encoded again."""
    opening, tokenizer = OPENINGS[template, settings], tokenizer_with(template)
    found = play(tokenizer, written(opening, info), settings)
    message = [{"role": "user", "content": found.prompt_text}]
    given = parse_settings(settings)
    rendered = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, tokenize=False, **given
    )
    assert list(found.prompt_ids) == tokenizer.encode(rendered, add_special_tokens=False)
    assert rendered.endswith(opening)
    engine_ids = [turn.action_ids for turn in found.turns]
    texts = written(opening, info)
    assert [tokenizer.decode(list(ids)) for ids in engine_ids] == texts
    first = found.turns[0]
    observed = tokenizer.encode(first.observation_text, add_special_tokens=False)
    assert list(first.observation_ids) == observed


def test_a_thought_beside_an_empty_one_of_the_template_is_one(info: dict[str, Any]) -> None:
    tokenizer = tokenizer_with("qwen3")
    turns = written("", info)
    found = play(tokenizer, turns, ("enable_thinking=false",))
    assert found.reward == 1
    assert found.turns[0].action_text == turns[0]


def test_nothing_is_given_to_a_policy_that_writes_no_thought(info: dict[str, Any]) -> None:
    turns = written("", info)
    found = play(tokenizer_with("qwen2.5"), ["Look.</think>" + turns[0][20:], turns[1]])
    assert found.reward == 0
    doubled = play(tokenizer_with("r1_distill"), turns)  # its tag and the template's
    assert doubled.reward == 0


@pytest.mark.parametrize("template", ["qwen2.5", "r1_distill", "qwen3_thinking"])
def test_a_tag_that_the_environment_gives_is_the_policys_too(
    template: str, info: dict[str, Any]
) -> None:
    tokenizer = tokenizer_with(template)
    turns = [text.removeprefix("<think>") for text in written("", info)]
    found = play(tokenizer, turns, prepend_think=True)
    assert found.reward == 1
    text = tokenizer.decode(list(found.prompt_ids))
    assert text.rstrip().endswith("<think>")
    assert text.count("<think>") == found.prompt_text.count("<think>")


def test_a_setting_that_the_template_does_not_read_is_refused() -> None:
    tokenizer = tokenizer_with("qwen3")
    with pytest.raises(ValueError, match=r"got 'enable_thinkin'.* reads: .*enable_thinking"):
        encode_prompt(tokenizer, "x", True, {"enable_thinkin": False})
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="needs a tokenizer with a chat template"):
        encode_prompt(tokenizer, "x", True)


def test_settings_are_words() -> None:
    words = ("enable_thinking=false", "a=True", "n=3", "text=26 Jul 2024", 's="3"')
    assert parse_settings(words) == {
        "enable_thinking": False,
        "a": True,
        "n": 3,
        "text": "26 Jul 2024",
        "s": "3",
    }
    for bad in ("enable_thinking", "=3", "a b=3"):
        with pytest.raises(ValueError, match="must be words NAME=VALUE"):
            parse_settings((bad,))
