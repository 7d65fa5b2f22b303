"""``pages``: the World Factbook as pages with sections and links, and questions over them.

256 pages of about 130 sections, a page for each organisation and each water that lists who shares
it, and more than 5,000 questions of two to six steps. ``docs/pages.md`` says how it is made.
``pages-reworded`` asks the same questions in other words, ``pages-linked`` only those that follow
links one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from calibadv_env.data.base import QATask, TaskSet, parse_task
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.factbook.build import CORPUS_SHA256, WORDINGS, cache_folder, load_files
from calibadv_env.data.lines import LineCorpus, LineTasks
from calibadv_env.data.names import SPLITS
from calibadv_env.retrieval.corpus import Corpus

__all__ = ["load_dataset"]

_DESCRIPTIONS: Final = {
    "pages": "The World Factbook as 256 pages with sections and links, to search and open.",
    "pages-reworded": "The questions of pages, each in another wording.",
    "pages-linked": "The questions of pages that follow links, and those without an answer.",
}
_LINKED: Final = frozenset({"linked", "unanswerable"})


def load_dataset(name: str = "pages") -> Dataset:
    """A dataset of the pages with the splits train, dev and test; its passages are sections.

    Nothing is read or compiled before the first split or the corpus is asked for. Loading then
    raises :class:`DataError` where the data package is missing or is not the expected version.

    Args:
        name: "pages", "pages-reworded" or "pages-linked".
    """
    return Dataset(
        name=name,
        splits=SPLITS,
        load_tasks=_tasks_of(name),
        load_corpus=_load_corpus,
        is_gold_checked=False,
        reward="typed",
        description=_DESCRIPTIONS[name],
    )


def _tasks_of(name: str) -> Callable[[str], TaskSet]:
    """Reads the splits of one of the datasets."""
    parse = _reworded if name == "pages-reworded" else parse_task

    def load(split: str) -> TaskSet:
        content = load_files()[f"tasks-{split}.jsonl"]
        if name == "pages-linked":
            kept = [row for row in content.splitlines() if _kind(row) in _LINKED]
            content = b"\n".join(kept) + b"\n"
        return LineTasks(content, name=name, split=split, parse=parse)

    return load


def _kind(row: bytes) -> str:
    return str(json.loads(row)["metadata"]["kind"])


def _reworded(record: Mapping[str, Any]) -> QATask:
    """A question in the wording that follows the one in which ``pages`` asks it."""
    task = parse_task(record)
    wordings = task.metadata[WORDINGS]
    wording = (task.metadata["wording"] + 1) % len(wordings)
    metadata = {**task.metadata, "wording": wording}
    return replace(task, question=wordings[wording], metadata=metadata)


def _load_corpus() -> Corpus:
    content = load_files()["corpus.jsonl"]
    return LineCorpus(content, CORPUS_SHA256, index_cache=cache_folder() / "indexes")
