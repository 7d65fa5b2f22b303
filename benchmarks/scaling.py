"""Strong scaling of training on the atlas: the same updates by one process and by two.

    python benchmarks/scaling.py --updates 4

Each process has one thread. The runs take turns; the first update of each run is left out (it
loads and warms up). Printed are the medians of an update's seconds, their ratio, and the share
of an update in which nothing was computed because a process waited: for the environment, or for
the other process (exchanges included).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

PARTS = ("time_rollout_s", "time_update_s")


def worker(folder: Path, num_updates: int, num_questions: int) -> None:
    """Trains as one of the processes; runs in a process of its own."""
    from calibadv_algo.cli.train import run_training
    from calibadv_algo.experiments.arms import find_arm
    from calibadv_algo.training.presets import ATLAS_TINY

    config = find_arm("grpo").apply(ATLAS_TINY)
    config = replace(
        config,
        output_dir=folder,
        quiet=True,
        rollout=replace(config.rollout, num_questions=num_questions),
        optim=replace(config.optim, num_updates=num_updates),
        evaluation=replace(config.evaluation, every=0),
    )
    run_training(config)


def run(folder: Path, world_size: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The metrics of a run by so many processes, without those of its first update."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--worker", str(folder)]
    command += ["--updates", str(arguments.updates), "--questions", str(arguments.questions)]
    processes = []
    for rank in range(world_size):
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        processes.append(subprocess.Popen(command, env=env | (place if world_size > 1 else {})))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"a process of the run with {world_size} failed")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["update"] > 1]


def report(rows: dict[int, list[dict[str, Any]]]) -> None:
    """Prints the table and the ratio."""
    totals = {}
    for world_size, each in rows.items():
        seconds = {part: statistics.median(row[part] for row in each) for part in PARTS}
        totals[world_size] = statistics.median(sum(row[part] for part in PARTS) for row in each)
        waited = statistics.median(row["time_wait_share"] for row in each)
        print(
            f"{world_size} process(es): update {totals[world_size]:6.2f} s "
            f"(episodes {seconds['time_rollout_s']:.2f} s, learning {seconds['time_update_s']:.2f}"
            f" s), waiting {waited:.1%} of it, median of {len(each)} updates"
        )
    print(f"ratio of 1 process to 2: {totals[1] / totals[2]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--worker", type=Path)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        worker(arguments.worker, arguments.updates, arguments.questions)
        return
    rows: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    )
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for world_size in rows:
                name = f"{world_size}-{repeat}"
                rows[world_size] += run(Path(folder) / name, world_size, arguments)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    report(rows)


if __name__ == "__main__":
    main()
