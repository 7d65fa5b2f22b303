"""`calibadv eval`: scores of a policy on one split of one dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibadv_algo.cli.policies import PlaySettings, Policy
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.cli.provenance import coverage_facts
from calibadv_algo.cli.run_files import write_run_files
from calibadv_algo.cli.warned import warn
from calibadv_algo.training.warnings import small_split
from calibadv_env.common.checks import POSITIVE

if TYPE_CHECKING:
    from calibadv_algo.training.evaluation import EvalResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval(PolicyFlags):
    """Evaluate a policy on one split of one dataset: exact match, F1, cover EM, searches, tokens.

    With --suite whole evaluation splits of several datasets are played instead, recorded and
    summed up; see calibadv eval --suite --help.
    """

    episodes: Annotated[int, POSITIVE] = 1000
    """Tasks, the first ones of a fixed shuffle of the split."""
    output: Path | None = None
    """File for one line of JSON a question; one that is there already gives way."""
    run_files: Path | None = None
    """Folder for run files in BrowseComp-Plus's form, one a question, and run.trec, a TREC run of
    the documents in the order in which they were shown."""

    def run(self) -> int:
        """Evaluates and prints a table."""
        from calibadv_algo.experiments.suite.scores import CALIBRATION, KNOWN_MEASURES, score_part
        from calibadv_algo.report.shares import NOTHING
        from calibadv_algo.training.evaluation import summarize, write_records

        policy = self.source()
        play = self.settled(policy)
        result = evaluate_split(policy, play, episodes=self.episodes)
        if self.output is not None:
            write_records(self.output, result.records)
        if self.run_files is not None:
            write_run_files(self.run_files, result.trajectories, policy.label)
        split = result.records[0].split
        title = f"{policy.label} on {play.env.dataset} {split}"
        table = Table("metric", "mean", "95 % interval", title=Text(title))
        intervals = score_part(title, result.records, 1).means
        for name, value in summarize(result.records).items():
            if name in KNOWN_MEASURES:
                continue
            interval = intervals.get(name)
            shown = "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"
            table.add_row(name, f"{value:.3f}", shown)
        for name in (*KNOWN_MEASURES, *CALIBRATION):
            if (interval := intervals[name]) is not None:
                shown = f"[{interval.low:.3f}, {interval.high:.3f}]"
                table.add_row(name, f"{interval.estimate:.3f}", shown)
            else:
                table.add_row(name, NOTHING, "")
        table.add_row("questions", str(len(result.records)))
        coverage = coverage_facts(play.env, split)
        for name, value in (coverage or {}).get("coverage", {}).items():
            if isinstance(value, float):
                table.add_row(f"corpus: {name}", f"{value:.3f}")
        if result.num_dropped:
            table.add_row("dropped", str(result.num_dropped))
        Console(highlight=False).print(table)
        few = small_split(split, len(result.records))
        if few:
            warn(few)
        return 0


def evaluate_split(policy: Policy, play: PlaySettings, *, episodes: int) -> EvalResult:
    """Records of the first tasks of a fixed shuffle of a split, one a task; prints nothing.

    Raises:
        ValueError: if there is no such model, environment or split.
    """
    from calibadv_algo.rollout.driver import Player
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import count_tasks
    from calibadv_algo.training.evaluation import eval_task_indices, evaluate

    opened = policy.open(play)
    slots = make_slots(play.env.env_id, play.num_slots, play.env.kwargs())
    try:
        player = Player(
            slots,
            opened.engine,
            opened.tokenizer,
            play.sampling(play.env.prompt),
            play.driver(opened.max_context),
        )
        return evaluate(
            player,
            eval_task_indices(count_tasks(slots), episodes),
            split=play.env.split,
            seed=play.seed,
            count_tokens=opened.count_tokens,
            score_answer=opened.score_answer,
        )
    finally:
        slots.close()
