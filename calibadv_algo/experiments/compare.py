"""Arms times seeds from one warm start, side by side in processes of their own.

Each run is an ordinary training run in a folder of its own. The order of questions depends on the
seed alone, so the arms of a seed see the same questions. A comparison that was interrupted
goes on from the checkpoints of its runs when it is started again with the same settings.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import tyro

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.experiments.arms import ARMS, Arm
from calibadv_algo.experiments.baseline import Algorithm, find_algorithm
from calibadv_algo.experiments.design import CONTROLS, Design, plan_record, read_plan
from calibadv_algo.experiments.jobs import ComparisonError, Job
from calibadv_algo.experiments.launching import LauncherName
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.parts import find_part, first_line, part_name, place_of
from calibadv_algo.training.presets import ATLAS_FAIR, ATLAS_TINY, PAGES_TINY
from calibadv_algo.training.resumption import changed_settings
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.files import write_text

_ARM_NAME: Final = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An arm that is any change of a run's settings.

    Attributes:
        description: One line for tables and help texts.
        apply: Puts the arm on settings.
    """

    description: str
    apply: Callable[[TrainConfig], TrainConfig]


ArmLike = Algorithm | AdvantageEstimator | Callable[[TrainConfig], TrainConfig] | str
"""An arm or a baseline, a name of one, an estimator, or a change of a run's settings."""


def as_algorithm(arm: ArmLike) -> Algorithm:
    """An arm from whatever may stand for one.

    An estimator goes with the credit and the think tag of the shared settings.

    Raises:
        ValueError: if a name is not known.
    """
    if isinstance(arm, str):
        return find_algorithm(arm)
    if isinstance(arm, AdvantageEstimator):
        return Arm(description=first_line(type(arm)), advantage=arm)
    if callable(arm):
        return Change(description=(arm.__doc__ or "").partition("\n")[0], apply=arm)
    return arm


