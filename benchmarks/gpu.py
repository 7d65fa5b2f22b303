"""Measures on one machine with a GPU all that a user of one depends on, and writes a page.

    python benchmarks/gpu.py --minutes 9 --out DIR
    python benchmarks/gpu.py --rehearse --out DIR      (CPU, tiny shapes, under three minutes)

Stages, the most valuable first, each a process with a time limit and a JSON file of its own:
facts (device, measured limits), right (engine against trainer, device against CPU), update (speed,
memory), rollouts (engines against a generate loop, weight sync), learning (GRPO against CalibAdv);
cores runs a comparison on the machine's CPU cores beside the others. A stage that fails or runs out
of time loses what it had not measured yet and nothing else. The same command goes on with the
stages that are not there; `--only NAME` measures some again. README.md, the pictures and gpu.json
are made of what was measured; `--report-only` makes them again.

What a bare machine lacks can be carried: see benchmarks/gpu_wheels.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARES = {"facts": 0.06, "right": 0.2, "update": 0.3, "rollouts": 0.24, "learning": 0.2}
"""Stages in order, and the share of the whole time that each may take; unused time goes on."""
BESIDE = "cores"
"""The stage that runs beside the others."""
TABLES = {
    "facts": "Device and measured limits",
    "right": "Is it right",
    "update": "One update",
    "rollouts": "Rollouts",
    "learning": "Learning",
    "cores": "Runs on the CPU cores",
}


def start(stage: str, out: Path, seconds: float, *, rehearse: bool) -> subprocess.Popen[bytes]:
    """Starts a stage in a process group of its own; its output goes to log.txt."""
    command = [sys.executable, "-m", f"benchmarks.gpu_stages.{stage}", "--out", str(out)]
    command += ["--seconds", f"{seconds:.0f}", *(["--rehearse"] if rehearse else [])]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    if rehearse:
        environment["OMP_NUM_THREADS"] = "1"
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Waits for a stage and stops it, with all that it started, when its time is over.

    Args:
        process: The stage.
        seconds: How long to wait.

    Returns:
        Its exit code, None if it was stopped.
    """
    try:
        return process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None


def measure(out: Path, minutes: float, only: list[str], *, rehearse: bool) -> None:
    """Runs the stages that have no record yet, or those that are asked for."""
    deadline = time.monotonic() + 60 * minutes
    wanted = only or [name for name in (*SHARES, BESIDE) if not (out / f"{name}.json").exists()]
    ends: dict[str, Any] = {}
    beside = None
    if BESIDE in wanted:
        seconds = deadline - time.monotonic() - 15
        beside = start(BESIDE, out, seconds, rehearse=rehearse)
    names = [name for name in SHARES if name in wanted]
    for position, name in enumerate(names):
        left = deadline - time.monotonic() - 15
        share = SHARES[name] / sum(SHARES[other] for other in names[position:])
        seconds = left * share
        if seconds < 5:
            ends[name] = {"skipped": "no time left"}
            continue
        began = time.monotonic()
        code = finish(start(name, out, seconds, rehearse=rehearse), seconds + 20)
        ends[name] = {"exit_code": code, "seconds": round(time.monotonic() - began, 1)}
        print(f"{name}: {ends[name]}", flush=True)
        write_page(out)
    if beside is not None:
        ends[BESIDE] = {"exit_code": finish(beside, deadline - time.monotonic())}
        print(f"{BESIDE}: {ends[BESIDE]}", flush=True)
    (out / "stages.json").write_text(json.dumps(ends, indent=1) + "\n", encoding="utf-8")


def pack_runs(out: Path) -> None:
    """Puts metrics and settings of the trained runs into runs.tar.gz, without their weights."""
    files = [
        path
        for folder in ("learning", "cores")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file() and path.suffix in (".json", ".jsonl", ".log", ".md")
    ]
    kept = [
        path for path in files if "trajectories" not in str(path) and "journal" not in str(path)
    ]
    if kept:
        with tarfile.open(out / "runs.tar.gz", "w:gz") as archive:
            for path in kept:
                archive.add(path, path.relative_to(out))


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The records of all stages that wrote one."""
    return {
        name: json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        for name in TABLES
        if (out / f"{name}.json").exists()
    }


def write_page(out: Path) -> None:
    """Writes gpu.json, README.md and the pictures from what was measured so far."""
    records = read(out)
    (out / "gpu.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    facts = records.get("facts", {}).get("device", {})
    lines = [
        "# Measured on a GPU" if facts.get("is_gpu") else "# A rehearsal: no GPU was measured",
        "",
        f"Made by `python benchmarks/gpu.py` on {facts.get('device', 'an unknown device')}. All "
        "values are in gpu.json; what failed or was skipped stands in the tables with its reason.",
    ]
    for name, title in TABLES.items():
        if name in records:
            lines += ["", f"## {title}", "", "| what | value |", "| --- | --- |"]
            lines += [f"| {key} | {in_words(value)} |" for key, value in records[name].items()]
    for picture in draw(records, out):
        lines += ["", f"![{picture.stem}]({picture.name})"]
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def in_words(value: Any) -> str:
    """A value of a record for a table's cell."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {in_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " / ".join(map(in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def draw(records: dict[str, dict[str, Any]], out: Path) -> list[Path]:
    """Pictures: tokens a second of the update, and the learning curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    bars = {
        key: value["tokens_per_s"]
        for key, value in records.get("update", {}).items()
        if isinstance(value, dict) and "tokens_per_s" in value
    }
    if bars:
        figure, axes = plt.subplots(figsize=(8, 0.4 * len(bars) + 1), layout="constrained")
        axes.barh(list(bars), list(bars.values()))
        axes.invert_yaxis()
        axes.set_xlabel("tokens a second, forward, backward and optimiser step")
        figure.savefig(out / "update.png", dpi=120)
        plt.close(figure)
        written.append(out / "update.png")
    curves = {
        run: {int(update): f1 for update, f1 in facts["eval_f1"].items()}
        for value in records.get("learning", {}).values()
        if isinstance(value, dict)
        for run, facts in value.get("runs", {}).items()
        if facts.get("eval_f1")
    }
    if curves:
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        colours = {"grpo": "tab:grey", "calibadv": "tab:blue"}
        for run, points in curves.items():
            arm = run.rpartition("-seed")[0]
            axes.plot(list(points), list(points.values()), color=colours.get(arm), label=run)
        axes.set_xlabel("update")
        axes.set_ylabel("F1 on dev")
        axes.legend(fontsize=7)
        figure.savefig(out / "learning.png", dpi=120)
        plt.close(figure)
        written.append(out / "learning.png")
    return written


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="+", choices=[*TABLES], default=[])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        measure(out, arguments.minutes, arguments.only, rehearse=arguments.rehearse)
        pack_runs(out)
    write_page(out)
    print(f"wrote {out / 'README.md'}")
    failed = [name for name in TABLES if name not in read(out)]
    if failed:
        print(f"without a record: {', '.join(failed)}; log: {out / 'log.txt'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
