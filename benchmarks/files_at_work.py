"""Counts the project files with a function that runs in one update of 2 questions x 2 episodes.

Run ``python benchmarks/files_at_work.py [SEED]``. The first of two updates of the shipped policy is
watched, in all threads, from the call before its collection to the call after its metrics are
logged; evaluation and checkpoints are not part of it.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.collection import make_player
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.trainer import Trainer

ROOT = Path(__file__).parents[1]


def main(seed: int) -> int:
    """Trains, prints the files and their functions, and returns their number."""
    seen: dict[str, set[str]] = {}

    def watch(frame: Any, event: str, _argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in file.parents and ".venv" not in file.parts:
            name = str(file.relative_to(ROOT))
            if name.startswith("calibadv_") and frame.f_code.co_name != "<module>":
                seen.setdefault(name, set()).add(frame.f_code.co_name)

    def begin(update: int, _total: int) -> None:
        if update == 0:
            threading.setprofile(watch)
            sys.setprofile(watch)

    def end(_update: int, _metrics: Any) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    config = replace(
        ATLAS_TINY,
        seed=seed,
        output_dir=Path(tempfile.mkdtemp()) / "run",
        quiet=True,
        rollout=replace(ATLAS_TINY.rollout, num_questions=2, group_size=2, num_slots=4),
        optim=replace(ATLAS_TINY.optim, num_updates=2),
        evaluation=replace(ATLAS_TINY.evaluation, every=0),
    )
    model, tokenizer = load_policy(config.model)
    slots = make_slots(config.env.env_id, config.rollout.num_slots, config.env.kwargs())
    player = make_player(config, slots, HfEngine(model, tokenizer), tokenizer)
    Trainer(config, model=model, player=player, before_update=begin).train(on_update=end)
    for name, functions in sorted(seen.items()):
        print(name, " ".join(sorted(functions))[:150])
    print(len(seen), "files,", sum(name.startswith("calibadv_env") for name in seen), "of them env")
    return len(seen)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
