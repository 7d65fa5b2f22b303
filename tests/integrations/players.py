"""Policies for the tests of the integrations, and episodes on the package's own environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv_env import get_dataset
from calibadv_env.integrations.common import DEFAULT_ENV_ID, make_env

Policy = Callable[[str], str]
"""From everything that was said so far to the next turn."""

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS: dict[str, Any] = {"split": "dev", "prompt": "question", "max_turns": 3}


@dataclass(frozen=True)
class Step:
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True)
class Played:
    """One episode on the package's own environment."""

    task_index: int
    prompt: str
    reset_info: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def actions(self) -> list[str]:
        return [step.action for step in self.steps]


def play(
    act: Policy | Sequence[str], task_index: int, env_id: str = DEFAULT_ENV_ID, **env_kwargs: Any
) -> Played:
    """Plays a policy, or given actions, to the end."""
    env = make_env(env_id, {**SETTINGS, **env_kwargs})
    prompt, reset_info = env.reset(options={"task_index": task_index})
    said, steps = prompt, []
    while True:
        action = act(said) if callable(act) else act[len(steps)]
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append(Step(action, observation, float(reward), terminated, truncated, info))
        said += action + observation
        if terminated or truncated:
            return Played(task_index, prompt, reset_info, tuple(steps))


def turn(tag: str, content: str) -> str:
    return f"<think> next </think>\n<{tag}> {content} </{tag}>"


def scripts(task_index: int, **env_kwargs: Any) -> list[list[str]]:
    """Actions of a good episode, a wrong one, a malformed one and one without an answer."""
    env = make_env(DEFAULT_ENV_ID, {**SETTINGS, **env_kwargs})
    _, info = env.reset(options={"task_index": task_index})
    searches = [turn("search", wordings[0]) for wordings in info["gold_queries"]][:3]
    return [
        [*searches, turn("answer", info["golden_answers"][0])],
        [turn("search", "Ünïcode 東京 <think>"), turn("answer", "nowhere at all")],
        [searches[0], "no tags at all"],
        [turn("search", f"query {number}") for number in range(4)],
    ]


PAGES_ID = "calibadv_env:DeepSearch-Pages-v0"
PAGES_SETTINGS: dict[str, Any] = {**SETTINGS, "max_turns": 8, "max_observation_chars": 200}


def page_script(task_index: int) -> list[str]:
    """Actions of an episode on pages: a search, an open of each gold section, a find, an answer."""
    task = get_dataset("pages").tasks("dev")[task_index]
    gold = [hop[0] for hop in task.gold_passages]
    calls = [turn("search", "Norway area"), *(turn("open", section) for section in gold)]
    return [*calls, turn("find", "total"), turn("answer", task.golden_answers[0])]


def play_pages(task_index: int) -> Played:
    """That episode on the package's own environment, where it earns everything."""
    played = play(page_script(task_index), task_index, PAGES_ID, **PAGES_SETTINGS)
    kinds = [step.info["action"] for step in played.steps]
    assert {"search", "open", "find", "answer"} == set(kinds)
    assert played.steps[-1].reward == 1.0
    return played


def scripted(text: str) -> str:
    """Searches for the names in the question, then answers with the first passage's title."""
    question = text.split("<information>")[0]
    if "</information>" not in text:
        names = re.findall(r"[A-ZÀ-Þ]\w+", question)
        return turn("search", " ".join(names[-3:]) or "capital")
    title = re.search(r"Title: ([^)]*)\)", text)
    return turn("answer", title[1] if title else "unknown")


class AtlasPolicy:
    """The shipped policy, greedy; needs torch."""

    def __init__(self, temperature: float = 0.0) -> None:
        from calibadv_algo.learner.pretrained import load_policy
        from calibadv_algo.rollout.engines.base import SamplingParams
        from calibadv_algo.rollout.engines.hf.engine import HfEngine
        from calibadv_env.info import STOP_STRINGS

        self.model, self.tokenizer = load_policy("atlas-tiny")
        self.engine = HfEngine(self.model, self.tokenizer, max_slots=1)
        self.params = SamplingParams(temperature=temperature, max_tokens=48, stop=STOP_STRINGS)
        self.calls = 0

    def generate(self, token_ids: Sequence[int]) -> Any:
        from calibadv_algo.rollout.engines.base import GenerationRequest

        self.calls += 1
        request = GenerationRequest(str(self.calls), tuple(token_ids), self.calls)
        generation = self.engine.generate([request], self.params)[0]
        self.engine.release([request.episode_id])
        return generation

    def __call__(self, text: str) -> str:
        return str(self.generate(self.tokenizer.encode(text, add_special_tokens=False)).text)


def example(page: str, heading: str) -> str:
    """The first block of Python under a heading of a page of the docs."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return section.split("```python\n", 1)[1].split("```", 1)[0]
