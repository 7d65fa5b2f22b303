"""One of several processes that train on the letters; started by test_ranks.py and by hand."""

from __future__ import annotations

import copy
import os
import signal
import sys
from pathlib import Path
from typing import Any

import letters  # beside this file, which is the first folder that the interpreter looks into
import torch

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.credit.labels import RandomCredit
from calibadv_algo.learner.config import CriticConfig
from calibadv_algo.learner.ranks import Ranks, make_ranks
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.mismatch import TokenTis
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.slots import ListSlots
from calibadv_algo.shaping.filters import DynamicSampling

CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "calibadv": {"advantage": CalibAdv(), "credit": RandomCredit()},
    "ppo": {
        "advantage": PpoGae(),
        "optim": letters.OptimConfig(
            num_updates=2,
            lr=1e-3,
            kl_reward_coef=0.05,
            critic=CriticConfig(lr=1e-3),
            old_logprobs="recomputed",
            mismatch=TokenTis(),
        ),
    },
    "llds": {
        "filters": (DynamicSampling(max_batches=3, min_range=0.9),),
        "optim": letters.OptimConfig(num_updates=2, lr=1e-3, objective=Llds(), kl_coef=0.01),
    },
}


class TellingEnv(letters.LetterEnv):
    """The letters, with the kind of every action."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        text, reward, is_over, is_truncated, info = super().step(action)
        kind = "answer" if is_over else "search"
        return text, reward, is_over, is_truncated, {**info, "action": kind}


class DeadlySlots(ListSlots):
    """Kills the process in the middle of an update."""

    num_steps_left = -1
    num_turns = 0

    def step(self, actions: Any, retry_on: Any) -> Any:
        self.num_turns += len(actions)
        if self.num_steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_steps_left -= 1
        return super().step(actions, retry_on)


def make_run(folder: Path, ranks: Ranks, **changes: Any) -> Any:
    """A trainer of a case."""
    values: dict[str, Any] = {
        "optim": letters.OptimConfig(num_updates=2, lr=1e-3),
        "evaluation": letters.EvalConfig(every=1, episodes=4),
        "rollout": letters.RolloutConfig(
            num_questions=4, group_size=4, max_tokens=3, max_context=32, num_slots=4
        ),
    }
    before_update = changes.pop("before_update", None)
    slots = changes.pop("slots", None) or ListSlots([TellingEnv() for _ in range(4)])
    config = letters.make_config(folder, **values | changes)
    model = letters.make_model()
    tokenizer = letters.make_tokenizer()
    sampler = model if config.rollout.overlap == "none" else copy.deepcopy(model)
    return letters.make_trainer(
        config,
        model=model,
        engine=HfEngine(sampler, tokenizer),
        slots=slots,
        ranks=ranks,
        before_update=before_update,
    )


def run_cases(folder: Path, ranks: Ranks) -> None:
    """Trains every case in a folder of its own."""
    for name, changes in CASES.items():
        make_run(folder / name, ranks, **changes).train()


def run_deadly(folder: Path, ranks: Ranks, overlap: str) -> None:
    """Four updates with a checkpoint after two; ``KILL=rank,update,steps`` ends it before."""
    slots = DeadlySlots([TellingEnv() for _ in range(4)])
    fatal = [int(part) for part in os.environ.get("KILL", "-1,0,0").split(",")]

    def arm(update: int, total: int) -> None:
        if [ranks.rank, update] == fatal[:2]:
            slots.num_steps_left = fatal[2]

    rollout = letters.RolloutConfig(
        num_questions=4, group_size=4, max_tokens=3, max_context=32, num_slots=4, overlap=overlap
    )
    make_run(
        folder,
        ranks,
        slots=slots,
        before_update=arm,
        rollout=rollout,
        optim=letters.OptimConfig(num_updates=4, lr=1e-3),
        checkpoint_every=2,
    ).train()
    (folder / f"turns.{ranks.rank}").write_text(str(slots.num_turns))


def run_sharded(folder: Path, ranks: Ranks) -> None:
    """Two updates with a share of every weight, then two more after a resumption."""
    optim = letters.OptimConfig(
        num_updates=2, lr=1e-3, kl_coef=0.01, old_logprobs="recomputed", parallel="sharded"
    )
    trainer = make_run(folder, ranks, optim=optim, checkpoint_every=1)

    def stop(update: int, metrics: Any) -> None:
        raise KeyboardInterrupt

    try:
        trainer.train(on_update=stop)
    except KeyboardInterrupt:
        make_run(folder, ranks, optim=optim, checkpoint_every=1).train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    mine = make_ranks()
    torch.set_num_threads(1)
    if sys.argv[1] == "cases":
        run_cases(Path(sys.argv[2]), mine)
    elif sys.argv[1] == "sharded":
        run_sharded(Path(sys.argv[2]), mine)
    else:
        run_deadly(Path(sys.argv[2]), mine, sys.argv[1])
    mine.close()
