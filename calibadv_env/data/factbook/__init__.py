"""``pages``: the World Factbook as pages with sections and links, and questions over them.

256 pages of about 130 sections, a page for each organisation and each water that lists who shares
it, and more than 5,000 questions of two to six steps. ``docs/pages.md`` says how it is made.
"""

from __future__ import annotations

from calibadv_env.data.base import TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.factbook.build import CORPUS_SHA256, cache_folder, load_files
from calibadv_env.data.lines import LineCorpus, LineTasks
from calibadv_env.data.names import SPLITS
from calibadv_env.retrieval.corpus import Corpus

__all__ = ["load_dataset"]


def load_dataset() -> Dataset:
    """The dataset ``pages`` with the splits train, dev and test; its passages are sections.

    Nothing is read or compiled before the first split or the corpus is asked for. Loading then
    raises :class:`DataError` where the data package is missing or is not the expected version.
    """
    return Dataset(
        name="pages",
        splits=SPLITS,
        load_tasks=_load_tasks,
        load_corpus=_load_corpus,
        is_gold_checked=False,
        reward="typed",
        description="The World Factbook as 256 pages with sections and links, to search and open.",
    )


def _load_tasks(split: str) -> TaskSet:
    return LineTasks(load_files()[f"tasks-{split}.jsonl"], name="pages", split=split)


def _load_corpus() -> Corpus:
    content = load_files()["corpus.jsonl"]
    return LineCorpus(content, CORPUS_SHA256, index_cache=cache_folder() / "indexes")
