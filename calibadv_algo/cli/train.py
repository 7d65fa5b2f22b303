"""`calibadv train`: one training run. Also what `compare` runs in each of its processes."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro
from rich.console import Console

from calibadv_algo.cli.provenance import data_sha256, git_commit
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline, find_baseline
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.lora import Lora, add_lora
from calibadv_algo.rollout.engines.making import find_engine
from calibadv_algo.training.config import TrainConfig, config_hash
from calibadv_algo.training.presets import ATLAS_TINY, PRESETS
from calibadv_env.common.files import write_text
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.prompts import stop_strings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.base import GenerationEngine
    from calibadv_algo.training.trainer import TrainResult

PUBLISHED: Final = "published"
"""Name of the preset that stands for a baseline's own settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train a policy in a search environment; goes on from its last checkpoint if there is one."""

    preset: str = "atlas-tiny"
    """Named settings that the flags below change; `calibadv list presets`. With a baseline,
    "published" stands for its own."""
    arm: str | None = None
    """Algorithm: sets advantage, credit and think tag; `calibadv list arms`. CalibAdv if neither
    an arm nor a baseline is named."""
    baseline: str | None = None
    """A published system in place of an arm; `calibadv list baselines`."""
    engine: str = "hf"
    """What samples: hf, vllm, or vllm-server URL; its settings are the flags --engine.*."""
    lora: int | None = None
    """Rank of adapters that learn in place of all weights; more settings are the flags --lora.*."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ATLAS_TINY
    )
    """All settings of the run."""

    def run(self) -> int:
        """Trains and says where the policy is."""
        result = run_training(self.config)
        if int(os.environ.get("RANK", "0")) > 0:
            return 0
        Console(highlight=False).print(
            f"{result.num_updates} updates done; the policy is in {result.policy_dir}",
            markup=False,
            soft_wrap=True,
        )
        return 0


def train_config(
    preset: str | None,
    arm: str | None,
    baseline: str | None,
    engine: str | None = None,
    lora: str | None = None,
) -> TrainConfig:
    """The settings that names stand for, before flags change them.

    Args:
        preset: A preset; "published" for the baseline's own settings; None for the usual ones.
        arm: An arm, or None.
        baseline: A baseline, or None.
        engine: An engine, as :func:`~calibadv_algo.rollout.engines.making.find_engine` reads it.
        lora: Rank of adapters.

    Returns:
        The preset with the algorithm put on it; CalibAdv if none is named.

    Raises:
        ValueError: if a name is not known, both an arm and a baseline are given, or
            "published" without a baseline.
    """
    config = _algorithm(preset, arm, baseline)
    if engine is not None:
        config = replace(config, engine=find_engine(engine))
    if lora is not None:
        if not lora.isdigit():
            raise ValueError(f"lora must be the rank of the adapters, got {lora!r}")
        config = replace(config, lora=Lora(rank=int(lora)))
    return config


def _algorithm(preset: str | None, arm: str | None, baseline: str | None) -> TrainConfig:
    if baseline is not None:
        if arm is not None:
            raise ValueError(f"give either an arm or a baseline, got {arm!r} and {baseline!r}")
        found = find_baseline(baseline)
        return found.published if preset == PUBLISHED else found.apply(_preset(preset))
    return find_arm(arm or "calibadv").apply(_preset(preset))


def train_baseline(baseline: Baseline) -> None:
    """Trains a system on the atlas, or as the flags of the process say.

    Args:
        baseline: The system; what its own file runs.
    """
    config = tyro.cli(
        TrainConfig,
        default=baseline.apply(ATLAS_TINY),
        description=f"{baseline.description} ({baseline.source})",
        config=(tyro.conf.AvoidSubcommands,),
    )
    run_training(config)


def _preset(name: str | None) -> TrainConfig:
    """Settings by name."""
    if name is None:
        return ATLAS_TINY
    if name == PUBLISHED:
        raise ValueError(f"preset {PUBLISHED!r} needs a baseline whose settings it stands for")
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def run_training(config: TrainConfig) -> TrainResult:
    """Joins environment, engine and algorithm, and trains.

    Args:
        config: The settings.

    Returns:
        How the run ended.

    Raises:
        ValueError: if the model or the environment is not there, or the settings do not fit.
        CheckpointError: if the output folder holds another run.
    """
    from calibadv_algo.learner.ranks import make_ranks
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import make_eval_player, make_player
    from calibadv_algo.training.trainer import Trainer

    ranks = make_ranks()
    if ranks.is_main:
        _write_provenance(config)
    model, tokenizer = load_policy(config.model)
    if config.lora is not None:
        model = add_lora(model, config.lora, seed=config.seed)
    rollout = config.rollout
    slots = make_slots(config.env.env_id, rollout.num_slots, config.env.kwargs())
    engine = _make_engine(config, model, tokenizer)
    player = make_player(
        config,
        slots,
        engine,
        tokenizer,
        stop=stop_strings(config.env.prompt),
        retry_on=(RetrieverError, OSError),
    )
    eval_player = None
    if config.evaluation.every:
        eval_kwargs = config.env.kwargs(config.evaluation.split)
        eval_slots = make_slots(config.env.env_id, rollout.num_slots, eval_kwargs)
        eval_player = make_eval_player(config, player, eval_slots)
    trainer = Trainer(config, model=model, player=player, eval_player=eval_player, ranks=ranks)
    try:
        return trainer.train()
    finally:
        slots.close()
        if eval_player is not None:
            eval_player.slots.close()
        close = getattr(engine, "close", None)
        if close is not None:
            close()
        ranks.close()


def _make_engine(
    config: TrainConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> GenerationEngine:
    """The engine that the settings ask for.

    One that samples while the policy learns needs weights of its own.
    """
    from calibadv_algo.rollout.engines.config import HfEngineConfig
    from calibadv_algo.rollout.engines.making import make_engine

    rollout = config.rollout
    is_shared = isinstance(config.engine, HfEngineConfig) and rollout.overlap == "none"
    return make_engine(
        config.engine,
        model if is_shared else copy.deepcopy(model),
        tokenizer,
        max_slots=rollout.num_slots,
        max_context=rollout.max_context,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
    )


def _write_provenance(config: TrainConfig) -> None:
    """Writes beside the results which code and data they come from.

    A start with other facts than the last one is noted under ``resumed_by``; the first ones stay.
    The folder of another run, which the trainer refuses, is left as it is.
    """
    import torch

    config.output_dir.mkdir(parents=True, exist_ok=True)
    settings = config.output_dir / "config.json"
    if settings.exists() and json.loads(settings.read_text("utf-8")).get("hash") != config_hash(
        config
    ):
        return
    facts = {
        "git_commit": git_commit(),
        "data_sha256": data_sha256(config.env),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
    }
    path = config.output_dir / "provenance.json"
    record: dict[str, Any] = dict(facts)
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        later = record.get("resumed_by", [])
        if facts != (later[-1] if later else record):
            record["resumed_by"] = [*later, facts]
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
