"""`calibadv train`: one training run. Also what `compare` runs in each of its processes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import tyro
from rich.console import Console

from calibadv_algo.cli.final import FinalScores, play_start, write_final
from calibadv_algo.cli.flags import (
    CONFIG,
    EngineName,
    InnerParts,
    NamedSettings,
    PartName,
    PartNames,
    chosen_parts,
    one_of,
    read_some,
)
from calibadv_algo.cli.provenance import (
    data_sha256,
    git_commit,
    refuse_other_index,
    server_identity,
)
from calibadv_algo.cli.warned import Warned, say, stop_on_interrupt, warn_of_thoughts
from calibadv_algo.experiments.arms import find_arm
from calibadv_algo.experiments.baseline import Baseline, find_baseline
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.lora import Lora, add_lora
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.engines.making import find_engine
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.parts import KINDS, with_parts
from calibadv_algo.training.presets import ATLAS_TINY, PRESETS
from calibadv_algo.training.resumption import Change, changed_settings, noted, refuse_other_run
from calibadv_env.common.files import write_text
from calibadv_env.errors import RetrieverError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.learner.ranks import Ranks
    from calibadv_algo.rollout.engines.base import GenerationEngine
    from calibadv_algo.training.shared_evaluation import SharedEvaluation
    from calibadv_algo.training.trainer import TrainResult

PUBLISHED: Final = "published"
"""Name of the preset that stands for a baseline's own settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainNames:
    """Flags of `calibadv train` that name settings."""

    preset: str = "atlas-tiny"
    """Named settings that the flags below change; `calibadv list presets`. With a baseline,
    "published" stands for its own."""
    arm: str | None = None
    """Algorithm: sets advantage, credit and think tag; `calibadv list arms`. CalibAdv if neither
    an arm nor a baseline is named."""
    baseline: str | None = None
    """A published system, or a variant of one, in place of an arm; `calibadv list baselines`."""
    engine: EngineName | None = None
    """Engine that samples: hf, vllm, or vllm-server URL; its settings are the flags --engine.*."""
    lora: int | None = None
    """Rank of adapters that learn in place of all weights; more settings are the flags --lora.*."""
    advantage: PartName = None
    """Advantage estimator, by name (`calibadv list advantages`) or as your own module:Class; its
    settings are the flags --advantage.*, and likewise for the parts below."""
    credit: PartName = None
    """Credit; `calibadv list credits`."""
    objective: PartName = None
    """Policy objective; `calibadv list objectives`. Its settings: --optim.objective.*."""
    mismatch: PartName = None
    """Correction for engine and trainer; `calibadv list mismatches`. Its settings:
    --optim.mismatch.*."""
    filter: PartNames = ()
    """Filter of groups; `calibadv list filters`. Repeatable, in order, in place of those of the
    baseline; "none" for none. Settings of the first one: --filter.0.*."""
    shaping: PartNames = ()
    """Shaping of rewards; `calibadv list shapings`. Repeatable, as --filter is."""
    loss_mask: PartNames = ()
    """Mask of trajectories; `calibadv list loss-masks`. Repeatable, as --filter is."""
    part: InnerParts = ()
    """A part inside a part, or anywhere in the settings: credit.base=gold, objective.base=gspo,
    rollout.trees=tree-search. Repeatable."""

    def settings(self) -> TrainConfig:
        """The settings that the names stand for, a draft that other flags are read onto.

        Raises:
            ValueError: if a name is not known or names contradict each other.
            ImportError: if the module of a part cannot be imported.
        """
        config = train_config(self.preset, self.arm, self.baseline, self.engine, self.lora)
        kinds = {kind: getattr(self, kind.replace("-", "_")) for kind in KINDS}
        return with_parts(config, chosen_parts(kinds, self.part))


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(TrainNames, NamedSettings):
    """Train a policy in a search environment; goes on from its last checkpoint if there is one.

    --preset names all settings. --arm, or --baseline in its place, puts an algorithm on them;
    --advantage, --credit and so on replace parts of that; any other flag changes a single setting.
    calibadv list has all names.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ATLAS_TINY
    )
    """All settings of the run."""
    dry_run: str | None = None
    """Say what the run would load, do and need on these accelerators (8xh100, rtx4090, or cpu), as
    `calibadv plan` computes it, and end; nothing is loaded, downloaded or written."""

    @classmethod
    def named(cls, arguments: Sequence[str]) -> Self:
        """The command with the settings that its arguments name."""
        names = read_some(TrainNames, arguments, "train")
        config = names.settings()
        # Left out are repeatable flags: what stands in the default would be given twice.
        values = {each.name: getattr(names, each.name) for each in fields(names)}
        given = {name: value for name, value in values.items() if not isinstance(value, tuple)}
        if config.lora is not None:
            given["lora"] = config.lora.rank
        return cls(**given, config=config)

    def run(self) -> int:
        """Trains and says where the policy is, or what training would need."""
        if self.dry_run is not None:
            from calibadv_algo.cli.dry_run import dry_run_lines, read_hardware

            for line in dry_run_lines(self.config, read_hardware(self.dry_run)):
                Console(highlight=False).print(line, markup=False, soft_wrap=True)
            return 0
        with stop_on_interrupt() as stop:
            result = run_training(self.config, stop=stop)
        if int(os.environ.get("RANK", "0")) > 0:
            return 0
        if result.num_updates < self.config.optim.num_updates:
            say(
                f"stopped after {result.num_updates} of {self.config.optim.num_updates} updates; "
                f"the checkpoint is in {result.policy_dir.parent}. The same command resumes "
                "from there"
            )
            return 130
        Console(highlight=False).print(
            f"{result.num_updates} updates done; the policy is in {result.policy_dir}",
            markup=False,
            soft_wrap=True,
        )
        return 0


def train_config(
    preset: str,
    arm: str | None = None,
    baseline: str | None = None,
    engine: str | None = None,
    lora: int | None = None,
) -> TrainConfig:
    """The settings that names stand for, before flags change them; CalibAdv if nothing is named.

    Args:
        preset: A preset; "published" for the baseline's own settings.
        arm: An arm, or None.
        baseline: A baseline, or None.
        engine: An engine, as :func:`~calibadv_algo.rollout.engines.making.find_engine` reads it.
        lora: Rank of adapters.

    Raises:
        ValueError: if a name is not known, both an arm and a baseline are given, or
            "published" without a baseline.
    """
    config = _algorithm(preset, arm, baseline)
    if engine is not None:
        config = replace(config, engine=find_engine(engine))
    if lora is not None:
        config = replace(config, lora=Lora(rank=lora))
    return config


def _algorithm(preset: str, arm: str | None, baseline: str | None) -> TrainConfig:
    if baseline is not None:
        if arm is not None:
            raise ValueError(f"give either an arm or a baseline, got {arm!r} and {baseline!r}")
        found = find_baseline(baseline)
        return found.published if preset == PUBLISHED else found.apply(_preset(preset))
    return find_arm(arm or "calibadv").apply(_preset(preset))


def train_baseline(baseline: Baseline) -> None:
    """Trains a system on the atlas, or as the flags of the process say: its own file runs this."""
    config = tyro.cli(
        TrainConfig,
        default=baseline.apply(ATLAS_TINY),
        description=f"{baseline.description} ({baseline.source})",
        config=CONFIG,
    )
    run_training(config)


def _preset(name: str) -> TrainConfig:
    """Settings by name."""
    if name == PUBLISHED:
        raise ValueError(f"preset {PUBLISHED!r} needs a baseline whose settings it stands for")
    found: TrainConfig = one_of(PRESETS, name)
    return found


def run_training(
    config: TrainConfig,
    shared_dir: Path | None = None,
    final: FinalScores | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Joins environment, engine and algorithm, and trains.

    Args:
        config: The settings.
        shared_dir: Folder in which runs that begin alike share their first evaluation.
        final: Held-out questions that the last policy answers, once; None for none.
        stop: Asked after every update; true saves a checkpoint and ends the run early.

    Raises:
        ValueError: if the model or the environment is not there, or the settings do not fit.
        CheckpointError: if the output folder holds another run.
        InUseError: naming the process, if another run writes into the folder.
        StrictError: if the settings are strict and the run teaches nothing.
    """
    from calibadv_algo.learner.ranks import make_ranks
    from calibadv_algo.training.run_folder import held

    ranks = make_ranks()
    with held(config.output_dir, ranks):
        may_stop = stop if ranks.world_size == 1 else _never
        return _run_training(config, ranks, shared_dir, final, may_stop)


