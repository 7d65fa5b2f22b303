"""One of several processes that train together: `python rank_run.py RANK SIZE STORE`."""

from __future__ import annotations

import json
import os
import sys


def main(rank: int, size: int, store: str) -> None:
    import torch

    from calibadv_algo.learner.pretrained import load_policy
    from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
    from calibadv_algo.rollout.engines.config import VllmEngineConfig
    from calibadv_algo.rollout.engines.making import make_engine

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    model, tokenizer = load_policy("atlas-tiny")
    try:
        make_engine(VllmEngineConfig(), model, tokenizer, max_slots=4)
    except ValueError as error:
        refused = str(error)
    engine = make_engine(VllmEngineConfig(workers="separate"), model, tokenizer, max_slots=4)
    engine.sync_weights(model, 1)
    ids = tuple(tokenizer.encode("Question: What is the capital of Peru?\n"))
    requests = [GenerationRequest(str(i), ids, i) for i in range(4)]
    turns = engine.generate(requests, SamplingParams(max_tokens=40, stop=("</search>",)))
    engine.close()  # type: ignore[attr-defined]
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    result = {"refused": refused, "turns": [turn.token_ids for turn in turns]}
    sys.stdout.write(json.dumps(result) + "\n")
    assert os.environ["RANK"] == str(rank), "the launcher's variables are put back"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
