"""Measures whether questions are sound and worth several searches. Pure; made for any dataset.

``tests/env/test_atlas.py`` holds the atlas to the figures that ``docs/atlas.md`` states.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calibadv_env.data.base import QATask
from calibadv_env.retrieval.base import Passage, Retriever

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSearchFigures:
    """What one search with the question itself finds, as shares of the questions asked.

    Attributes:
        num_tasks: Number of questions.
        first_hop: The first hop's fact is among the passages.
        all_hops: The facts of all hops are.
        answer: An answer stands in one of the passages.
    """

    num_tasks: int
    first_hop: float
    all_hops: float
    answer: float


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and double spaces, as SQuAD's score does it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def contains_words(text: str, words: str) -> bool:
    """Whether normalised words stand in a normalised text, at word boundaries."""
    return f" {normalize(words)} " in f" {normalize(text)} "


def tasks_without_evidence(
    tasks: Iterable[QATask], passages: Mapping[str, Passage]
) -> list[QATask]:
    """The tasks for which some gold passage of the last hop does not state the first answer."""
    return [
        task
        for task in tasks
        if not all(
            contains_words(f"{passages[gold].title}. {passages[gold].text}", task.golden_answers[0])
            for gold in task.gold_passages[-1]
        )
    ]


def tasks_that_tell_their_answer(tasks: Iterable[QATask]) -> list[QATask]:
    """The tasks one of whose answers stands in a wording of the question."""
    return [
        task
        for task in tasks
        if any(
            contains_words(wording, answer)
            for wording in (task.question, *task.metadata.get("paraphrases", ()))
            for answer in task.golden_answers
            if normalize(answer)
        )
    ]


def leaked_passages(splits: Mapping[str, Iterable[QATask]]) -> set[str]:
    """The passages that are gold in more than one split."""
    owners: dict[str, set[str]] = {}
    for split, tasks in splits.items():
        for task in tasks:
            for gold in (passage for hop in task.gold_passages for passage in hop):
                owners.setdefault(gold, set()).add(split)
    return {passage for passage, found in owners.items() if len(found) > 1}


def unreachable_tasks(
    tasks: Sequence[QATask], retriever: Retriever, top_k: int = 3
) -> list[QATask]:
    """The tasks whose chain a perfect searcher cannot follow.

    Args:
        tasks: Tasks with ``metadata["chain"]``.
        retriever: What searches.
        top_k: How many passages a search gives.

    Returns:
        The tasks for which, at some hop, the query "subject relation" finds no gold passage.
    """
    queries = [f"{hop['subject']} {hop['relation']}" for task in tasks for hop in _chain(task)]
    distinct = list(dict.fromkeys(queries))
    found = dict(zip(distinct, _search_ids(retriever, distinct, top_k), strict=True))
    return [
        task
        for task in tasks
        if any(
            found[f"{hop['subject']} {hop['relation']}"].isdisjoint(gold)
            for hop, gold in zip(_chain(task), task.gold_passages, strict=True)
        )
    ]


def one_search_figures(
    tasks: Sequence[QATask], retriever: Retriever, top_k: int = 3
) -> OneSearchFigures:
    """How far one search with the question itself goes.

    Args:
        tasks: At least one task with gold passages.
        retriever: What searches.
        top_k: How many passages the search gives.

    Returns:
        The shares.
    """
    results = retriever.search([task.question for task in tasks], top_k)
    first = every = answered = 0
    for task, ranked in zip(tasks, results, strict=True):
        ids = {scored.passage.id for scored in ranked}
        hits = [not ids.isdisjoint(gold) for gold in task.gold_passages]
        text = " . ".join(f"{scored.passage.title}. {scored.passage.text}" for scored in ranked)
        first += hits[0]
        every += all(hits)
        answered += any(contains_words(text, answer) for answer in task.golden_answers)
    total = len(tasks)
    return OneSearchFigures(
        num_tasks=total,
        first_hop=first / total,
        all_hops=every / total,
        answer=answered / total,
    )


def majority_share(tasks: Sequence[QATask]) -> float:
    """The share of questions that one constant answer gets right, at best."""
    answers = Counter(normalize(task.golden_answers[0]) for task in tasks)
    return answers.most_common(1)[0][1] / len(tasks)


def _chain(task: QATask) -> Sequence[Mapping[str, str]]:
    chain: Sequence[Mapping[str, str]] = task.metadata["chain"]
    return chain


def _search_ids(retriever: Retriever, queries: Sequence[str], top_k: int) -> list[set[str]]:
    results = retriever.search(queries, top_k)
    return [{scored.passage.id for scored in ranked} for ranked in results]
