"""The built-in worlds side by side: audit, a searcher that knows the chains, and shipped policies.

    python -m benchmarks.worlds [--episodes 300] [--policies atlas-tiny] [--worlds NAME ...]
        [--write docs/worlds.md]

Each row is a dev split. ``--write`` puts the table between the marks of the page.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibadv_algo.cli.evaluate import Eval, evaluate_split
from calibadv_algo.learner.pretrained import silence_transformers
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.training.evaluation import EvalResult
from calibadv_env.data.preparing.coverage import AuditResult, audit_dataset
from calibadv_env.data.registry import get_dataset
from calibadv_env.oracle import play_oracle
from calibadv_env.vector import DeepSearchVectorEnv

WORLDS = (
    "atlas",
    "atlas-fair",
    "atlas-noisy",
    "atlas-homonyms",
    "atlas-reworded",
    "atlas-long",
    "atlas-open",
)
SPLIT = "dev"
BEGIN = "<!-- worlds: begin -->"
END = "<!-- worlds: end -->"


def settings(name: str) -> EnvConfig:
    """The environment of a world as its card says."""
    return EnvConfig(
        dataset=name,
        split=SPLIT,
        prompt="question",
        max_turns=8 if name == "atlas-long" else 5,
        reward="abstain" if name == "atlas-open" else "f1",
    )


def audit_cells(found: AuditResult) -> list[str]:
    """Questions, clusters and what searches reach."""
    coverage, balance = found.coverage, found.balance
    return [
        f"{balance.num_tasks:,}",
        f"{balance.effective_clusters:.0f}",
        f"{coverage.one_search_gold or 0:.2f}",
        f"{coverage.chain_gold or 0:.2f}",
    ]


def oracle_cells(name: str) -> list[str]:
    """Reward of the searcher that knows the chain, its searches, and how often the first hits."""
    config = settings(name)
    kwargs = {key: value for key, value in config.kwargs().items() if key != "dataset"}
    env = DeepSearchVectorEnv(num_envs=64, dataset=name, **kwargs)
    tasks = get_dataset(name).tasks(SPLIT)
    played = play_oracle(env, tasks, range(len(tasks)))
    searched = [each for each in played if each.num_searches]
    return [
        f"{np.mean([each.reward for each in played]):.2f}",
        f"{np.mean([each.num_searches for each in played]):.1f}",
        f"{np.mean([each.is_first_hit for each in searched]):.2f}",
    ]


def policy_cells(name: str, model: str, episodes: int) -> list[str]:
    """Reward and F1 of a policy, and how often its first search and its searches hit new gold."""
    command = Eval(model=model, env=settings(name))
    policy = command.source()
    result = evaluate_split(policy, command.settled(policy), episodes=episodes)
    first, every = hits(result)
    rewards = [record.reward for record in result.records]
    return [f"{np.mean(rewards):.2f}", f"{first:.2f}", f"{every:.2f}"]


def hits(result: EvalResult) -> tuple[float, float]:
    """Share of first searches, and of all, that hit gold not seen before."""
    first, every = [], []
    for trajectory in result.trajectories:
        turns = [t.info for t in trajectory.turns if t.info.get("query") is not None]
        found = [bool(info["gold_new"]) for info in turns]
        first += found[:1]
        every += found
    return float(np.mean(first)), float(np.mean(every))


def table(worlds: Sequence[str], policies: Sequence[str], episodes: int) -> str:
    """The table in Markdown."""
    head = ["world", "questions", "effective clusters", "one search: all hops", "chain: all hops"]
    head += ["oracle: reward", "searches", "first hit"]
    for model in policies:
        head += [f"{model}: reward", "first search hits", "searches that hit"]
    rows = [head, ["---"] * len(head)]
    for name in worlds:
        cells = audit_cells(audit_dataset(name, split=SPLIT)) + oracle_cells(name)
        for model in policies:
            cells += policy_cells(name, model, episodes)
        rows.append([f"`{name}`", *cells])
        logging.getLogger(__name__).warning("%s: %s", name, " ".join(cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(page: Path, text: str) -> None:
    """Puts a text between the marks of a page."""
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--policies", nargs="*", default=["atlas-tiny"])
    parser.add_argument("--worlds", nargs="*", default=WORLDS)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    silence_transformers()
    text = table(options.worlds, options.policies, options.episodes)
    sys.stdout.write(text + "\n")
    if options.write is not None:
        write(options.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
