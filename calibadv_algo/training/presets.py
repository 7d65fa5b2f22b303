"""Named settings: the shipped policy on the atlas, and published runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.training.config import EnvConfig, EvalConfig, RolloutConfig, TrainConfig

ATLAS_TINY: Final = TrainConfig(
    env=EnvConfig(prompt="question", max_turns=5),
    optim=OptimConfig(num_updates=25, micro_batch_tokens=1200),
    evaluation=EvalConfig(every=5, episodes=300),
)
"""The shipped tiny policy on the atlas, on two CPU cores."""


PAGES_TINY: Final = TrainConfig(
    model="runs/warmstart-pages",
    env=EnvConfig(
        env_id="calibadv_env:DeepSearch-Pages-v0",
        dataset="pages-linked",
        prompt="question",
        reward="typed",
        top_k=2,
        max_turns=7,
        max_observation_chars=160,
    ),
    rollout=RolloutConfig(max_tokens=80),
    optim=OptimConfig(num_updates=25, micro_batch_tokens=1200),
    evaluation=EvalConfig(every=5, episodes=206),
)
"""A policy of `calibadv warmstart --dataset pages-linked` on the questions that follow links."""


ATLAS_FAIR: Final = replace(
    ATLAS_TINY,
    model="atlas-fair-tiny",
    env=replace(ATLAS_TINY.env, dataset="atlas-fair"),
    # At temperature 1 this policy miscopies most names: F1 .06, and next to no group has a signal.
    rollout=replace(ATLAS_TINY.rollout, temperature=0.5),
    optim=replace(ATLAS_TINY.optim, num_updates=20),
    evaluation=replace(ATLAS_TINY.evaluation, episodes=100),
)
"""The tiny policy of the balanced world, for comparisons."""


# The papers train on merged sets; docs/benchmarks.md says how to get their files. Serve the corpus
# at this address, or name another retriever by --env.retriever.
_PAPER_ENV: Final = EnvConfig(
    dataset="hotpotqa+2wikimultihopqa",
    prompt="search_r1",
    max_turns=4,
    top_k=3,
    retriever="http://127.0.0.1:8000",
)


_PAPER_ROLLOUT: Final = RolloutConfig(
    num_questions=512, group_size=5, top_p=0.95, max_tokens=1024, max_context=16384, num_slots=512
)


_PAPER_OPTIM: Final = OptimConfig(
    # train_grpo.sh: one epoch of 90,447 + 15,000 questions; total_training_steps=410 is the length
    # of the cosine alone, so the rate ends at half its peak.
    num_updates=205,
    schedule_updates=410,
    lr=5e-7,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    schedule="cosine",
    num_minibatches=10,
    objective=ClippedSurrogate(clip_low=0.2, clip_high=0.2),
    old_logprobs="recomputed",
    micro_batch_tokens=16384,
    dtype="bf16",
    gradient_checkpointing=True,
)


CALIBADV_QWEN25_3B: Final = TrainConfig(
    model="Qwen/Qwen2.5-3B",
    advantage=CalibAdv(),
    env=replace(_PAPER_ENV, prepend_think=True),
    rollout=_PAPER_ROLLOUT,
    optim=_PAPER_OPTIM,
    evaluation=EvalConfig(every=10, episodes=500),
)
"""CalibAdv on Qwen2.5-3B."""


CALIBADV_QWEN25_7B: Final = replace(CALIBADV_QWEN25_3B, model="Qwen/Qwen2.5-7B")
"""CalibAdv on Qwen2.5-7B."""


CALIBADV_LLAMA32_3B: Final = replace(CALIBADV_QWEN25_3B, model="meta-llama/Llama-3.2-3B-Instruct")
"""CalibAdv on Llama-3.2-3B-Instruct."""


SEARCH_R1_GRPO: Final = TrainConfig(
    model="Qwen/Qwen2.5-3B",
    advantage=Grpo(),
    credit=NoCredit(),
    env=replace(
        _PAPER_ENV,
        dataset="nq+hotpotqa",
        reward="em",
        format_gate=False,
        invalid_action="continue",
    ),
    rollout=replace(_PAPER_ROLLOUT, max_tokens=500, max_context=4096),
    optim=replace(
        _PAPER_OPTIM,
        num_updates=1005,
        schedule_updates=None,
        lr=1e-6,
        schedule="constant",
        warmup_fraction=0.285,
        kl_coef=0.001,
        entropy_coef=0.001,
    ),
    evaluation=EvalConfig(every=50, episodes=500),
)
"""GRPO as in Search-R1: exact match, k3 divergence, long warm-up."""


PRESETS: Final[dict[str, TrainConfig]] = {
    "atlas-tiny": ATLAS_TINY,
    "pages-tiny": PAGES_TINY,
    "atlas-fair": ATLAS_FAIR,
    "calibadv-qwen2.5-3b": CALIBADV_QWEN25_3B,
    "calibadv-qwen2.5-7b": CALIBADV_QWEN25_7B,
    "calibadv-llama3.2-3b": CALIBADV_LLAMA32_3B,
    "search-r1-grpo": SEARCH_R1_GRPO,
}
"""Named settings, for command lines."""