def _never() -> bool:
    """Several processes would have to stop at the same update."""
    return False


def _run_training(
    config: TrainConfig,
    ranks: Ranks,
    shared_dir: Path | None,
    final: FinalScores | None,
    stop: Callable[[], bool],
) -> TrainResult:
    """The training of :func:`run_training` in a folder that nobody else writes into."""
    from calibadv_algo.learner.ranks import on_main
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import count_tasks, make_eval_player, make_player
    from calibadv_algo.training.trainer import Trainer

    model, tokenizer = _load(config)
    if ranks.is_main:
        _warn_of_thoughts(config, tokenizer)
    num_train, num_eval = num_slots(config, model, ranks.world_size)
    max_slots = max(num_train, num_eval)
    facts = _facts(config, max_slots)
    on_main(ranks, lambda: _write_provenance(config, facts))
    slots = make_slots(config.env.env_id, num_train, config.env.kwargs())
    engine = _make_engine(config, model, tokenizer, max_slots)
    player = make_player(
        config,
        slots,
        engine,
        tokenizer,
        stop=config.env.stop_strings(config.env.prompt),
        retry_on=(RetrieverError, OSError),
    )
    eval_player = None
    if config.evaluation.every:
        eval_kwargs = config.env.kwargs(config.evaluation.split)
        eval_slots = make_slots(config.env.env_id, num_eval, eval_kwargs)
        eval_player = make_eval_player(config, player, eval_slots)
    shared = _shared_evaluation(config, model, tokenizer, facts, shared_dir)
    trainer = Trainer(
        config,
        model=model,
        player=player,
        eval_player=eval_player,
        ranks=ranks,
        shared_evaluation=shared,
    )
    try:
        warned = Warned(config)
        if eval_player is not None:
            warned.look_at_split(count_tasks(eval_player.slots))
        start = None if final is None else play_start(config, final, player, trainer, ranks, shared)
        result = trainer.train(on_update=warned.look, stop=stop)
        is_over = result.num_updates >= config.optim.num_updates
        if final is not None and start is not None and is_over:
            write_final(config, final, player, trainer, ranks, start)
        return result
    finally:
        slots.close()
        if eval_player is not None:
            eval_player.slots.close()
        _close(engine)
        ranks.close()


