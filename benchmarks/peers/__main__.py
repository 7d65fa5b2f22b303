"""Measures the project beside others and writes the table of docs/speed.

Both sides of a pair are processes with one thread that take turns; what counts is CPU seconds, the
ratio within a round, and of at least three rounds the least and the median. ``make peers`` sets up
what is needed and runs it; ``--only NAME`` runs some, ``--render`` prints a file's table again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.pairs import ROOT, Pair, run_pair

RESULTS: Final = ROOT / "docs" / "speed" / "results.json"
_TRL: Final = ".venv-trl/bin/python"
_PEERS: Final = ".venv-peers/bin/python"
_ENV: Final = {"episodes": 256, "searches": 3}
_BM25: Final = {"queries": 512, "batch": 64}

PAIRS: Final = (
    Pair(
        name="trl",
        peer="TRL 1.16.0",
        what="update, tokens",
        ours="update_ours",
        theirs="update_trl",
        python=_TRL,
        options={"episodes": 48, "rows": 16, "rounds": 4},
    ),
    Pair(
        name="skyrl-gym",
        peer="skyrl-gym 0.4.0",
        what="single environment without retrieval, steps",
        ours="env_ours",
        theirs="env_skyrl",
        python=_PEERS,
        options=_ENV,
    ),
    Pair(
        name="skyrl-gym-vector",
        peer="skyrl-gym 0.4.0, one by one",
        what="vector environment of 64 without retrieval, steps",
        ours="env_ours",
        theirs="env_skyrl",
        python=_PEERS,
        options={**_ENV, "slots": 64},
    ),
    Pair(
        name="gem",
        peer="gem-llm 0.1.0",
        what="single environment without retrieval, steps",
        ours="env_ours",
        theirs="env_gem",
        python=_PEERS,
        options=_ENV,
    ),
    Pair(
        name="bm25s",
        peer="bm25s 0.3.16",
        what="BM25 of the atlas in memory",
        ours="bm25_ours",
        theirs="bm25_bm25s",
        options=_BM25,
    ),
    Pair(
        name="tantivy",
        peer="tantivy 0.27.0",
        what="BM25 of the atlas on disk",
        ours="bm25_ours",
        theirs="bm25_tantivy",
        options={**_BM25, "disk": True},
    ),
    Pair(
        name="tantivy-zipf",
        peer="tantivy 0.27.0",
        what="20,000 passages by a Zipf law, no stop words, on disk",
        ours="bm25_ours",
        theirs="bm25_tantivy",
        options={**_BM25, "disk": True, "zipf": 20_000},
    ),
)


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| beside | work | least ratio | median | rounds |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['peer']} | {row['what']} | {row['min']:.2f} × | {row['median']:.2f} × | "
        f"{len(row['ours_per_cpu_s'])} |"
        for row in results["rows"]
    ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor, as the system names it, and the cores that may be used."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        if line.startswith("model name")
    ] or [platform.processor()]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[pair.name for pair in PAIRS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true", help="print the table of the file alone")
    arguments = parser.parse_args()
    file: Path = arguments.out
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
    if arguments.render:
        print(table(results), end="")
        return
    if arguments.rounds < 3:
        parser.error("--rounds must be at least 3")
    for pair in PAIRS:
        if arguments.only and pair.name not in arguments.only:
            continue
        load = os.getloadavg()[0]
        rows = run_pair(pair, arguments.rounds)
        for row in rows:
            row |= {"load": round(load, 1), "machine": machine()}
            print(f"{row['peer']}: {row['what']}: min {row['min']:.2f} median {row['median']:.2f}")
        kept = [row for row in results["rows"] if row["pair"] != pair.name]
        names = [each.name for each in PAIRS]
        results["rows"] = sorted([*kept, *rows], key=lambda row: names.index(row["pair"]))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
