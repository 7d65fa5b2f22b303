"""GRPO against CalibAdv on the card, as many seeds side by side as the time allows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages.common import Stage

ROOT = Path(__file__).parents[2]


def run_comparison(
    out: Path, seconds: float, arguments: list[str], environment: dict[str, str]
) -> dict[str, Any]:
    """Runs `calibadv compare` for at most so many seconds; a later call goes on from there.

    Args:
        out: Folder of the comparison.
        seconds: When it is interrupted; finished updates are kept.
        arguments: Those of the command.
        environment: Variables on top of this process's.

    Returns:
        Exit code, seconds, and for each run the number of updates and the evaluations.
    """
    command = [sys.executable, "-m", "calibadv_algo.cli.main", "compare"]
    command += [*arguments, "--output-dir", str(out)]
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (out / "compare.log").open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=max(5.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            code = None
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 1),
        "runs": {path.name: run_facts(path) for path in sorted((out / "runs").glob("*"))},
    }


def run_facts(folder: Path) -> dict[str, Any]:
    """Updates, seconds by part and evaluations of a run, from its metrics."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return {"updates": 0}
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    timed = [row for row in rows if "time_rollout_s" in row]
    return {
        "updates": max((row["update"] for row in rows), default=0),
        "rollout_s": round(sum(row["time_rollout_s"] for row in timed), 1),
        "update_s": round(sum(row.get("time_update_s", 0.0) for row in timed), 1),
        "eval_f1": {row["update"]: row["eval_f1"] for row in rows if "eval_f1" in row},
    }


def main() -> None:
    stage = Stage.from_arguments("learning")
    if stage.is_rehearsal:
        arguments = ["--preset", "smoke", "--seeds", "0"]
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    else:
        arguments = ["--arms", "grpo", "calibadv", "--seeds", "0", "1", "2", "--num-workers", "6"]
        environment = {"OMP_NUM_THREADS": "1"}
    seconds = stage.seconds_left - 10
    stage.attempt(
        "grpo and calibadv on the atlas policy",
        lambda: run_comparison(stage.out / "learning", seconds, arguments, environment),
    )


if __name__ == "__main__":
    main()