def _load(config: TrainConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The starting policy: whole, with new adapters, or with its own that learns on."""
    if config.lora is None:
        return load_policy(config.model)
    model, tokenizer = load_policy(config.model, adapter=config.lora.on_adapter)
    if config.lora.on_adapter == "stack":
        model = add_lora(model, config.lora, seed=config.seed)
    return model, tokenizer


def _close(engine: GenerationEngine) -> None:
    """Ends an engine that holds processes or connections; others have nothing to close."""
    close = getattr(engine, "close", None)
    if close is not None:
        close()


def _warn_of_thoughts(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Says so where the chat template would strip thoughts that the run keeps."""
    if config.prompt_style == "chat":
        settings, rollout = parse_settings(config.chat_template_kwargs), config.rollout
        warn_of_thoughts(tokenizer, settings, rollout.observations, rollout.earlier_thoughts)


def num_slots(config: TrainConfig, model: PreTrainedModel, world_size: int = 1) -> tuple[int, int]:
    """Slots of the training episodes and of an evaluation's, on each of so many processes."""
    from calibadv_algo.rollout.sizing import choose_num_slots

    rollout = config.rollout
    if rollout.num_slots:
        return rollout.num_slots, rollout.num_slots
    counts = (
        rollout.num_questions * rollout.group_size,
        config.evaluation.episodes if config.evaluation.every else 1,
    )
    shares = [-(-count // world_size) for count in counts]
    fitting = choose_num_slots(model, rollout.max_context, max(shares))
    return min(shares[0], fitting), min(shares[1], fitting)


def _make_engine(
    config: TrainConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_slots: int,
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
        max_slots=max_slots,
        max_context=rollout.max_context,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
    )


def _shared_evaluation(
    config: TrainConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
    shared_dir: Path | None,
) -> SharedEvaluation | None:
    """The first evaluation as runs that begin alike share it; None where nothing is shared."""
    import torch

    from calibadv_algo.training.shared_evaluation import SharedEvaluation, evaluation_key

    if shared_dir is None or not config.evaluation.every:
        return None
    machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "device": model.device.type}
    counted = {name: value for name, value in facts.items() if name != "num_slots"} | machine
    return SharedEvaluation(shared_dir, evaluation_key(config, model, tokenizer, counted))


def _facts(config: TrainConfig, slots: int) -> dict[str, Any]:
    """Code and data that results come from, and the number of slots."""
    import torch

    return {
        "git_commit": git_commit(),
        "data_sha256": data_sha256(config.env),
        "search_server": server_identity(config.env),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "num_slots": slots,
    }


def _write_provenance(config: TrainConfig, facts: Mapping[str, Any]) -> None:
    """Writes beside the results which code and data they come from, and the number of slots.

    A start with other facts than the last one is noted under ``resumed_by``; the first ones stay.
    Changed settings that the run goes on with are said.

    Raises:
        CheckpointError: if the folder holds another run, or the search server has another index;
            the folder is left as it is.
    """
    from calibadv_algo.training.run_folder import read_settings

    found = read_settings(config.output_dir)
    if found is not None:
        changes = changed_settings(found["config"], config)
        refuse_other_run(config.output_dir, changes)
        _say_changes(changes)
    path = config.output_dir / "provenance.json"
    record: dict[str, Any] = dict(facts)
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        refuse_other_index(config.output_dir, record, facts["search_server"])
        later = record.get("resumed_by", [])
        if facts != (later[-1] if later else record):
            record["resumed_by"] = [*later, facts]
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _say_changes(changes: Sequence[Change]) -> None:
    """Says on the standard error stream what an earlier part of the run did not have."""
    names = noted(changes)
    for each in changes:
        if each.name in names:
            end = "; last bits may differ, the rest does not" if each.effect == "last bits" else ""
            text = f"the run goes on with another setting: {each}{end}"
            Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
