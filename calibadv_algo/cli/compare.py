"""`calibadv compare`: the main job. Arms times seeds, a table, curves and a page."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from calibadv_algo.cli.final import FinalScores, final_split
from calibadv_algo.cli.flags import InnerParts, NamedSettings, chosen_parts, one_of, read_some
from calibadv_algo.cli.live import LiveReport
from calibadv_algo.cli.provenance import (
    coverage_facts,
    data_sha256,
    git_commit,
    warm_start_facts,
)
from calibadv_algo.cli.train import run_training
from calibadv_algo.cli.training_extra import need_training
from calibadv_algo.experiments.compare import (
    COMPARE_PRESETS,
    ArmLike,
    CompareConfig,
    as_algorithm,
    check_output_dir,
    commit_facts,
    is_finished,
    last_metrics,
    plan_jobs,
    recorded_wall_time_s,
    with_plan,
    write_comparison,
)
from calibadv_algo.experiments.design import Design
from calibadv_algo.experiments.jobs import Job, Launcher, check_importable, run_jobs
from calibadv_algo.experiments.launching import LauncherName, make_launcher
from calibadv_algo.report.reading import FINAL_FILE
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.parts import with_parts
from calibadv_algo.training.presets import ATLAS_TINY
from calibadv_env.common.files import sweep_files, write_text
from calibadv_env.common.locks import hold_folder

if TYPE_CHECKING:
    from calibadv_algo.report.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareNames:
    """Flags of `calibadv compare` that name settings."""

    preset: str = "quick"
    """quick: GRPO and CalibAdv, 2 seeds; full: every arm, 5 seeds; falsify: the planned test of the
    paper's claim, 30 seeds with controls, hours; pages: GRPO and CalibAdv on pages, from the policy
    that `calibadv warmstart` makes (docs/pages.md); smoke: a trial of a minute."""
    plan: str | None = None
    """A plan file (TOML: arms, seeds and the settings under --design.*), hashed into
    comparison.json before the first run; flags change what it says."""
    part: InnerParts = ()
    """A part of the settings that all runs share: train.optim.objective=gspo. Repeatable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare(CompareNames, NamedSettings):
    """Train every arm with every seed from one warm start, and compare."""

    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    """Settings of the comparison."""

    @classmethod
    def in_full(cls, arguments: Sequence[str]) -> list[str]:
        """The arguments with the flags of `calibadv train` as they are called here."""
        return [shared_flag(each) for each in arguments]

    @classmethod
    def named(cls, arguments: Sequence[str]) -> Self:
        """The command with the settings that its arguments name."""
        names = read_some(CompareNames, arguments, "compare")
        config = with_parts(one_of(COMPARE_PRESETS, names.preset), chosen_parts({}, names.part))
        if names.plan is not None:
            config = with_plan(config, Path(names.plan))
        return cls(preset=names.preset, plan=names.plan, config=config)

    def run(self) -> int:
        """Trains, then writes table, curves and page into the output folder."""
        run_comparison(self.config, Console(highlight=False))
        return 0


_OWN_OF_RUNS = frozenset({"seed", "output_dir", "quiet"})
"""Settings of a run that a comparison sets itself."""


def shared_flag(argument: str) -> str:
    """A flag of `calibadv train` as one of all runs: ``--optim.lr`` is ``--train.optim.lr``.

    Other arguments stay what they are, and so do flags that a comparison has itself.
    """
    match = re.match(r"--(no-)?([a-z][\w-]*)", argument)
    if match is None:
        return argument
    head = match[2].replace("-", "_")
    runs = {each.name for each in fields(TrainConfig)} - _OWN_OF_RUNS
    own = {each.name for kind in (CompareConfig, CompareNames) for each in fields(kind)}
    if head not in runs - own:
        return argument
    return f"--train.{argument[2:]}"


def compare(
    arms: Mapping[str, ArmLike] | Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1),
    train: TrainConfig = ATLAS_TINY,
    output_dir: Path | str = "runs/compare",
    num_workers: int = 0,
    credit: bool = False,
    design: Design | None = None,
    launcher: LauncherName = "local",
    launcher_options: Sequence[str] = (),
) -> Summary:
    """Trains every arm with every seed from one warm start, and compares them.

    Runs are processes of their own, which import again what defines an arm: a script that calls
    this does so under ``if __name__ == "__main__":``. A comparison that was interrupted goes on
    where it was when it is called again. Table, curves and page are written into the folder.

    Args:
        arms: By name an arm or baseline, the name of one, an advantage estimator, or a function
            that changes settings; or just names of arms and baselines. The first one is what the
            others are compared with, unless one is called "grpo".
        seeds: One run of every arm for each.
        train: Settings that all runs share.
        output_dir: Folder of the runs and of the report.
        num_workers: Runs at a time; 0 means one a core.
        credit: If true, credit is measured afterwards, as with `calibadv compare --credit`.
        design: What is asked and how it is judged; None for the defaults.
        launcher: Where the runs take place.
        launcher_options: Settings of submitit or Ray, each NAME=VALUE.

    Returns:
        Scores of the arms with their intervals, and differences.

    Raises:
        ValueError: if a name is not known, or nothing is compared.
        ComparisonError: if a run failed, the folder holds another comparison, or an arm is made
            of something that other processes cannot import.
    """
    need_training("calibadv.compare")
    own = dict(arms) if isinstance(arms, Mapping) else {}
    config = CompareConfig(
        arms=tuple(arms),
        seeds=tuple(seeds),
        output_dir=Path(output_dir),
        num_workers=num_workers,
        credit=credit,
        design=design or Design(),
        launcher=launcher,
        launcher_options=tuple(launcher_options),
        train=train,
        own={name: as_algorithm(arm) for name, arm in own.items()},
    )
    return run_comparison(config, Console(highlight=False))


