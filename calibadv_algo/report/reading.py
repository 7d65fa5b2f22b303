"""Reads a comparison directory: what was compared, the metrics, the evaluations.

Trajectories are large and are read one file at a time by ``groups.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.experiments.design import METRICS, Design, departures, design_of

SCORE_NAMES: Final[tuple[str, ...]] = METRICS
"""The numbers of an evaluation row that can be averaged."""

FINAL_FILE: Final[str] = "final.jsonl"
"""Evaluation rows of the final scores, in the folder of a run."""

BASELINE_ARM: Final[str] = "grpo"
"""The arm that the others are compared with, where it took part."""


class ReportError(CalibadvAlgoError):
    """A comparison directory is incomplete or holds a line that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """The result of one question at one update.

    Attributes:
        update: Number of updates behind the policy.
        split: Name of the split.
        task_id: Which question.
        hops: Number of reasoning steps, 0 when unknown.
        em: Exact match, 0 or 1.
        f1: Token F1, 0 to 1.
        cover_em: Cover exact match, 0 or 1.
        num_searches: Searches carried out.
        is_format_valid: True if the whole response is well-formed.
        seed: Seed of the episode's sampling.
        cluster: Questions of one cluster are not independent; "" where that is unknown.
    """

    update: int
    split: str
    task_id: str
    hops: int
    em: float
    f1: float
    cover_em: float
    num_searches: float
    is_format_valid: bool
    seed: int = 0
    cluster: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm trained with one seed.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run.
        directory: Where its files are.
        metrics: One mapping an update, in order of updates.
        evals: Every evaluation row, in the order of the file.
    """

    arm: str
    seed: int
    directory: Path
    metrics: tuple[Mapping[str, Any], ...]
    evals: tuple[EvalRow, ...]

    def rows(self, split: str, update: int) -> dict[str, list[EvalRow]]:
        """Evaluation rows of a split at an update, by question."""
        found: dict[str, list[EvalRow]] = {}
        for row in self.evals:
            if row.split == split and row.update == update:
                found.setdefault(row.task_id, []).append(row)
        return found

    def eval_updates(self, split: str) -> list[int]:
        """Updates at which the split was evaluated, ascending."""
        return sorted({row.update for row in self.evals if row.split == split})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything in a comparison directory except the trajectories.

    Attributes:
        directory: The comparison directory.
        arms: Names of the arms, in the order of the tables.
        seeds: Seeds of the runs.
        config: The resolved settings.
        git_commit: Commit of the code, "" when unknown.
        data_sha256: Hash of the data, a string or one a file.
        warm_start: What is known about the policy that every run began with.
        wall_time_s: Duration of the whole comparison in seconds, NaN when unknown.
        runs: One an arm and seed, arms outermost.
        later_commits: Commits that went on with what was begun at ``git_commit``.
        arm_descriptions: One line an arm.
        arm_changes: Settings of each arm that are not those of ``config``.
        own_parts: ``file.py:Class`` of estimators and credits that are no part of the library.
        plan: The plan that was written before the first run, {} in folders that have none.
    """

    directory: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    git_commit: str
    data_sha256: Any
    warm_start: Mapping[str, Any]
    wall_time_s: float
    runs: tuple[Run, ...]
    later_commits: tuple[str, ...] = ()
    arm_descriptions: Mapping[str, str] = field(default_factory=dict)
    arm_changes: Mapping[str, Any] = field(default_factory=dict)
    own_parts: Mapping[str, str] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def design(self) -> Design:
        """How the comparison is judged; the defaults where no plan was written."""
        return design_of(self.plan)

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as it was planned, one sentence each."""
        return departures(
            self.plan,
            arms=self.arms,
            seeds=self.seeds,
            splits=self.splits,
            num_later_commits=len(self.later_commits),
        )

    @property
    def final_split(self) -> str:
        """Split that the verdicts are about: the planned one if it was played, else the first."""
        return self.design.split if self.design.split in self.splits else self.splits[0]

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return BASELINE_ARM if BASELINE_ARM in self.arms else self.arms[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that were evaluated: that of the final scores, ``dev``, the others by name."""
        names = {row.split for run in self.runs for row in run.evals}
        first = self.design.split
        return tuple(sorted(names, key=lambda name: (name != first, name != "dev", name)))

    @property
    def curve_split(self) -> str:
        """Split of the learning curves: that with most evaluations, ``dev`` where it is one."""
        runs = self.runs
        return max(
            self.splits,
            key=lambda name: (len(runs[0].eval_updates(name)), name == "dev"),
        )

    def run(self, arm: str, seed: int) -> Run:
        """The run of an arm and a seed."""
        return self.runs[self.arms.index(arm) * len(self.seeds) + self.seeds.index(seed)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the same questions for every arm and seed.

    Attributes:
        task_ids: Names of the questions.
        hops: Reasoning steps of each question.
        values: By name of the score.
        clusters: Number of each question's cluster, from 0; a question of unknown cluster is one
            of its own.
        has_clusters: True if the questions name their clusters.
    """

    task_ids: tuple[str, ...]
    hops: tuple[int, ...]
    values: Mapping[str, Float[np.ndarray, "arm seed question"]]
    clusters: Int[np.ndarray, " question"]
    has_clusters: bool


def iterate_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers from 1 and objects of a JSONL file; empty lines are passed over.

    Raises:
        ReportError: if the file is missing or a line is not a JSON object.
    """
    if not path.is_file():
        raise ReportError(f"{path} is missing")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ReportError(f"{path}:{number}: not valid JSON: {error.msg}") from error
            if not isinstance(value, dict):
                raise ReportError(f"{path}:{number}: must be an object, got {type(value).__name__}")
            yield number, value


def read_metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Lines of ``metrics.jsonl``, one an update, ascending.

    A resumed run may write an update again; the last line of an update counts.

    Raises:
        ReportError: if a line has no integer ``update``.
    """
    by_update: dict[int, Mapping[str, Any]] = {}
    for number, value in iterate_json_lines(path):
        update = value.get("update")
        if not isinstance(update, int) or isinstance(update, bool):
            raise ReportError(f"{path}:{number}: update must be an integer, got {update!r}")
        by_update[update] = value
    return tuple(by_update[update] for update in sorted(by_update))


def _eval_row(value: Mapping[str, Any], where: str) -> EvalRow:
    optional = ("seed", "cluster")
    needed = [field.name for field in fields(EvalRow) if field.name not in optional]
    missing = [name for name in needed if name not in value]
    if missing:
        raise ReportError(f"{where}: the evaluation row lacks {', '.join(missing)}")
    try:
        row = EvalRow(
            update=int(value["update"]),
            split=str(value["split"]),
            task_id=str(value["task_id"]),
            hops=int(value["hops"]),
            em=float(value["em"]),
            f1=float(value["f1"]),
            cover_em=float(value["cover_em"]),
            num_searches=float(value["num_searches"]),
            is_format_valid=bool(value["is_format_valid"]),
            seed=int(value.get("seed", 0)),
            cluster=str(value.get("cluster") or ""),
        )
    except (TypeError, ValueError) as error:
        raise ReportError(f"{where}: {error}") from error
    for name in ("em", "f1", "cover_em", "num_searches"):
        if not math.isfinite(getattr(row, name)):
            raise ReportError(f"{where}: {name} must be finite, got {getattr(row, name)}")
    return row


def read_evals(path: Path) -> tuple[EvalRow, ...]:
    """Rows of ``evals.jsonl``, in the order of the file.

    A resumed run may write a row again; the same row twice counts once.

    Raises:
        ReportError: if a row lacks a field, holds another type, or contradicts an earlier row
            of the same question, update, split and seed.
    """
    rows: dict[tuple[int, str, str, int], EvalRow] = {}
    for number, value in iterate_json_lines(path):
        row = _eval_row(value, f"{path}:{number}")
        key = (row.update, row.split, row.task_id, row.seed)
        if rows.setdefault(key, row) != row:
            raise ReportError(
                f"{path}:{number}: question {row.task_id!r} of split {row.split!r} has two "
                f"different results at update {row.update}"
            )
    return tuple(rows.values())


def read_header(path: Path) -> dict[str, Any]:
    """The content of ``comparison.json``, with its methods and seeds checked.

    Raises:
        ReportError: if it is missing or cannot be read.
    """
    if not path.is_file():
        raise ReportError(f"{path} is missing: is this a comparison directory?")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(header, dict):
        raise ReportError(f"{path}: must be an object, got {type(header).__name__}")
    for name in ("arms", "seeds"):
        value = header.get(name)
        if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
            raise ReportError(f"{path}: {name} must be a list of distinct names, got {value!r}")
    return header


def _read_run(directory: Path, arm: str, seed: int) -> Run:
    place = directory / "runs" / f"{arm}-seed{seed}"
    if not place.is_dir():
        raise ReportError(f"{place} is missing: comparison.json names arm {arm!r}, seed {seed}")
    final = read_evals(place / FINAL_FILE) if (place / FINAL_FILE).exists() else ()
    return Run(
        arm=arm,
        seed=seed,
        directory=place,
        metrics=read_metrics(place / "metrics.jsonl"),
        evals=read_evals(place / "evals.jsonl") + final,
    )


def finished_seeds(directory: Path | str) -> tuple[int, ...]:
    """Seeds with which every arm came to its last update and, if planned, has its final scores.

    Raises:
        ReportError: if ``comparison.json`` or a metrics file cannot be read.
    """
    place = Path(directory)
    header = read_header(place / "comparison.json")
    last = int(header.get("config", {}).get("optim", {}).get("num_updates", 0))
    finished = []
    for seed in header["seeds"]:
        runs = [place / "runs" / f"{arm}-seed{seed}" for arm in header["arms"]]
        files = [run / "metrics.jsonl" for run in runs]
        if header.get("plan") and not all((run / FINAL_FILE).is_file() for run in runs):
            continue
        if all(file.is_file() and read_metrics(file)[-1:] for file in files) and all(
            read_metrics(file)[-1]["update"] >= last for file in files
        ):
            finished.append(int(seed))
    return tuple(finished)


def read_comparison(
    directory: Path | str, *, only_seeds: Collection[int] | None = None
) -> Comparison:
    """Everything in a comparison directory except the trajectories.

    Args:
        directory: Where ``comparison.json`` and ``runs/`` are.
        only_seeds: Leave the runs of other seeds out; None for all.

    Raises:
        ReportError: naming the file, and the line where there is one.
    """
    place = Path(directory)
    header = read_header(place / "comparison.json")
    arms = tuple(str(arm) for arm in header["arms"])
    seeds = tuple(
        int(seed) for seed in header["seeds"] if only_seeds is None or int(seed) in only_seeds
    )
    runs = tuple(_read_run(place, arm, seed) for arm in arms for seed in seeds)
    comparison = comparison_of(place, header, seeds, runs)
    if not comparison.splits:
        raise ReportError(f"{place}: no run has an evaluation row")
    return comparison


def comparison_of(
    place: Path, header: Mapping[str, Any], seeds: tuple[int, ...], runs: tuple[Run, ...]
) -> Comparison:
    """A comparison of what ``comparison.json`` says, and of runs that were read."""
    wall_time_s = header.get("wall_time_s")
    return Comparison(
        directory=place,
        arms=tuple(str(arm) for arm in header["arms"]),
        seeds=seeds,
        config=header.get("config") or {},
        git_commit=str(header.get("git_commit") or ""),
        data_sha256=header.get("data_sha256") or "",
        warm_start=header.get("warm_start") or {},
        wall_time_s=math.nan if wall_time_s is None else float(wall_time_s),
        runs=runs,
        later_commits=tuple(map(str, header.get("later_commits", ()))),
        arm_descriptions=header.get("arm_descriptions", {}),
        arm_changes=header.get("arm_changes", {}),
        own_parts=header.get("own_parts", {}),
        plan=header.get("plan") or {},
    )


def _stack(rows_by_run: list[list[dict[str, list[EvalRow]]]], where: list[list[str]]) -> Scores:
    first = rows_by_run[0][0]
    task_ids = tuple(sorted(first))
    for names, line in zip(where, rows_by_run, strict=True):
        for name, rows in zip(names, line, strict=True):
            odd = sorted(set(rows) ^ set(task_ids))
            if odd:
                raise ReportError(
                    f"{name} and {where[0][0]} were not evaluated on the same questions: "
                    f"{len(odd)} are in one only, such as {odd[0]!r}"
                )
    values = {
        score: np.array(
            [
                [
                    [np.mean([float(getattr(row, score)) for row in rows[t]]) for t in task_ids]
                    for rows in line
                ]
                for line in rows_by_run
            ],
            dtype=np.float64,
        )
        for score in SCORE_NAMES
    }
    names = [first[t][0].cluster for t in task_ids]
    places: dict[str, int] = {}
    for name, task_id in zip(names, task_ids, strict=True):
        places.setdefault(name or f"\0{task_id}", len(places))
    codes = [places[name or f"\0{t}"] for name, t in zip(names, task_ids, strict=True)]
    return Scores(
        task_ids=task_ids,
        hops=tuple(first[t][0].hops for t in task_ids),
        values=values,
        clusters=np.array(codes, dtype=np.int64),
        has_clusters=any(names),
    )


def final_scores(comparison: Comparison, split: str) -> Scores:
    """Scores ``[arm, seed, question]`` on a split at the last evaluation of each run.

    Several samples of a question are averaged.

    Raises:
        ReportError: if a run never evaluated the split, or on other questions than the rest.
    """
    rows, names = [], []
    for arm in comparison.arms:
        line = [comparison.run(arm, seed) for seed in comparison.seeds]
        for run in line:
            if not run.eval_updates(split):
                raise ReportError(f"{run.directory} has no evaluation of split {split!r}")
        rows.append([run.rows(split, run.eval_updates(split)[-1]) for run in line])
        names.append([str(run.directory) for run in line])
    return _stack(rows, names)


def warm_start_scores(comparison: Comparison, split: str) -> Scores | None:
    """Scores ``[1, seed, question]`` at update 0; None where no arm was evaluated then.

    Every arm of a seed begins with the same policy, so the first arm whose runs were all
    evaluated at update 0 speaks for all.

    Raises:
        ReportError: if the seeds were evaluated on different questions.
    """
    for arm in comparison.arms:
        line = [comparison.run(arm, seed) for seed in comparison.seeds]
        rows = [run.rows(split, 0) for run in line]
        if all(rows):
            return _stack([rows], [[str(run.directory) for run in line]])
    return None
