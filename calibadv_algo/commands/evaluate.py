"""`calibadv eval`: scores of a policy on a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibadv_algo.commands.setup import coverage_facts, load_policy
from calibadv_algo.config import EnvConfig
from calibadv_env.errors import RetrieverError
from calibadv_env.info import STOP_STRINGS

if TYPE_CHECKING:
    from calibadv_algo.evaluation import EvalResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Evaluate a policy: exact match, F1, searches, format, by number of hops."""

    model: str = "atlas-tiny"
    """Policy: a shipped one's name, a path, or a name on the hub."""
    env: EnvConfig = field(
        default_factory=lambda: EnvConfig(split="test", prompt="question", max_turns=5)
    )
    """The environment; its split is the one that is evaluated."""
    episodes: int = 1000
    """Tasks, the first ones of a fixed shuffle of the split."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    max_tokens: int = 40
    """Most tokens of one turn."""
    max_context: int = 1024
    """Most tokens of an episode."""
    num_slots: int = 64
    """Environments that run side by side."""
    seed: int = 0
    """Seed of the sampling."""
    chat_template: bool = False
    """Whether the question is put as a user message in the model's chat template."""
    output: Path | None = None
    """File for one line of JSON a question."""

    def run(self) -> int:
        """Evaluates and prints a table."""
        from calibadv_algo.evaluation import append_records, summarize

        result = self.evaluate()
        if self.output is not None:
            append_records(self.output, result.records)
        title = f"{self.model} on {self.env.dataset} {self.env.split}"
        table = Table("metric", "mean", title=Text(title))
        for name, value in summarize(result.records).items():
            table.add_row(name, f"{value:.3f}")
        table.add_row("questions", str(len(result.records)))
        coverage = coverage_facts(self.env, self.env.split)
        for name, value in (coverage or {}).get("coverage", {}).items():
            if isinstance(value, float):
                table.add_row(f"corpus: {name}", f"{value:.3f}")
        if result.num_dropped:
            table.add_row("dropped", str(result.num_dropped))
        Console(highlight=False).print(table)
        return 0

    def evaluate(self) -> EvalResult:
        """Plays the episodes; prints nothing."""
        from calibadv_algo.evaluation import eval_task_indices, evaluate
        from calibadv_algo.rollout.base import SamplingParams
        from calibadv_algo.rollout.driver import DriverConfig
        from calibadv_algo.rollout.hf_engine import HfEngine
        from calibadv_algo.rollout.slots import make_slots
        from calibadv_algo.trainer import count_tasks

        model, tokenizer = load_policy(self.model)
        slots = make_slots(self.env.env_id, self.num_slots, self.env.kwargs())
        try:
            return evaluate(
                slots,
                HfEngine(model, tokenizer, max_slots=self.num_slots, max_context=self.max_context),
                tokenizer,
                eval_task_indices(count_tasks(slots), self.episodes),
                SamplingParams(
                    temperature=self.temperature, max_tokens=self.max_tokens, stop=STOP_STRINGS
                ),
                split=self.env.split,
                seed=self.seed,
                driver=DriverConfig(
                    max_context_tokens=self.max_context,
                    chat_template=self.chat_template,
                    retry_on=(RetrieverError, OSError),
                ),
            )
        finally:
            slots.close()
