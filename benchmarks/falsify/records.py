"""Records of finished runs: a few kilobytes each, kept in the repository so that sessions add up.

A run leaves megabytes (trajectories, checkpoints), of which the page needs the scores of every
question and some metrics. ``collect`` writes these as one JSON file a run, ``restore`` makes of
them the files that a comparison reads, so that a run which was finished elsewhere counts as
finished and is not run again. Runs are named by what determines their numbers (their settings and
the weights that they begin with), so that two comparisons that need the same run share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from benchmarks.falsify.agreement import AGREEMENT_FILE, LABEL_ARMS, count_run
from calibadv_algo.experiments.compare import CompareConfig, is_finished, plan_jobs
from calibadv_algo.experiments.jobs import Job
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.report.reading import FINAL_FILE, iterate_json_lines, read_metrics
from calibadv_algo.training.config import config_hash
from calibadv_env.common.files import write_text

RECORDS: Final = Path(__file__).parent / "records"
"""Where the records of the experiment are."""

METRICS: Final = (
    "update",
    *("reward_mean", "f1_mean", "searches_mean", "format_valid_share"),
    *("entropy", "mean_perplexity", "max_perplexity", "repeated_token_share", "garbled_share"),
    *("positive_mass", "negative_mass", "mispenalized_share", "groups_with_signal_share"),
    *("grad_norm", "approximate_kl", "collapse_alarm"),
    *("time_rollout_s", "time_update_s", "time_eval_s"),
)
"""Metrics that a record keeps."""

_QUESTION: Final = ("task_id", "hops", "cluster")
_SCORES: Final = ("em", "f1", "cover_em", "num_searches", "is_format_valid")
_FORMAT: Final = 1
_EVALS: Final = "evals.jsonl"
_METRICS_FILE: Final = "metrics.jsonl"


class RecordError(ValueError):
    """A record that cannot be read, or that contradicts another one."""


def record_file(job: Job, records: Path) -> Path:
    """Where the record of a run is, by its name, its settings and the weights it begins with."""
    text = config_hash(job.config) + start_sha256(job.config.model)
    return records / "runs" / f"{job.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"


@lru_cache(maxsize=8)
def start_sha256(model: str) -> str:
    """Hash of the weights that runs begin with, "" where the model is no folder with one file."""
    path = Path(policy_path(model)) / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def collect(config: CompareConfig, records: Path = RECORDS) -> list[Path]:
    """Writes the records of the finished runs of a comparison that have none.

    Args:
        config: The comparison, in the folder where it was run.
        records: Where the records are.

    Returns:
        What was written.
    """
    header = config.output_dir / "comparison.json"
    if not header.is_file():
        return []
    _write(_header_file(config, records), header.read_text(encoding="utf-8"))
    written = []
    for job in plan_jobs(config):
        path = record_file(job, records)
        if not path.exists() and is_finished(job, FINAL_FILE):
            record = _pack_run(job, records)
            _write(path, json.dumps(record, separators=(",", ":")) + "\n")
            written.append(path)
    return written


def restore(config: CompareConfig, records: Path = RECORDS) -> int:
    """Makes the files of recorded runs in the folder of a comparison, where there are none.

    Args:
        config: The comparison.
        records: Where the records are.

    Returns:
        Number of runs that were made.

    Raises:
        RecordError: if a record is of another format or lacks its questions.
    """
    made = 0
    for job in plan_jobs(config):
        path, place = record_file(job, records), job.config.output_dir
        if path.is_file() and not (place / _METRICS_FILE).exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            if _fits(record, config):
                _unpack_run(record, place, records)
                made += 1
    header = _header_file(config, records)
    if made and header.is_file() and not (config.output_dir / "comparison.json").exists():
        text = header.read_text(encoding="utf-8")
        _write(config.output_dir / "comparison.json", text)
    return made


def _header_file(config: CompareConfig, records: Path) -> Path:
    return records / "comparisons" / f"{config.output_dir.name}.json"


def _fits(record: Mapping[str, Any], config: CompareConfig) -> bool:
    """True if the final scores are of the split and the number of questions that are planned."""
    if record.get("format") != _FORMAT:
        raise RecordError(f"a record must have the format {_FORMAT}, got {record.get('format')}")
    wanted = (config.design.split, config.design.questions)
    return (record["final_split"], record["final_questions"]) == wanted


def _pack_run(job: Job, records: Path) -> dict[str, Any]:
    place = job.config.output_dir
    final = [value for _, value in iterate_json_lines(place / FINAL_FILE)]
    provenance = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
    lines = read_metrics(place / _METRICS_FILE)
    header = json.loads((place.parent.parent / "comparison.json").read_text(encoding="utf-8"))
    record = {
        "format": _FORMAT,
        "arm": job.arm,
        "seed": job.seed,
        "config_hash": config_hash(job.config),
        "start_sha256": start_sha256(job.config.model),
        "git_commit": provenance.get("git_commit", ""),
        "data_sha256": provenance.get("data_sha256", ""),
        "final_split": header["plan"]["split"],
        "final_questions": header["plan"]["questions"],
        "metrics": {
            name: [_short(line.get(name)) for line in lines]
            for name in METRICS
            if any(name in line for line in lines)
        },
        "evals": _pack_rows(
            [value for _, value in iterate_json_lines(place / _EVALS)], records, job
        ),
        "final": _pack_rows(final, records, job),
    }
    agreement = count_run(place) if job.arm in LABEL_ARMS else {}
    return record | ({"agreement": agreement} if agreement else {})


def _pack_rows(rows: Sequence[Mapping[str, Any]], records: Path, job: Job) -> list[dict[str, Any]]:
    """Rows as columns, one entry for each update and split; their questions stand apart."""
    packed = []
    for key in dict.fromkeys((row["update"], row["split"]) for row in rows):
        chosen = {row["task_id"]: row for row in rows if (row["update"], row["split"]) == key}
        ordered = [chosen[name] for name in sorted(chosen)]
        questions = [[row.get(name, "") for name in _QUESTION] for row in ordered]
        entry: dict[str, Any] = {
            "update": key[0],
            "split": key[1],
            "questions": _keep_questions(questions, job.config.env.dataset, key[1], records),
        }
        for name in _SCORES:
            entry[name] = _column([row[name] for row in ordered])
        packed.append(entry)
    return packed


def _keep_questions(questions: list[list[Any]], dataset: str, split: str, records: Path) -> str:
    """Writes a list of questions once; its name, by which records refer to it."""
    name = f"{dataset}-{split}-{len(questions)}"
    path = records / "questions" / f"{name}.json"
    if not path.exists():
        _write(path, json.dumps(questions, ensure_ascii=False, separators=(",", ":")) + "\n")
    elif json.loads(path.read_text(encoding="utf-8")) != questions:
        raise RecordError(f"{path} holds other questions than those that a run answered")
    return name


def _column(values: Sequence[Any]) -> str | list[float]:
    """Digits side by side where every value is one, else rounded numbers."""
    numbers = [float(value) for value in values]
    if all(value.is_integer() and 0 <= value <= 9 for value in numbers):
        return "".join(str(int(value)) for value in numbers)
    return [int(value) if value.is_integer() else round(value, 6) for value in numbers]


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _unpack_run(record: Mapping[str, Any], place: Path, records: Path) -> None:
    columns = record["metrics"]
    count = len(columns["update"])
    metrics = [
        {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(count)
    ]
    place.mkdir(parents=True, exist_ok=True)
    _write(place / _EVALS, _lines(_unpack_rows(record["evals"], records)))
    _write(place / FINAL_FILE, _lines(_unpack_rows(record["final"], records)))
    if "agreement" in record:
        _write(place / AGREEMENT_FILE, json.dumps(record["agreement"]) + "\n")
    _write(place / _METRICS_FILE, _lines(iter(metrics)))


def _unpack_rows(entries: Sequence[Mapping[str, Any]], records: Path) -> Iterator[dict[str, Any]]:
    for entry in entries:
        path = records / "questions" / f"{entry['questions']}.json"
        if not path.is_file():
            raise RecordError(f"{path} is missing: records name it")
        questions = json.loads(path.read_text(encoding="utf-8"))
        for i, question in enumerate(questions):
            yield {
                "update": entry["update"],
                "split": entry["split"],
                **dict(zip(_QUESTION, question, strict=True)),
                **{name: float(entry[name][i]) for name in _SCORES},
            }


def _lines(values: Iterator[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
