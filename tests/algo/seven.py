"""Small files for all seven benchmarks, in the exact form of FlashRAG, about the built-in atlas.

The questions are questions of the atlas, so its corpus answers them. Run as a program with the
path of a folder, it writes ``FlashRAG/`` and ``atlas.jsonl`` there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from calibadv_env.data.base import QATask
from calibadv_env.data.registry import get_dataset
from calibadv_env.data.sources.benchmarks import SEVEN
from calibadv_env.protocol.passages import Passage

HOPS = {
    "NQ": (1,),
    "TriviaQA": (1,),
    "PopQA": (1,),
    "HotpotQA": (2,),
    "2WikiMultihopQA": (2, 3, 4),
    "MuSiQue": (2, 3, 4),
    "Bamboogle": (2,),
}


def write_seven(folder: Path, num_questions: int = 6, num_passages: int | None = None) -> Path:
    """Writes every published split of every benchmark, and the corpus.

    Args:
        folder: Where to.
        num_questions: Of each split.
        num_passages: Size of the corpus beside the gold passages; None takes the whole atlas.

    Returns:
        The folder for ``CALIBADV_DATA``; the corpus is ``atlas.jsonl`` beside it.
    """
    atlas = get_dataset("atlas")
    passages = {passage.id: passage for passage in atlas.corpus()}
    tasks = {hops: [t for t in atlas.tasks("test") if t.hops == hops] for hops in (1, 2, 3, 4)}
    root = folder / "FlashRAG"
    kept = set(list(passages)[:num_passages])
    for place, benchmark in enumerate(SEVEN.values()):
        for split in benchmark.sizes:
            begin = (place * len(benchmark.sizes) + len(split)) * num_questions
            records = []
            for i in range(num_questions):
                hops = HOPS[benchmark.name][i % len(HOPS[benchmark.name])]
                task = tasks[hops][(begin + i) % len(tasks[hops])]
                kept.update(id for hop in task.gold_passages for id in hop)
                records.append(record_of(benchmark.name, f"{split}_{i}", task, passages))
            write_lines(root / benchmark.folder_name / f"{split}.jsonl", records)
    chosen = (passage for passage in passages.values() if passage.id in kept)
    rows = ({"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in chosen)
    write_lines(folder / "atlas.jsonl", rows)
    return root


def record_of(
    benchmark: str, number: str, task: QATask, passages: Mapping[str, Passage]
) -> dict[str, Any]:
    """A task as FlashRAG writes it for a benchmark."""
    record: dict[str, Any] = {
        "id": number,
        "question": task.question,
        "golden_answers": list(task.golden_answers),
    }
    gold = [passages[hop[0]] for hop in task.gold_passages]
    if benchmark == "MuSiQue":
        record["metadata"] = musique_metadata(task, gold)
    elif benchmark in ("HotpotQA", "2WikiMultihopQA"):
        body = "sentences" if benchmark == "HotpotQA" else "content"
        record["metadata"] = {
            "type": "bridge" if benchmark == "HotpotQA" else "compositional",
            "supporting_facts": {"title": [p.title for p in gold], "sent_id": [0] * len(gold)},
            "context": {"title": [p.title for p in gold], body: [[p.text] for p in gold]},
        }
    return record


def musique_metadata(task: QATask, gold: list[Passage]) -> dict[str, Any]:
    """The decomposition, each step but the first with the answer before it as ``#n``."""
    steps = []
    for i, (fact, passage) in enumerate(zip(task.metadata["chain"], gold, strict=True)):
        subject = fact["subject"] if i == 0 else f"#{i}"
        steps.append(
            {
                "id": i,
                "question": f"{subject} >> {fact['relation']}",
                "answer": fact["object"],
                "paragraph_support_idx": i,
                "support_paragraph": {
                    "idx": i,
                    "title": passage.title,
                    "paragraph_text": passage.text,
                    "is_supporting": True,
                },
            }
        )
    return {"answerable": True, "answer_aliases": [], "question_decomposition": steps}


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    write_seven(Path(sys.argv[1]))
