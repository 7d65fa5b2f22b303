"""The measurement of credit that `calibadv compare --credit` attaches to a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from calibadv_algo.cli.credit import Credit, NamedPolicy, checkpoints_of
from calibadv_algo.cli.policies import LocalPolicy
from calibadv_algo.experiments.compare import CompareConfig
from calibadv_algo.report.attached import CREDIT_FOLDER, CREDIT_LINK, credit_table
from calibadv_algo.report.tables import rich_table
from calibadv_algo.rollout.engines.config import VllmEngineConfig, VllmServerEngineConfig
from calibadv_algo.training.config import TrainConfig

if TYPE_CHECKING:
    from calibadv_algo.experiments.truth.candidates import Field

_DEFAULT_GROUP: Final = 8


def measure_comparison(config: CompareConfig, console: Console) -> None:
    """Measures the warm start and the last policy of every arm, of the first seed.

    The arms themselves are held against the truth, and CalibAdv by its labels. The results lie in
    the folder `credit` of the comparison; called again, it goes on where it was.

    Raises:
        InUseError: naming the process, if another one writes into the folder.
        ValueError: if a run has no checkpoint, or its states can neither be cloned nor replayed.
        TruthLogError: if the folder holds another measurement.
    """
    train, folder = config.train, config.output_dir / CREDIT_FOLDER
    group_size = train.rollout.group_size
    credit = Credit(
        env=train.env,
        temperature=train.rollout.temperature,
        top_p=train.rollout.top_p,
        max_tokens=train.rollout.max_tokens,
        max_context=train.rollout.max_context,
        chat_template=train.prompt_style == "chat",
        chat_template_kwargs=train.chat_template_kwargs,
        observations=train.rollout.observations,
        earlier_thoughts=train.rollout.earlier_thoughts,
        questions=config.credit_questions,
        group_size=group_size if group_size >= 2 else _DEFAULT_GROUP,
        output=folder,
    )
    policies = _policies(config, folder)
    console.print(f"credit: {', '.join(label for label, _, _ in policies)}")
    # The tables of every policy would hide the comparison's; one table of them all stands for them.
    credit.measure_all(policies, _candidates(config), Console(quiet=True))
    table = credit_table(config.output_dir)
    if table is not None:
        console.print(rich_table(table))
    console.print(f"wrote {config.output_dir / CREDIT_LINK}", markup=False, soft_wrap=True)


def _policies(config: CompareConfig, folder: Path) -> list[NamedPolicy]:
    """The warm start and the arms' last policies, each with a folder that names its update."""
    engine = engine_name(config.train)
    start = LocalPolicy(model=config.train.model, engine=engine)
    named: list[NamedPolicy] = [("warm start", start, folder / "warm-start")]
    seed = config.seeds[0]
    for arm in config.algorithms:
        run = f"{arm}-seed{seed}"
        update, policy = checkpoints_of(config.output_dir / "runs" / run)[-1]
        last = LocalPolicy(model=str(policy), engine=engine)
        named.append((arm, last, folder / f"{run}-update_{update:06d}"))
    return named


def _candidates(config: CompareConfig) -> Field:
    """CalibAdv by its labels, and what the arms of the comparison are made of."""
    from calibadv_algo.experiments.truth.candidates import chosen

    runs = {name: arm.apply(config.train) for name, arm in config.algorithms.items()}
    return chosen(runs)


def engine_name(train: TrainConfig) -> str:
    """The engine of a run's settings as `calibadv credit` names it."""
    if isinstance(train.engine, VllmServerEngineConfig):
        return f"vllm-server={train.engine.url}"
    return "vllm" if isinstance(train.engine, VllmEngineConfig) else "hf"
