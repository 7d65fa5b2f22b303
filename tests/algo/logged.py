"""Episodes of the toy environment, written down as other systems log them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

import calibadv_env  # noqa: F401
from calibadv_algo.types import Group, Trajectory, Turn


@dataclass
class Played:
    """An episode as the environment told it."""

    group: str
    step: int
    prompt: str
    info: dict[str, Any]
    turns: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    reward: float = 0.0

    @property
    def answers(self) -> list[str]:
        return list(self.info["golden_answers"])

    @property
    def trajectory(self) -> Trajectory:
        """What our own rollout would have recorded."""
        turns = tuple(
            Turn(
                action_ids=(1,) * len(text.split()),
                action_text=text,
                logprobs=(0.0,) * len(text.split()),
                observation_text=observation,
                reward=self.reward if number == len(self.turns) - 1 else 0.0,
                info=info,
            )
            for number, (text, observation, info) in enumerate(self.turns)
        )
        return Trajectory(
            group_id=f"{self.step}/{self.group}",
            task_id=self.info["task_id"],
            prompt_ids=(),
            prompt_text=self.prompt,
            turns=turns,
            reset_info=self.info,
            policy_version=self.step,
        )


def play(num_questions: int = 6, group_size: int = 4) -> list[Played]:
    """Plays scripts: found and answered, found and answered wrongly, lost, malformed."""
    env = gymnasium.make("DeepSearch-Toy-v1", invalid_action="continue")
    rng = random.Random(3)
    episodes = []
    for question in range(num_questions):
        for member in range(group_size):
            prompt, info = env.reset(options={"task_index": question})
            played = Played(info["task_id"], question // 3, prompt, info)
            for text in _script(member, info, rng):
                observation, reward, terminated, truncated, facts = env.step(text)
                played.turns.append((text, observation, facts))
                played.reward = float(reward)
                if terminated or truncated:
                    break
            episodes.append(played)
    return episodes


def _script(member: int, info: dict[str, Any], rng: random.Random) -> list[str]:
    words = info["question"].split()
    search = "<think>{}</think>\n<search>{}</search>".format
    answer = "<think>So {}.</think>\n<answer>{}</answer>".format
    first = search(f"I ask it as it is, {member}.", info["question"])
    second = search(f"Then {' '.join(words[::-1])}", " ".join(rng.sample(words, 4)))
    lost = search("Nothing to do with it.", "zebra weather tomorrow")
    right, wrong = answer("it is", info["golden_answers"][0]), answer("perhaps", "nobody")
    return [
        [first, second, right],
        [first, wrong],
        [lost, second, wrong],
        ["I do not know the tags.", first, lost, second, lost],
    ][member % 4]


def groups_of(episodes: list[Played]) -> list[Group]:
    """The environment's own record of them."""
    members: dict[str, list[Trajectory]] = {}
    for played in episodes:
        members.setdefault(played.trajectory.group_id, []).append(played.trajectory)
    return [Group(tuple(each)) for each in members.values()]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def search_r1(played: Played) -> dict[str, Any]:
    """As verl dumps rollouts."""
    return {
        "input": played.prompt,
        "output": "".join(text + observation for text, observation, _ in played.turns),
        "gts": {"target": played.answers},
        "score": played.reward,
        "step": played.step,
    }


def messages(played: Played) -> dict[str, Any]:
    """As a chat with tags."""
    said = [{"role": "user", "content": played.prompt}]
    for text, observation, _ in played.turns:
        said.append({"role": "assistant", "content": text})
        if observation:
            said.append({"role": "user", "content": observation})
    return {"messages": said, "reward": played.reward, "answers": played.answers,
            "step": played.step, "uid": f"{played.group}-{played.step}"}  # fmt: skip


def tool_messages(played: Played) -> list[dict[str, Any]]:
    """As a chat with tool calls; a malformed turn is a call with broken JSON."""
    said: list[dict[str, Any]] = []
    for number, (text, observation, info) in enumerate(played.turns):
        arguments = json.dumps({"query": info["query"]}) if info["query"] else "{"
        function = {"name": "search", "arguments": arguments}
        call = {"id": f"c{number}", "type": "function", "function": function}
        if info["action"] == "answer":
            said.append({"role": "assistant", "content": info["answer"],
                         "reasoning_content": info["think"]})  # fmt: skip
            continue
        said.append({"role": "assistant", "content": info["think"], "tool_calls": [call]})
        if observation:
            body = observation.replace("<information>", "").replace("</information>", "").strip()
            said.append({"role": "tool", "tool_call_id": f"c{number}", "content": body})
        assert text
    return said


def vf_eval(played: Played) -> dict[str, Any]:
    """As vf-eval writes results.jsonl: calls are strings of JSON there."""
    completion = tool_messages(played)
    for message in completion:
        if "tool_calls" in message:
            message["tool_calls"] = [json.dumps(call) for call in message["tool_calls"]]
    return {
        "example_id": int(played.info["task_index"]),
        "prompt": [{"role": "user", "content": played.prompt}],
        "completion": completion,
        "answer": played.answers[0],
        "info": {"answers": played.answers},
        "reward": played.reward,
        "score": 17.0,
        "error": None,
        "is_completed": True,
        "metrics": {"score": 17.0},
        "timing": {},
    }


def vf_episode(played: Played) -> dict[str, Any]:
    """As version 1 writes traces.jsonl, with a branch that was given up and token ids."""
    said = [{"role": "user", "content": played.prompt}, *tool_messages(played)]
    nodes: list[dict[str, Any]] = []
    for number, message in enumerate(said):
        is_sampled = message["role"] == "assistant"
        nodes.append(
            {
                "parent": number - 1 if number else None,
                "message": message,
                "sampled": is_sampled,
                "token_ids": [9, 9, *range(number + 2)],
                "mask": [False, False, *[is_sampled] * (number + 2)],
                "logprobs": [-0.25] * (number + 2) if is_sampled else [],
            }
        )
        if number == 0:
            given_up = {"role": "assistant", "content": "never mind"}
            nodes.append({"parent": 0, "message": given_up, "sampled": True})
    for node in nodes[2:]:
        node["parent"] = node["parent"] + 1 if node["parent"] > 0 else 0
    trace = {
        "version": 1,
        "task": {"type": "Toy", "data": {"idx": 1, "answers": played.answers,
                                         "question": played.info["question"]},
                 "key": played.group},
        "agent": {"config": {}, "name": "agent", "trainable": True},
        "nodes": nodes,
        "rewards": {"f1": {"score": played.reward * 2, "weight": 0.5}, "none": None},
        "tools": [],
    }  # fmt: skip
    judge = {**trace, "agent": {"config": {}, "name": "judge", "trainable": False}}
    return {
        "id": "e",
        "task": trace["task"],
        "run": {"type": "train", "id": "r", "work": {"type": "train", "step": played.step}},
        "ok": True,
        "traces": [trace, judge],
    }
