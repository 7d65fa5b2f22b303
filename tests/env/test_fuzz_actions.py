"""Anything at all as an action: no exception, no hang, and no pay that was not earned.

A few hundred actions a form here; ``FUZZ_EXAMPLES=1000`` plays more (docs/reliability.md).
"""

from __future__ import annotations

import json
import os
import re
import string
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import calibadv_env  # noqa: F401
from calibadv_env.protocol.toolcalls import TOOL_PROMPT
from calibadv_env.wrappers import ToolCalls

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
ID = "calibadv_env:DeepSearch-Toy-v1"
GOLD = "@GOLD@"
"""Stands for an accepted answer, which the example does not know yet."""

PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>",
        "</information>", "<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>",
        "<|end_of_documents|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<", ">", "</",
        '{"name": "search", "arguments": {"query": "',
        '{"name": "answer", "arguments": {"answer": "',
        '"}}', "{", "}", '"', "\\", " ", "\n", "\0", "\u2028", "\ud800", "\u202e", "é", "🙂", "中",
        "a" * 5000, "the", "?", "not ", GOLD, GOLD, f"{GOLD} or Oslo",
    ]
)  # fmt: skip
SOUND = st.sampled_from(
    [
        "<think>t</think><search>river</search>",
        f"<think>t</think><answer>{GOLD}</answer>",
        "<think>t</think><answer>Oslo</answer>",
        f"<think>t</think><answer>{'Oslo or ' * 9}{GOLD}</answer>",
        f"<think>t</think><answer>x{GOLD}x</answer>",
        f"<think>t</think> <answer> {GOLD.lower()}. </answer>",
        "t <|begin_of_query|> river <|end_of_query|>",
        f"t</think><answer>{GOLD}</answer>",
        '<tool_call>{"name": "search", "arguments": {"query": "river"}}</tool_call>',
        f'<tool_call>{{"name": "answer", "arguments": {{"answer": "{GOLD}"}}}}</tool_call>',
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=9).map("".join) | SOUND
JSONS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([GOLD, "x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "function", "arguments", "query", "answer", "content", "tool_calls", "role",
         "reasoning_content", "type", "text", "id"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
CALLS = st.builds(
    lambda name, key, value, content: {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"function": {"name": name, "arguments": json.dumps({key: value})}}],
    },
    st.sampled_from(["search", "answer", "open"]),
    st.sampled_from(["query", "answer"]),
    st.sampled_from([GOLD, "Oslo", "", f"{GOLD}</answer>", 3, None]),
    TEXTS,
)
MESSAGES = JSONS.filter(lambda value: isinstance(value, dict)) | CALLS
EPISODES = st.lists(TEXTS, min_size=1, max_size=6)
CASES = [
    pytest.param(
        {"reward": reward, "format_gate": gate, "invalid_action": invalid, **more}, id=name
    )
    for name, reward, gate, invalid, more in (
        ("em", "em", True, "end", {}),
        ("open em", "em", False, "continue", {}),
        ("cover", "cover_em", False, "continue", {}),
        ("f1", "f1", True, "continue", {"max_turns": 2}),
        ("given think", "em", True, "continue", {"prepend_think": True}),
        ("markers", "em", True, "continue", {"prompt": "r1_searcher"}),
        ("open markers", "f1", False, "end", {"prompt": "r1_searcher"}),
    )
]
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def words_of(text: str) -> list[str]:
    """SQuAD's normalisation, written down once more."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def earned(answer: str, golds: Sequence[str], reward: str) -> float:
    """The most that an answer can earn, by a plain second reading of the rules."""
    best = 0.0
    said = words_of(answer)
    for gold in golds:
        wanted = words_of(gold)
        if reward == "em":
            score = float(said == wanted)
        elif reward == "cover_em":
            spans = range(len(said) - len(wanted) + 1)
            is_there = any(said[i : i + len(wanted)] == wanted for i in spans)
            score = float(is_there and len(said) <= len(wanted) + 10)
        else:
            common = sum((Counter(said) & Counter(wanted)).values())
            score = 2 * common / (len(said) + len(wanted)) if common else 0.0
        best = max(best, score)
    return best


def judge(actions: Sequence[str], golds: Sequence[str], rules: dict[str, Any]) -> float:
    """Most that an episode of these actions may be paid.

    Read from the last action alone: whatever stands between an ``<answer>`` and the first
    ``</answer>`` behind it; and with the gate only if each action has exactly its own tags.
    """
    last = actions[-1]
    end = last.find("</answer>")
    starts = [m.start() + len("<answer>") for m in re.finditer("<answer>", last[: max(end, 0)])]
    if not starts:
        return 0.0
    most = max(earned(last[start:end], golds, rules["reward"]) for start in starts)
    if not rules["format_gate"]:
        return most
    is_marked = rules.get("prompt") == "r1_searcher"
    opens = "" if rules.get("prepend_think") or is_marked else "<think>"
    for place, action in enumerate(actions):
        tags = re.findall(r"</?(?:think|search|information|answer)>", action)
        kinds = ["answer"] if place == len(actions) - 1 else ["search"]
        expected = [*([opens] if opens else []), "</think>"]
        sound = [[*expected, f"<{kind}>", f"</{kind}>"] for kind in kinds]
        if is_marked:
            sound = [["</think>", "<answer>", "</answer>"] if kinds == ["answer"] else []]
        if tags not in sound:
            return 0.0
    return most


def timed(step: Any, action: Any) -> Any:
    began = time.process_time()
    result = step(action)
    assert time.process_time() - began < 2, "an action took seconds"
    return result


def play_single(env: Any, task: int, actions: Sequence[Any], rules: dict[str, Any]) -> None:
    _, info = env.reset(options={"task_index": task})
    golds = info["golden_answers"]
    done: list[Any] = []
    for action in actions:
        done.append(filled(action, golds[0]))
        _, reward, terminated, truncated, facts = timed(env.step, done[-1])
        assert 0 <= reward <= 1
        assert not (terminated and truncated)
        assert (facts["stop_reason"] is not None) == (terminated or truncated)
        if not (terminated or truncated):
            assert reward == 0
            continue
        if all(isinstance(each, str) for each in done) and "<tool_call>" not in "".join(done):
            assert reward <= judge(done, golds, rules) + 1e-9
        else:
            assert reward <= earned(facts["answer"] or "", golds, rules["reward"]) + 1e-9
            if reward > 0:
                assert golds[0].lower().split()[0] in repr(done[-1]).lower()
        break


def filled(action: Any, gold: str) -> Any:
    """An action with a right answer in the places that were kept for it."""
    if isinstance(action, str):
        return action.replace(GOLD, gold).replace(GOLD.lower(), gold.lower())
    if isinstance(action, list):
        return [filled(each, gold) for each in action]
    if isinstance(action, dict):
        return {key: filled(value, gold) for key, value in action.items()}
    return action


@pytest.mark.parametrize("rules", CASES)
@fuzz
@given(st.integers(0, 20), EPISODES)
def test_single(rules: dict[str, Any], task: int, actions: list[str]) -> None:
    play_single(made(ID, **rules), task, actions, rules)


@pytest.mark.parametrize("gate", [True, False])
@fuzz
@given(st.integers(0, 20), st.lists(TEXTS | MESSAGES, min_size=1, max_size=6))
def test_tool_calls(gate: bool, task: int, actions: list[Any]) -> None:
    rules = {"reward": "em", "format_gate": gate, "invalid_action": "continue"}
    env = made(ID, wraps=True, prompt=TOOL_PROMPT, **rules)
    play_single(env, task, actions, rules)


@pytest.mark.parametrize("rules", CASES)
@fuzz
@given(st.integers(0, 20), st.lists(st.lists(TEXTS, min_size=3, max_size=3), max_size=4))
def test_vector_slots_play_what_single_environments_play(
    rules: dict[str, Any], task: int, rows: list[list[str]]
) -> None:
    vector, single = made_vector(**rules), made(ID, **rules)
    _, infos = vector.reset(seed=0, options={"task_index": [task, task + 1, task]})
    golds = [found[0] for found in infos["golden_answers"]]
    played: list[list[str]] = [[], [], []]
    paid = np.zeros(3)
    is_over = np.zeros(3, dtype=bool)
    for row in rows:
        actions = [filled(text, gold) for text, gold in zip(row, golds, strict=True)]
        for slot in np.flatnonzero(~is_over):
            played[slot].append(actions[slot])
        _, rewards, terminated, truncated, infos = timed(vector.step, actions)
        assert not (is_over & (terminated | truncated)).any()
        assert (infos["is_idle"] == is_over).all()
        is_over |= terminated | truncated
        paid += rewards
    for slot, actions in enumerate(played):
        single.reset(options={"task_index": task + (slot == 1)})
        total = sum(float(single.step(action)[1]) for action in actions)
        assert total == paid[slot]


_MADE: dict[str, Any] = {}


def made(env_id: str, *, wraps: bool = False, **rules: Any) -> Any:
    key = repr((env_id, wraps, rules))
    if key not in _MADE:
        env = gymnasium.make(env_id, disable_env_checker=True, **rules)
        _MADE[key] = ToolCalls(env) if wraps else env
    return _MADE[key]


def made_vector(**rules: Any) -> Any:
    key = repr(("vector", rules))
    if key not in _MADE:
        mode = "vector_entry_point"
        _MADE[key] = gymnasium.make_vec(ID, num_envs=3, vectorization_mode=mode, **rules)
    return _MADE[key]