def run_comparison(config: CompareConfig, console: Console) -> Summary:
    """Runs arms and seeds, then writes table, curves and page; progress and tables are printed.

    Raises:
        InUseError: naming the process, if another one writes into the folder.
        ComparisonError: if a run failed, the folder holds another comparison, or an arm is made
            of something that other processes cannot import.
    """
    check_importable(plan_jobs(config))
    config.design.require_methods(list(config.algorithms))
    split = final_split(config.train, config.design.split)
    config = replace(config, design=replace(config.design, split=split))
    with hold_folder(config.output_dir):
        return _run_comparison(config, console)


def _run_comparison(config: CompareConfig, console: Console) -> Summary:
    sweep_files(config.output_dir)
    check_output_dir(config)
    shared = config.output_dir / "shared"
    with hold_folder(shared):  # a killed run's lock goes with this one
        sweep_files(shared)
    facts = commit_facts(config.output_dir, git_commit()) | {
        "data_sha256": data_sha256(config.train.env),
        "coverage": coverage_facts(config.train.env, config.train.evaluation.split),
        "warm_start": warm_start_facts(config.train.model),
    }
    earlier = recorded_wall_time_s(config.output_dir)
    launcher = make_launcher(
        config.launcher,
        config.launcher_options,
        config.output_dir / "launched",
        config.num_workers,
    )
    started = time.monotonic()
    for look in range(1, config.design.num_looks + 1):
        config = replace(config, seeds=config.seeds_of_look(look))
        write_comparison(config, facts, earlier)
        try:
            _run_look(config, launcher, console, started)
        finally:
            wall_time_s = round((earlier or 0.0) + time.monotonic() - started, 1)
            write_comparison(config, facts, wall_time_s)
        if config.design.until_decided and _is_decided(config, look, console):
            break
    if config.credit:
        from calibadv_algo.cli.compare_credit import measure_comparison

        measure_comparison(config, console)
    return write_results(config.output_dir, console)


def _run_look(config: CompareConfig, launcher: Launcher, console: Console, started: float) -> None:
    """Runs what is not finished of the methods and seeds of a look."""
    jobs = plan_jobs(config)
    waiting = [job for job in jobs if not is_finished(job, FINAL_FILE)]
    design = config.design
    final = FinalScores(split=design.split, questions=design.questions)
    seeds = ", ".join(map(str, config.seeds))
    console.print(
        f"{len(jobs)} runs: {', '.join(config.algorithms)}; seeds {seeds}"
        + ("" if len(waiting) == len(jobs) else f"; {len(jobs) - len(waiting)} are finished")
    )
    page = LiveReport(config.output_dir)
    with Live(console=console, refresh_per_second=2, transient=True) as live:

        def look(running: Sequence[Job]) -> None:
            live.update(_progress_table(jobs, running, started))
            page.look()

        try:
            run_jobs(
                waiting,
                partial(run_training, shared_dir=config.output_dir / "shared", final=final),
                launcher,
                look,
            )
        except BaseException:
            page.stop()
            raise


def _is_decided(config: CompareConfig, look: int, console: Console) -> bool:
    """Judges a look at the results and says what came of it."""
    from calibadv_algo.report.judging import judge_comparison
    from calibadv_algo.report.reading import read_comparison

    judgement = judge_comparison(read_comparison(config.output_dir))
    words = "; ".join(f"{name}: {each.word}" for name, each in judgement.verdicts.items())
    console.print(f"look {look} of at most {judgement.num_looks}: {words}", markup=False)
    return judgement.is_decided


def write_results(comparison_dir: Path, console: Console) -> Summary:
    """Writes table, curves, summary and page from the files of the runs, and prints the table.

    Raises:
        ReportError: if the folder is incomplete or a file cannot be read.
    """
    from calibadv_algo.report.curves import write_curves
    from calibadv_algo.report.page import write_report
    from calibadv_algo.report.reading import read_comparison
    from calibadv_algo.report.summary import summarise, write_summary
    from calibadv_algo.report.tables import markdown_table, rich_table
    from calibadv_algo.report.verdict_tables import all_tables, statements

    summary = summarise(read_comparison(comparison_dir))
    tables = all_tables(summary)
    for sentence in statements(summary):
        console.print(sentence, markup=False)
    for table in tables:
        console.print(rich_table(table))
    text = "\n\n".join([*statements(summary), *map(markdown_table, tables)]) + "\n"
    write_text(comparison_dir / "table.md", text)
    written = [
        write_curves(comparison_dir),
        write_summary(comparison_dir),
        write_report(comparison_dir),
    ]
    for path in (comparison_dir / "table.md", *written):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    return summary


def _progress_table(jobs: Sequence[Job], running: Sequence[Job], started: float) -> Table:
    """One line a run: how far it is and what its newest metrics are."""
    names = {job.name for job in running}
    columns = ("reward_mean", "searches_mean", "entropy", "mispenalized_share", "eval_f1")
    table = Table("run", "update", *columns, title=f"{time.monotonic() - started:.0f} s", box=None)
    for job in jobs:
        metrics = last_metrics(job.config.output_dir)
        update = f"{metrics.get('update', 0)}/{job.config.optim.num_updates}" if metrics else "-"
        values = [f"{metrics[name]:.3f}" if name in metrics else "" for name in columns]
        table.add_row(job.name, update, *values, style="" if job.name in names else "dim")
    return table
