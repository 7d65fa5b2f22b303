"""Runs of a comparison on the machine's CPU cores, while the card is busy with other stages.

The finished runs come back in the stage's archive; `python -m benchmarks.gpu_stages.cores
--merge ARCHIVE --into FOLDER` puts them into the folder of the same comparison elsewhere, where
`calibadv compare` counts them as done.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
from pathlib import Path

from benchmarks.gpu_stages.common import Stage
from benchmarks.gpu_stages.learning import run_comparison


def merge(archive: Path, into: Path) -> list[str]:
    """Unpacks runs into a comparison's folder; those that are there already stay as they are.

    Args:
        archive: What the stage packed.
        into: Folder of the comparison.

    Returns:
        Names of the runs that were added.
    """
    there = {path.name for path in (into / "runs").glob("*")} if into.exists() else set()
    added = set()
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            parts = Path(member.name).parts
            if "runs" not in parts or not member.isfile():
                continue
            inner = parts[parts.index("runs") :]
            if len(inner) < 3 or inner[1] in there:
                continue
            member.name = str(Path(*inner))
            packed.extract(member, into, filter="data")
            added.add(inner[1])
    return sorted(added)


def main() -> int:
    if "--merge" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--merge", type=Path, required=True)
        parser.add_argument("--into", type=Path, required=True)
        arguments = parser.parse_args()
        print(f"added: {', '.join(merge(arguments.merge, arguments.into)) or 'nothing'}")
        return 0
    stage = Stage.from_arguments("cores")
    num_workers = max(1, (os.cpu_count() or 2) - 3)
    command = ["--arms", "grpo", "calibadv", "--seeds", "0", "1", "2", "3", "4", "5"]
    command += ["--num-workers", str(num_workers)]
    if stage.is_rehearsal:
        command = ["--preset", "smoke", "--arms", "calibadv", "--seeds", "1"]
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    seconds = stage.seconds_left - 10
    stage.attempt(
        "runs on the cores",
        lambda: run_comparison(stage.out / "cores", seconds, command, environment),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
