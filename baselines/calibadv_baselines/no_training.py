"""No training: the floors and the ceiling that every table needs.

Made of
    closed-book  the policy thinks and answers without a search
    rag          one search, made with the question itself, then the policy answers
    search       the policy as it is, prompted to search (the warm start of all trained systems)
    oracle       a script follows the gold chain and gives the answer if it was retrieved

All four are played, recorded and scored as a trained policy is
(`calibadv_algo.experiments.no_training`), so each is a row of the same
table. Source of the idea: the tables of Search-R1, arXiv 2503.09516, have
direct inference and retrieval-augmented generation as their first rows; the oracle is ours.

Departures: in closed book and rag the answer is asked for by putting the tags in, not by a prompt,
so that a policy without any instruction can be measured too.

Run it: ``python -m calibadv_baselines.no_training --episodes 300``
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

import tyro
from rich.console import Console
from rich.table import Table

from calibadv_algo.experiments.no_training import SystemName
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.training.presets import ATLAS_TINY


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """Evaluate the systems that take no training, side by side."""

    model: str = "atlas-tiny"
    """Policy: a shipped one's name, a path, or a name on the hub."""
    env: EnvConfig = field(default_factory=lambda: replace(ATLAS_TINY.env, split="dev"))
    """The environment; its split is the one that is evaluated."""
    episodes: int = 300
    """Questions, the first ones of a fixed shuffle of the split."""
    max_tokens: int = ATLAS_TINY.rollout.max_tokens
    """Most tokens of one turn."""
    max_context: int = ATLAS_TINY.rollout.max_context
    """Most tokens of an episode."""
    num_slots: int = 300
    """Environments that run side by side."""


def main(floors: Floors) -> None:
    """Prints a row for each system."""
    from calibadv_algo.experiments.no_training import play_system
    from calibadv_algo.learner.pretrained import load_policy
    from calibadv_algo.rollout.engines.base import SamplingParams
    from calibadv_algo.rollout.engines.hf.engine import HfEngine
    from calibadv_algo.rollout.episodes import DriverConfig
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import count_tasks
    from calibadv_algo.training.evaluation import eval_task_indices, summarize
    from calibadv_env.protocol.prompts import stop_strings

    model, tokenizer = load_policy(floors.model)
    engine = HfEngine(model, tokenizer, max_slots=floors.num_slots, max_context=floors.max_context)
    slots = make_slots(floors.env.env_id, floors.num_slots, floors.env.kwargs())
    params = SamplingParams(
        temperature=0.0, max_tokens=floors.max_tokens, stop=stop_strings(floors.env.prompt)
    )
    table = Table("system", "EM", "F1", "searches", title=f"{floors.model}, {floors.env.split}")
    for system in get_args(SystemName):
        result = play_system(
            system,
            slots,
            engine,
            tokenizer,
            eval_task_indices(count_tasks(slots), floors.episodes),
            params,
            split=floors.env.split,
            driver=DriverConfig(max_context_tokens=floors.max_context),
        )
        means = summarize(result.records)
        table.add_row(system, *(f"{means[name]:.3f}" for name in ("em", "f1", "searches")))
    slots.close()
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main(tyro.cli(Floors, config=(tyro.conf.AvoidSubcommands,)))
