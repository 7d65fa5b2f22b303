"""skyrl-gym's search environment; its call of the search server is answered at once."""

from __future__ import annotations

from typing import Any

import skyrl_gym.tools.search as search_tool
from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

from benchmarks.peers.sides.actions import NUM_QUESTIONS, answer, episode, found, question
from benchmarks.peers.worker import Turns


def run(options: dict[str, Any], turns: Turns) -> None:
    """Plays episodes one by one."""
    calls = 0

    def search(**_: Any) -> tuple[dict[str, Any], None]:
        nonlocal calls
        calls += 1
        documents = [{"document": {"contents": f"{t}\n{x}"}, "score": 1.0} for t, x in found(calls)]
        return {"result": [documents]}, None

    search_tool.call_search_api = search
    episodes = [episode(n, options["searches"]) for n in range(options["episodes"])]

    def work() -> int:
        steps = 0
        for number, actions in enumerate(episodes):
            target = [answer(number % NUM_QUESTIONS)]
            env = SearchEnv(
                SearchEnvConfig(),
                {
                    "reward_spec": {"ground_truth": {"target": target}},
                    "max_turns": options["searches"] + 1,
                },
            )
            env.init([{"role": "user", "content": question(number % NUM_QUESTIONS)}])
            for action in actions:
                output = env.step(action)
                steps += 1
            assert output["done"]
        return steps

    turns.repeat({"": work})
