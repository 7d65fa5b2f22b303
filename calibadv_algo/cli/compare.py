"""`calibadv compare`: the main job. Arms times seeds, a table, curves and a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from calibadv_algo.cli.provenance import (
    coverage_facts,
    data_sha256,
    git_commit,
    warm_start_facts,
)
from calibadv_algo.cli.train import run_training
from calibadv_algo.experiments.compare import (
    CompareConfig,
    Job,
    check_output_dir,
    commit_facts,
    last_metrics,
    plan_jobs,
    recorded_wall_time_s,
    run_jobs,
    write_comparison,
)
from calibadv_algo.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Train every arm with every seed from one warm start, and compare."""

    preset: str = "quick"
    """quick: GRPO and CalibAdv, 2 seeds; full: every arm, 5 seeds; smoke: a trial of a minute."""
    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    """What is compared."""

    def run(self) -> int:
        """Trains, then writes table, curves and page into the output folder."""
        run_comparison(self.config, Console(highlight=False))
        return 0


def run_comparison(config: CompareConfig, console: Console) -> None:
    """Runs arms and seeds, then writes table, curves and page.

    Args:
        config: Arms, seeds, settings and the output folder.
        console: Where progress and tables are printed.

    Raises:
        ValueError: if the folder holds another comparison.
    """
    check_output_dir(config)
    facts = commit_facts(config.output_dir, git_commit()) | {
        "data_sha256": data_sha256(config.train.env),
        "coverage": coverage_facts(config.train.env, config.train.evaluation.split),
        "warm_start": warm_start_facts(config.train.model),
    }
    earlier = recorded_wall_time_s(config.output_dir)
    write_comparison(config, facts, earlier)
    started = time.monotonic()
    jobs = plan_jobs(config)
    console.print(
        f"{len(jobs)} runs: {', '.join(config.arms)}; seeds {', '.join(map(str, config.seeds))}"
    )
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            run_jobs(
                jobs,
                _train_quietly,
                config.num_workers,
                lambda running: live.update(_progress_table(jobs, running, started)),
            )
    finally:
        wall_time_s = round((earlier or 0.0) + time.monotonic() - started, 1)
        write_comparison(config, facts, wall_time_s)
    write_results(config.output_dir, console)


def write_results(comparison_dir: Path, console: Console) -> None:
    """Writes table, curves, summary and page from the files of the runs, and prints the table."""
    from calibadv_algo.report.curves import write_curves
    from calibadv_algo.report.page import write_report
    from calibadv_algo.report.reading import read_comparison
    from calibadv_algo.report.summary import summarise, write_summary
    from calibadv_algo.report.tables import all_tables, markdown_table, rich_table

    tables = all_tables(summarise(read_comparison(comparison_dir)))
    for table in tables:
        console.print(rich_table(table))
    text = "\n\n".join(markdown_table(table) for table in tables) + "\n"
    (comparison_dir / "table.md").write_text(text, encoding="utf-8")
    written = [
        write_curves(comparison_dir),
        write_summary(comparison_dir),
        write_report(comparison_dir),
    ]
    for path in (comparison_dir / "table.md", *written):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _train_quietly(config: TrainConfig) -> None:
    run_training(config)


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
