"""``atlas``: a world of real facts, compiled at first use from two data packages of PyPI.

About 13,000 one-fact passages on countries, cities, airports, World Heritage Sites and chemical
elements, and about 10,000 questions that chain one to four of these facts. ``docs/atlas.md`` says
how it is made.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from calibadv_env.data.atlas.build import CORPUS_SHA256, cache_folder, load_files, parse_facts
from calibadv_env.data.atlas.states import states_by_code
from calibadv_env.data.atlas.wiki import load_wiki_passages
from calibadv_env.data.atlas.world import AtlasFact, AtlasWorld, cluster_of_fact
from calibadv_env.data.atlas.worlds import WORLDS
from calibadv_env.data.base import QATask, TaskSet, parse_task
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.evidence import CLUSTER
from calibadv_env.data.lines import LineCorpus, LineTasks
from calibadv_env.data.names import SPLITS
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.misses import MissingRetriever

__all__ = [
    "AtlasFact",
    "AtlasWorld",
    "load_balanced",
    "load_dataset",
    "load_wiki_dataset",
    "load_world",
]


def load_dataset() -> Dataset:
    """The dataset ``atlas`` with the splits train, dev and test.

    Nothing is read or compiled before the first split or the corpus is asked for. Loading then
    raises :class:`DataError` where a data package is missing or is not the expected version.
    """
    return Dataset(
        name="atlas",
        splits=SPLITS,
        load_tasks=_load_tasks,
        load_corpus=_load_corpus,
        is_gold_checked=False,
        description="Real facts on countries, cities, airports, heritage sites and elements.",
    )


def load_wiki_dataset() -> Dataset:
    """The dataset ``atlas-wiki``: the tasks of the atlas, its passages and Wikipedia's.

    Loading its corpus raises :class:`MissingDependencyError` where the extra ``wiki`` is not
    installed, and :class:`DataError` as for ``atlas``.
    """
    return Dataset(
        name="atlas-wiki",
        splits=SPLITS,
        load_tasks=lambda split: _load_tasks(split, name="atlas-wiki"),
        load_corpus=_load_wiki_corpus,
        description="The atlas with ten thousand Wikipedia summaries as further distractors.",
    )


def load_balanced(name: str) -> Dataset:
    """A dataset of balanced splits: one of :data:`calibadv_env.data.atlas.worlds.WORLDS`.

    Raises:
        KeyError: if there is no such world.
    """
    world = WORLDS[name]

    def load_tasks(split: str) -> TaskSet:
        return LineTasks(world.files()[f"tasks-{split}.jsonl"], name=name, split=split)

    def load_corpus() -> Corpus:
        content = world.files()["corpus.jsonl"]
        return LineCorpus(content, world.corpus_sha256, index_cache=world.folder / "indexes")

    return Dataset(
        name=name,
        splits=SPLITS,
        load_tasks=load_tasks,
        load_corpus=load_corpus,
        is_gold_checked=False,
        description=world.description,
        wrap_retriever=partial(MissingRetriever, rate=world.miss_rate) if world.miss_rate else None,
        least_turns=world.least_turns,
        reward=world.reward,
    )


def load_world(name: str = "atlas") -> AtlasWorld:
    """The passages of an atlas with their facts and names, from the cache or compiled.

    Args:
        name: "atlas", or a world of balanced splits.

    Raises:
        DataError: if a data package is missing or is not the expected version.
    """
    files = load_files() if name == "atlas" else WORLDS[name].files()
    return AtlasWorld(_parse_passages(files["corpus.jsonl"]), parse_facts(files["facts.jsonl"]))


def _load_tasks(split: str, name: str = "atlas") -> TaskSet:
    files = load_files()
    parse = partial(_parse_task, facts=_FactsByPassage(files["facts.jsonl"]))
    return LineTasks(files[f"tasks-{split}.jsonl"], name=name, split=split, parse=parse)


class _FactsByPassage:
    """One fact of each passage, read when the first is asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @cached_property
    def facts(self) -> dict[str, AtlasFact]:
        """Passage id -> a fact that it states."""
        return {fact.passage_id: fact for fact in parse_facts(self._content)}


def _parse_task(record: dict[str, Any], facts: _FactsByPassage) -> QATask:
    """A task, with its cluster, which the files of this dataset do not name."""
    task = parse_task(record)
    kind, code, *_ = task.gold_passages[-1][0].split(":")
    if kind in ("country", "city", "site"):
        cluster = states_by_code()[code].name
    else:
        cluster = cluster_of_fact(facts.facts[task.gold_passages[-1][0]])
    return replace(task, metadata={**task.metadata, CLUSTER: cluster})


def _load_corpus() -> Corpus:
    content = load_files()["corpus.jsonl"]
    return LineCorpus(content, CORPUS_SHA256, index_cache=cache_folder() / "indexes")


def _load_wiki_corpus() -> Corpus:
    wiki = load_wiki_passages()
    return Corpus([*_parse_passages(load_files()["corpus.jsonl"]), *wiki])


def _parse_passages(content: bytes) -> list[Passage]:
    records = (json.loads(line) for line in content.splitlines())
    return [Passage(record["id"], record["title"], record["text"]) for record in records]