def _comma_separated(kind: type, metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """Reading of a tuple whose items stand apart by spaces or commas, for tyro."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{metavar} [{metavar} ...]]",
        instance_from_str=lambda words: tuple(
            kind(item) for word in words for item in word.split(",") if item
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(item) for item in value],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Checked):
    """Arms, seeds and settings of a comparison."""

    arms: Annotated[tuple[str, ...], _comma_separated(str, "NAME")] = ("grpo", "calibadv")
    """Methods: arms or baselines (`calibadv list arms`, `list baselines`) with spaces or commas, an
    estimator of your own (./mine.py:Mine, my_module:Mine), or one under a name: loo=rloo."""
    seeds: Annotated[tuple[int, ...], _comma_separated(int, "INT")] = (0, 1)
    """One run of every arm for each seed."""
    output_dir: Path = Path("runs/compare")
    """Folder of the runs and of the report."""
    num_workers: Annotated[int, NOT_NEGATIVE] = 0
    """Runs at a time; 0 means one a core, and all at once on a cluster."""
    launcher: LauncherName = "local"
    """Where the runs take place: processes of this machine, submitit (SLURM) or ray."""
    launcher_options: tuple[str, ...] = ()
    """Settings of submitit or Ray, each NAME=VALUE: slurm_partition=gpu, address=auto."""
    design: Design = field(default_factory=Design)
    """What is asked, and how it is judged; written down before the first run."""
    controls: bool = False
    """If true, three methods whose outcome is known take part too: vine must win (it takes many
    times the episodes), flipped-searches must lose, grpo-again must not differ."""
    credit: bool = False
    """If true, the credit of the warm start and of each arm's last policy (first seed) is measured
    after the runs, and the report has a table of it: see `calibadv credit`."""
    credit_questions: Annotated[int, POSITIVE] = 16
    """Questions of that measurement."""
    train: TrainConfig = field(default_factory=lambda: ATLAS_TINY)
    """Settings that all runs share; arms and seeds replace parts of them."""
    own: Annotated[Mapping[str, Algorithm], tyro.conf.Suppress] = field(default_factory=dict)
    """Arms that are registered nowhere, by name; they come before registered ones."""

    def __post_init__(self) -> None:
        """Checks names and numbers."""
        Checked.__post_init__(self)
        names = [self._named(arm)[0] for arm in self.arms]
        for name, values in (("arms", names), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                given = getattr(self, name)
                raise ValueError(f"{name} must be distinct and at least one, got {given}")

    @property
    def algorithms(self) -> dict[str, Algorithm]:
        """Arms by name, in order, controls included.

        Raises:
            ValueError: if one is not known, or its name is no name of a folder.
        """
        named = dict(self._named(arm) for arm in self.arms)
        more = CONTROLS if self.controls else ()
        return named | {name: find_algorithm(name) for name in more if name not in named}

    def seeds_of_look(self, look: int) -> tuple[int, ...]:
        """Seeds of the first so many looks; all of them without a rule that adds seeds."""
        if not self.design.until_decided:
            return self.seeds
        unused = (seed for seed in itertools.count() if seed not in self.seeds)
        ordered = [*self.seeds, *itertools.islice(unused, self.design.most_seeds)]
        return tuple(ordered[: min(look * self.design.block, self.design.most_seeds)])

    def _named(self, arm: str) -> tuple[str, Algorithm]:
        name, equals, estimator = arm.partition("=")
        if ":" in arm and not equals:
            estimator = arm
            equals, name = "=", part_name(find_part(AdvantageEstimator, arm))
        if (equals or name in self.own) and not _ARM_NAME.fullmatch(name):
            raise ValueError(
                f"an arm's name must be made of letters, digits and .+-_, got {name!r}"
            )
        if equals:
            part = find_part(AdvantageEstimator, estimator)
            try:
                return name, as_algorithm(part())
            except TypeError as error:
                raise ValueError(f"settings of {estimator} must have defaults: {error}") from error
        return name, self.own[name] if name in self.own else find_algorithm(name)


COMPARE_PRESETS: Final[dict[str, CompareConfig]] = {
    "quick": CompareConfig(),
    "full": CompareConfig(
        arms=tuple(ARMS), seeds=(0, 1, 2, 3, 4), output_dir=Path("runs/compare-full")
    ),
    "falsify": CompareConfig(
        arms=("grpo", "calibadv", "gold-turns", "flipped-searches", "grpo-again"),
        seeds=tuple(range(30)),
        output_dir=Path("runs/falsify/main"),
        train=ATLAS_FAIR,
        design=Design(
            hypotheses=(
                "CalibAdv ends with a higher F1 than GRPO (its paper: +0.0755).",
                "GRPO with pay for every search that finds gold ends higher than GRPO.",
                "GRPO that punishes good searches ends lower than GRPO.",
                "GRPO with other seeds does not differ from GRPO.",
            ),
            contrasts=("calibadv - grpo",),
            controls=(
                "gold-turns - grpo = higher",
                "flipped-searches - grpo = lower",
                "grpo-again - grpo = same",
            ),
            split="test",
            questions=849,
        ),
    ),
    "pages": CompareConfig(output_dir=Path("runs/compare-pages"), train=PAGES_TINY),
    "smoke": CompareConfig(
        seeds=(0, 1),
        output_dir=Path("runs/compare-smoke"),
        design=Design(questions=20),
        train=replace(
            ATLAS_TINY,
            rollout=replace(ATLAS_TINY.rollout, num_questions=4, group_size=4),
            optim=replace(ATLAS_TINY.optim, num_updates=2),
            evaluation=replace(ATLAS_TINY.evaluation, every=1, episodes=20),
        ),
    ),
}
"""Named comparisons: the main job; every arm with five seeds; the planned test of the paper's claim
with 30 seeds and controls; GRPO and CalibAdv on pages; a minute's trial of the machinery."""


def plan_jobs(config: CompareConfig) -> list[Job]:
    """The runs of a comparison, seeds outermost, so that pairs finish together."""
    jobs = []
    algorithms = config.algorithms
    for seed in config.seeds:
        for arm, algorithm in algorithms.items():
            directory = config.output_dir / "runs" / f"{arm}-seed{seed}"
            train = replace(config.train, seed=seed, output_dir=directory, quiet=True)
            jobs.append(Job(arm, seed, algorithm.apply(train)))
    return jobs


def write_comparison(
    config: CompareConfig, facts: Mapping[str, Any], wall_time_s: float | None
) -> None:
    """Writes ``comparison.json``, atomically.

    Args:
        config: The comparison.
        facts: Whatever else belongs beside the results: commit, data hashes, the warm start.
        wall_time_s: Duration in seconds, None while it runs.

    The plan of the first call stays, whatever later ones would plan: the report says where they
    depart from it.
    """
    path = config.output_dir / "comparison.json"
    before = _read_record(path) if path.exists() else {}
    plan = before.get("plan") or plan_record(
        config.design,
        list(config.algorithms),
        config.seeds_of_look(1),
        [config_to_dict(config.train), _arm_changes(config)],
    )
    record = {
        "plan": plan,
        "arms": list(config.algorithms),
        "arm_descriptions": {name: a.description for name, a in config.algorithms.items()},
        "arm_changes": _arm_changes(config),
        "own_parts": _own_parts(config),
        "seeds": list(config.seeds),
        "config": config_to_dict(config.train),
        "wall_time_s": wall_time_s,
        **facts,
    }
    write_text(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def check_output_dir(config: CompareConfig) -> None:
    """Makes the folder, or makes sure that what is in it is this comparison.

    Raises:
        ComparisonError: if another comparison's results are in it.
    """
    path = config.output_dir / "comparison.json"
    if path.exists():
        record = _read_record(path)
        changes = changed_settings(record.get("config", {}), config.train)
        differences = [str(each) for each in changes if each.effect == "numbers"]
        # Other arms may join a comparison; those of the same name must be the same. Each run looks
        # at the settings that its arm and the shared ones make.
        wanted = json.loads(json.dumps(_arm_changes(config)))
        for name, there in record.get("arm_changes", {}).items():
            if name in wanted:
                differences += _differences(there, wanted[name], name)
        if record.get("plan"):
            design = json.loads(json.dumps(asdict(config.design)))
            planned = {name: record["plan"].get(name) for name in design}
            differences += _differences(planned, design, "design")
        if differences:
            raise ComparisonError(
                f"{config.output_dir} holds a comparison with other settings "
                f"({'; '.join(differences[:3])}); choose another --output-dir, or remove it"
            )
    config.output_dir.mkdir(parents=True, exist_ok=True)


def with_plan(config: CompareConfig, path: Path) -> CompareConfig:
    """A comparison as its plan file says.

    Raises:
        ValueError: if the file cannot be read or holds what is not known.
    """
    plan = read_plan(path)
    return replace(
        config,
        design=plan.design,
        arms=config.arms if plan.arms is None else plan.arms,
        seeds=config.seeds if plan.seeds is None else plan.seeds,
    )


def is_finished(job: Job, final_file: str) -> bool:
    """True if a run came to its last update and has its final scores."""
    directory = job.config.output_dir
    done = last_metrics(directory).get("update", 0)
    return (directory / final_file).exists() and done >= job.config.optim.num_updates


def recorded_wall_time_s(output_dir: Path) -> float | None:
    """Seconds that a comparison has run for so far, None if it is not known to have begun.

    Raises:
        ComparisonError: if the record in the folder cannot be read.
    """
    path = output_dir / "comparison.json"
    wall_time_s = _read_record(path).get("wall_time_s") if path.exists() else None
    return None if wall_time_s is None else float(wall_time_s)


def commit_facts(output_dir: Path, commit: str) -> dict[str, Any]:
    """The commit that a comparison began with, and later ones that went on with it.

    They are facts for :func:`write_comparison`: ``git_commit`` and, if there are any,
    ``later_commits``.

    Raises:
        ComparisonError: if the record in the folder cannot be read.
    """
    path = output_dir / "comparison.json"
    record = _read_record(path) if path.exists() else {}
    first = str(record.get("git_commit") or commit)
    later = list(record.get("later_commits", []))
    if commit != (later[-1] if later else first):
        later.append(commit)
    return {"git_commit": first} | ({"later_commits": later} if later else {})


def _read_record(path: Path) -> dict[str, Any]:
    """The record that `write_comparison` wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComparisonError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise ComparisonError(f"{path}: must hold an object, got {type(record).__name__}")
    return record


def _arm_changes(config: CompareConfig) -> dict[str, Any]:
    """Settings of every arm, as far as they are not those that all runs share."""
    shared = config_to_dict(config.train)
    return {
        name: _changed(shared, config_to_dict(algorithm.apply(config.train)))
        for name, algorithm in config.algorithms.items()
    }


def _own_parts(config: CompareConfig) -> dict[str, str]:
    """Where the estimators and credits that are no part of the library are, by class name."""
    runs = [algorithm.apply(config.train) for algorithm in config.algorithms.values()]
    parts = {type(part) for run in runs for part in (run.advantage, run.credit)}
    return {
        each.__name__: place_of(each)
        for each in parts
        if each.__module__.partition(".")[0] != "calibadv_algo"
    }


def _changed(before: Any, after: Any) -> Any:
    """The part of nested settings that differs; parts of another type are whole."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return after
    if before.get("type") != after.get("type"):
        return after
    return {
        name: _changed(before.get(name), value)
        for name, value in after.items()
        if before.get(name) != value
    }


def _differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    """The settings that differ, as "name: found, not wanted"."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return [] if found == wanted else [f"{place}: {found!r} there, {wanted!r} here"]
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [
        line
        for name in names
        for line in _differences(
            found.get(name), wanted.get(name), f"{place}.{name}" if place else name
        )
    ]


def last_metrics(directory: Path) -> dict[str, Any]:
    """The newest complete line of a run's metrics, {} before the first."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in reversed(lines[-3:]):
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        return record
    return {}
