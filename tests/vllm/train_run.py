"""A small training run on the atlas through vLLM: `python train_run.py FOLDER UPDATES WORKERS`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.making import make_engine
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.training.collection import make_player
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_algo.training.trainer import Trainer


def main(folder: str, num_updates: str, workers: Any) -> None:
    import calibadv_env  # noqa: F401 (registers the environments)

    config = replace(
        ATLAS_TINY,
        output_dir=Path(folder),
        checkpoint_every=1,
        quiet=True,
        rollout=replace(ATLAS_TINY.rollout, num_questions=4, group_size=4, num_slots=16),
        optim=replace(ATLAS_TINY.optim, num_updates=int(num_updates), lr=1e-3),
        evaluation=replace(ATLAS_TINY.evaluation, every=0),
    )
    model, tokenizer = load_policy(config.model)
    rollout = config.rollout
    engine = make_engine(
        VllmEngineConfig(workers=workers),
        model,
        tokenizer,
        max_slots=rollout.num_slots,
        max_context=rollout.max_context,
    )
    slots = make_slots(config.env.env_id, rollout.num_slots, config.env.kwargs())
    player = make_player(config, slots, engine, tokenizer)
    trainer = Trainer(config, model=model, player=player)
    result = trainer.train()
    sys.stdout.write(f"done {result.num_updates}\n")
    slots.close()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
