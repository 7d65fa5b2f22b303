"""Evidence of tasks: gold passages, queries, entities and texts on the way to an answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from calibadv_env.data.base import QATask
from calibadv_env.protocol.answers import contains_words
from calibadv_env.protocol.normalizing import normalize_answer
from calibadv_env.protocol.passages import Passage

EVIDENCE: Final = "evidence"
"""Key of a task's metadata: a list of ``{"title", "sentences", "passages"}``, one a hop; where it
is known, with the ``ids`` of documents and with other ``titles`` that will do."""

SEARCH_KEYS: Final = "search_keys"
"""Key of a task's metadata: for each hop a query, or a list of wordings of one (StepSearch)."""

ENTITIES: Final = "entities"
"""Key of a task's metadata: names that a correct chain of reasoning comes past (E-GRPO)."""

CLUSTER: Final = "cluster"
"""Key of a task's metadata: name of what questions hang together by."""

UNTELLING: Final = frozenset({"", "yes", "no"})
"""Normalised answers that say nothing by themselves, and whose presence in a text says nothing."""

_REFERENCE: Final = re.compile(r"#(\d+)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence of one hop.

    Attributes:
        title: Title of the article.
        sentences: The sentences that state the fact; empty where the dataset does not say.
        titles: Titles of other articles that will do as well.
        ids: Ids of the documents that hold it, any of which will do; a corpus that has none of
            these ids is searched by title.
    """

    title: str
    sentences: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def gold_hops(task: QATask) -> tuple[tuple[str, ...], ...]:
    """The gold passages of every hop, with an empty entry for a hop that the corpus lacks."""
    pieces = task.metadata.get(EVIDENCE, ())
    if pieces and all("passages" in piece for piece in pieces):
        return tuple(tuple(piece["passages"]) for piece in pieces)
    return task.gold_passages


def gold_queries(task: QATask) -> tuple[tuple[str, ...], ...]:
    """For each hop the wordings of a query that finds its evidence.

    They are what stands under ``metadata["search_keys"]``; else one query a hop where the task has
    a chain, see :func:`chain_queries`; else nothing.
    """
    keys = task.metadata.get(SEARCH_KEYS)
    if keys and isinstance(keys, (list, tuple)):
        return tuple(
            tuple(str(each) for each in key) if isinstance(key, (list, tuple)) else (str(key),)
            for key in keys
        )
    return tuple((query,) for query in chain_queries(task))


def cluster_of(task: QATask) -> str:
    """Name of what a question hangs together with others by: they stand on the same facts.

    It is what stands under ``metadata["cluster"]``; else what the last fact of the chain is about;
    else the first accepted answer in its normal form; else, where that says nothing ("yes"), the
    task itself.
    """
    named = task.metadata.get(CLUSTER)
    if isinstance(named, str) and named:
        return named
    chain = chain_of(task, "subject")
    if chain:
        return str(chain[-1]["subject"])
    answer = normalize_answer(task.golden_answers[0])
    return task.id if answer in UNTELLING else answer


def gold_entities(task: QATask) -> tuple[str, ...]:
    """Names that a correct chain of reasoning comes past, each once.

    They are what stands under ``metadata["entities"]``; else what each fact of
    ``metadata["chain"]`` leads to (what it starts from stands in the question or is led to before);
    else the titles of the evidence; else nothing.
    """
    metadata = task.metadata
    names: Iterable[str] = ()
    if isinstance(metadata.get(ENTITIES), (list, tuple)):
        names = metadata[ENTITIES]
    elif chain_of(task, "object"):
        names = [hop["object"] for hop in chain_of(task, "object")]
    elif metadata.get(EVIDENCE):
        names = [piece["title"] for piece in metadata[EVIDENCE] if piece["title"]]
    return tuple(dict.fromkeys(str(name) for name in names))


def gold_texts(task: QATask, passage: Callable[[str], Passage]) -> tuple[str, ...]:
    """The texts of a task's gold evidence.

    Args:
        task: Any task.
        passage: Gives the passage of an id.

    Returns:
        For each hop with gold passages the text of the first of them, without its title; for a
        hop without any the sentences of its evidence, or its title where it names none.
    """
    evidence = task.metadata.get(EVIDENCE) or ()
    texts = []
    for hop, golds in enumerate(task.gold_passages or ((),) * len(evidence)):
        if golds:
            texts.append(passage(golds[0]).text)
        elif hop < len(evidence):
            sentences = evidence[hop].get("sentences") or ()
            texts.append(" ".join(sentences) or evidence[hop]["title"])
    return tuple(texts)


def chain_queries(task: QATask) -> tuple[str, ...]:
    """One query a hop, for a searcher that knows the whole chain.

    The queries are "subject relation" of each fact in ``metadata["chain"]``; else the steps of
    ``metadata["question_decomposition"]``, with the right answers put in where a step refers to an
    earlier one; else the titles of the evidence. There are none where the task names none of these,
    or not one for each hop.
    """
    hops = gold_hops(task)
    metadata = task.metadata
    queries: tuple[str, ...] = ()
    steps = metadata.get("question_decomposition")
    chain = chain_of(task, "subject", "relation")
    if chain:
        queries = tuple(f"{hop['subject']} {hop['relation']}" for hop in chain)
    elif steps and isinstance(steps, (list, tuple)):
        queries = tuple(_resolved_steps(steps))
    if (not queries or len(queries) != len(hops)) and metadata.get(EVIDENCE):
        queries = tuple(piece["title"] for piece in metadata[EVIDENCE])
    return queries if hops and len(queries) == len(hops) else ()


def chain_of(task: QATask, *wanted: str) -> Sequence[Mapping[str, Any]]:
    """The facts under ``metadata["chain"]``, if all have the wanted parts; else none.

    Others keep something else under this name.
    """
    chain = task.metadata.get("chain")
    is_chain = isinstance(chain, (list, tuple)) and all(
        isinstance(hop, Mapping) and all(name in hop for name in wanted) for hop in chain
    )
    return chain if is_chain and chain else ()


def _resolved_steps(found: Sequence[Any]) -> Iterator[str]:
    """MuSiQue's steps as queries: "#1" is the answer of step 1, "A >> r" becomes "A r".

    A step that is a mere text, as in other datasets, is the question itself.
    """
    steps = [step if isinstance(step, Mapping) else {"question": step} for step in found]
    answers = [str(step.get("answer", "")) for step in steps]

    def answer_of(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return answers[number - 1] if 1 <= number <= len(answers) else match.group()

    for step in steps:
        text = _REFERENCE.sub(answer_of, str(step.get("question", "")))
        yield " ".join(text.replace(">>", " ").split())


def with_evidence(task: QATask, evidence: Sequence[Evidence]) -> QATask:
    """The task with its evidence in the metadata, and as many hops as there are pieces."""
    if not evidence:
        return task
    pieces = [
        {"title": e.title, "sentences": list(e.sentences)}
        | ({"titles": list(e.titles)} if e.titles else {})
        | ({"ids": list(e.ids)} if e.ids else {})
        for e in evidence
    ]
    return replace(task, hops=len(evidence), metadata={**task.metadata, EVIDENCE: pieces})


def sentences_stating(paragraph: str, answer: str) -> tuple[str, ...]:
    """The sentences of a paragraph in which an answer stands, or all of them if none does."""
    sentences = tuple(s for s in _SENTENCE_END.split(paragraph.strip()) if s)
    return tuple(s for s in sentences if contains_words(s, answer)) or sentences
