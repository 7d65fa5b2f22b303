"""Training, evaluation and measured credit as functions: `calibadv.train`, `evaluate`, `credit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv_algo.cli.training_extra import need_training
from calibadv_algo.experiments.compare import ArmLike, as_algorithm
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.presets import ATLAS_TINY

if TYPE_CHECKING:
    from calibadv_algo.report.credit import CreditSource
    from calibadv_algo.training.evaluation import EvalResult
    from calibadv_algo.training.trainer import TrainResult


def train(
    method: ArmLike = "calibadv",
    *,
    settings: TrainConfig = ATLAS_TINY,
    output_dir: Path | str | None = None,
    seed: int | None = None,
) -> TrainResult:
    """Trains a policy by a method, and resumes from the last checkpoint in the folder.

    Args:
        method: As in :func:`~calibadv_algo.cli.compare.compare`: a name, an advantage estimator,
            or a function that changes settings.
        settings: All settings of the run; the method replaces those of its algorithm.
        output_dir: Folder of the run; None means that of the settings.
        seed: Seed of the run; None means that of the settings.

    Raises:
        MissingDependencyError: if the extra `train` is not installed.
        ValueError: if the method is not known, or the settings do not fit.
        CheckpointError: if the folder holds another run.
    """
    need_training("calibadv.train")
    from calibadv_algo.cli.train import run_training

    config = as_algorithm(method).apply(settings)
    given: dict[str, Any] = {"output_dir": output_dir and Path(output_dir), "seed": seed}
    return run_training(replace(config, **{k: v for k, v in given.items() if v is not None}))


def evaluate(
    policy: Path | str = "atlas-tiny",
    *,
    dataset: str = "atlas",
    split: str = "eval",
    episodes: int = 1000,
    env: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Plays questions of a split greedily, each once.

    Args:
        policy: A shipped policy's name, a path, or a name on the hub.
        dataset: The questions and their corpus.
        split: Split of it; "eval" means test, else dev, else train.
        episodes: Questions at most, the first ones of a fixed shuffle.
        env: More settings of the environment, by name: ``{"top_k": 5}``.

    Returns:
        One record a question; `calibadv_algo.training.evaluation.summarize` averages them.

    Raises:
        MissingDependencyError: if the extra `train` is not installed.
        ValueError: if there is no such policy, dataset or split.
    """
    need_training("calibadv.evaluate")
    from calibadv_algo.cli.evaluate import evaluate_split
    from calibadv_algo.cli.policies import EvalEnv
    from calibadv_algo.cli.policy_flags import PolicyFlags

    chosen = EvalEnv(dataset=dataset, split=split, **(env or {}))
    flags = PolicyFlags(policy=str(policy), env=chosen)
    source = flags.source()
    return evaluate_split(source, flags.settled(source), episodes=episodes)


def credit(
    policy: Path | str = "atlas-tiny",
    *,
    dataset: str = "atlas",
    questions: int = 48,
    group_size: int = 8,
    continuations: int = 16,
    output_dir: Path | str = "runs/credit",
) -> CreditSource:
    """Measures what every turn of a policy was worth, and holds every estimator against it.

    Args:
        policy: A shipped policy's name, a path, or a name on the hub.
        dataset: The questions and their corpus; the training split is taken.
        questions: Questions, the first ones of a fixed shuffle.
        group_size: Episodes of each question.
        continuations: Continuations of each state, on average.
        output_dir: Folder of the measurement, which is resumed if it is there.

    Raises:
        MissingDependencyError: if the extra `train` is not installed.
        ValueError: if there is no such policy or dataset.
        TruthLogError: if the folder holds another measurement.
    """
    need_training("calibadv.credit")
    from calibadv_algo.cli.credit import Credit
    from calibadv_algo.cli.policies import EvalEnv

    return Credit(
        policy=str(policy),
        env=EvalEnv(dataset=dataset, split="train"),
        questions=questions,
        group_size=group_size,
        continuations=continuations,
        output=Path(output_dir),
    ).measured()
