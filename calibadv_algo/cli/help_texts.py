"""What stands before the flags in a command's help: examples, and the flags used most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "compare": (
        "calibadv compare --preset smoke --output-dir runs/first",
        "calibadv compare --arms grpo ./mine.py:Mine --seeds 0 1 2",
        "calibadv compare --arms grpo calibadv --env.dataset my-trivia --optim.lr 1e-4",
    ),
    "train": (
        "calibadv train --arm grpo --output-dir runs/grpo",
        "calibadv train --model Qwen/Qwen2.5-3B --env.dataset my-trivia --rollout.max-context 4096",
        "calibadv train --advantage ./mine.py:Mine --strict",
    ),
    "eval": (
        "calibadv eval atlas-tiny",
        "calibadv eval runs/grpo --env.dataset my-trivia --env.split test",
        "calibadv eval --endpoint http://127.0.0.1:8000/v1 --endpoint-model NAME --episodes 100",
    ),
    "eval --suite": ("calibadv eval --suite atlas atlas-tiny", "calibadv eval --suite seven MODEL"),
    "play": ("calibadv play --env.dataset toy", "calibadv play --model atlas-tiny --seed 3"),
    "report": ("calibadv report runs/compare",),
    "credit": (
        "calibadv credit atlas-tiny --questions 16",
        "calibadv credit runs/grpo --own ./mine.py:Mine",
    ),
    "diagnose": (
        "calibadv diagnose runs/grpo --output page.html",
        "calibadv diagnose rollouts.jsonl --search-tools my_search",
    ),
    "export": (
        "calibadv export runs/grpo",
        "calibadv export runs/grpo --to tensorboard --output boards",
        "calibadv export runs/grpo --to wandb",
    ),
    "serve": ("calibadv serve atlas", "calibadv serve ./notes --port 8001"),
    "data": (
        "calibadv data prepare my-trivia --from questions.csv --corpus notes/",
        "calibadv data questions --corpus notes/ --endpoint http://127.0.0.1:8000/v1 --model NAME",
        "calibadv data inspect my-trivia",
        "calibadv data audit my-trivia --split test",
    ),
    "index": ("calibadv index bm25 corpus.jsonl.gz my-index",),
}
"""Examples by command."""

MOST_USED: Final[dict[str, tuple[str, ...]]] = {
    "compare": (
        "--arms",
        "--seeds",
        "--preset",
        "--output-dir",
        "--num-workers",
        "--env.dataset",
        "--model",
        "--optim.num-updates",
        "--optim.lr",
        "--credit",
    ),
    "train": (
        "--model",
        "--arm",
        "--baseline",
        "--env.dataset",
        "--env.retriever",
        "--output-dir",
        "--optim.num-updates",
        "--optim.lr",
        "--rollout.group-size",
        "--rollout.max-context",
    ),
    "eval": (
        "--env.dataset",
        "--env.split",
        "--env.prompt",
        "--env.retriever",
        "--env.top-k",
        "--episodes",
        "--output",
        "--temperature",
        "--endpoint",
        "--engine",
    ),
}
"""Flags by command, the most used first."""


def opening(form: str) -> str:
    """Examples and most used flags of a command, "" where none are noted."""
    lines: list[str] = []
    if form in EXAMPLES:
        lines += ["examples:", *(f"  {example}" for example in EXAMPLES[form])]
    if form in MOST_USED:
        lines += ["most used flags (all are described below):", f"  {' '.join(MOST_USED[form])}"]
    return "\n".join(lines) + "\n" if lines else ""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """True if a command line asks for help."""
    return bool({"-h", "--help"} & set(arguments))
