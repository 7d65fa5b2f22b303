"""`calibadv play`: a person searches in the terminal, or watches a policy do it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from calibadv_algo.cli.places import policy_at
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.training.config import EnvConfig

HELP = "s QUERY searches, a ANSWER answers, q quits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """Answer a question in the terminal, or watch a policy (--model) answer it."""

    env: EnvConfig = field(default_factory=lambda: EnvConfig(split="dev", prompt="question"))
    """The environment."""
    task_index: int | None = None
    """Which task; None draws one by the seed."""
    seed: int = 0
    """Seed of the draw, and of a policy's sampling."""
    model: str | None = None
    """Policy to watch: a shipped one's name, the folder of a policy, an update, a run or a
    comparison, or a name on the hub. None: you play."""
    temperature: float = 0.0
    """Sampling temperature of the policy; 0 is greedy."""
    max_tokens: int = 64
    """Most tokens of one turn of the policy."""

    def run(self) -> int:
        """Plays one episode."""
        console = Console(highlight=False)
        module, _, name = self.env.env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        env = gymnasium.make(name, disable_env_checker=True, **self.env.kwargs())
        try:
            self._play(env, console)
        finally:
            env.close()
        return 0

    def _play(self, env: gymnasium.Env[str, str], console: Console) -> None:
        """One episode; a person may leave before its end."""
        options = None if self.task_index is None else {"task_index": self.task_index}
        observation, info = env.reset(seed=self.seed, options=options)
        title = Text(str(info.get("task_id", "task")))
        console.print(Panel(Text(observation.strip()), title=title))
        act = self._ask(console) if self.model is None else self._policy(self.model)
        context, is_over = observation, False
        while not is_over:
            action = act(context)
            if action is None:
                return
            if self.model is not None:
                console.print(action, style="cyan", markup=False)
            observation, reward, terminated, truncated, info = env.step(action)
            context += action + observation
            console.print(observation.strip(), markup=False)
            is_over = terminated or truncated
        console.print(_result(float(reward), info))

    def _ask(self, console: Console) -> Callable[[str], str | None]:
        """A person's turns: short commands become actions of the grammar."""
        opening = "" if self.env.prepend_think else "<think>"
        console.print(HELP, style="dim")

        def ask(context: str) -> str | None:
            while True:
                try:
                    line = console.input("[bold]> [/bold]").strip()
                except EOFError:
                    return None
                kind, _, rest = line.partition(" ")
                if kind == "q":
                    return None
                if kind == "s":
                    return f"{opening}</think><search>{rest}</search>"
                if kind == "a":
                    return f"{opening}</think><answer>{rest}</answer>"
                console.print(HELP, style="dim")

        return ask

    def _policy(self, name: str) -> Callable[[str], str | None]:
        """A policy's turns; what was sampled is kept as token ids."""
        from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
        from calibadv_algo.rollout.engines.hf.engine import HfEngine

        model, tokenizer = load_policy(policy_at(name))
        engine = HfEngine(model, tokenizer, max_slots=1)
        params = SamplingParams(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            stop=self.env.stop_strings(self.env.prompt),
        )
        ids: list[int] = []
        read = 0

        def act(context: str) -> str | None:
            nonlocal read
            ids.extend(tokenizer.encode(context[read:], add_special_tokens=False))
            request = GenerationRequest("play", tuple(ids), self.seed + len(ids))
            generation = engine.generate([request], params)[0]
            ids.extend(generation.token_ids)
            read = len(context) + len(generation.text)
            return generation.text

        return act


def _result(reward: float, info: dict[str, Any]) -> Table:
    """The end of an episode, in one small table."""
    table = Table(title="episode", show_header=False)
    rows = {"reward": reward, **{key: info.get(key) for key in ("stop_reason", "em", "f1")}}
    for key, value in rows.items():
        if value is not None:
            table.add_row(key, f"{value:.2f}" if isinstance(value, float) else str(value))
    return table
