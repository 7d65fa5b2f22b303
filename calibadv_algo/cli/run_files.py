"""Episodes as run files of BrowseComp-Plus, and as a TREC run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from calibadv_algo.types import Trajectory
from calibadv_env.common.files import write_text
from calibadv_env.protocol.pages import page_of

TREC_RUN: Final = "run.trec"
"""File of the TREC run."""

_NOT_IN_NAMES: Final = re.compile(r"[^\w.-]+")
_BLANKS: Final = re.compile(r"\s+")


def write_run_files(folder: Path, trajectories: Sequence[Trajectory], label: str) -> list[Path]:
    """Writes a file a question, and the TREC run; gives their paths.

    A passage of a document that was cut counts as the document. The documents of a question stand
    in the run in the order in which they were first shown.

    Args:
        folder: Where to; made if need be.
        trajectories: Episodes with different tasks.
        label: Name of the system.

    Raises:
        ValueError: if two tasks would be written into the same file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tag = _BLANKS.sub("_", label.strip()) or "calibadv"
    written: dict[Path, str] = {}
    lines: list[str] = []
    for trajectory in trajectories:
        path = folder / f"run_{_NOT_IN_NAMES.sub('_', trajectory.task_id)}.json"
        if path in written:
            raise ValueError(
                f"tasks {written[path]!r} and {trajectory.task_id!r} share {path.name}"
            )
        written[path] = trajectory.task_id
        record = run_record(trajectory)
        write_text(path, json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        query = _BLANKS.sub("_", trajectory.task_id)
        lines += [
            f"{query} Q0 {_BLANKS.sub('_', document)} {rank} {1 / rank:.6f} {tag}"
            for rank, document in enumerate(record["retrieved_docids"], start=1)
        ]
    write_text(folder / TREC_RUN, "".join(f"{line}\n" for line in lines))
    return [*written, folder / TREC_RUN]


def run_record(trajectory: Trajectory) -> dict[str, Any]:
    """One episode in BrowseComp-Plus's form; an episode without an answer is not completed."""
    calls: Counter[str] = Counter()
    documents: dict[str, None] = {}
    for turn in trajectory.turns:
        asked = turn.info.get("calls") or ([turn.info["action"]] if turn.info.get("query") else [])
        calls.update(str(kind) for kind in asked)
        documents.update((page_of(str(each)), None) for each in turn.info.get("passage_ids", ()))
    answer = trajectory.final_info.get("answer")
    reason = trajectory.final_info.get("stop_reason")
    return {
        "query_id": trajectory.task_id,
        "tool_call_counts": dict(calls),
        "status": "completed" if answer is not None else str(reason or "incomplete"),
        "retrieved_docids": list(documents),
        "result": [{"type": "output_text", "output": str(answer or "")}],
    }
