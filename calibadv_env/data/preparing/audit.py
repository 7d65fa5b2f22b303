"""Measures what a corpus lets a searcher find, and whether questions are sound. Pure.

A question whose answer the corpus does not hold cannot be answered from it, whatever the
algorithm; how many there are belongs beside every score. All measures work on any dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import UNTELLING, chain_queries, gold_hops
from calibadv_env.protocol.answers import (
    SearchableAnswers,
    contains_answer,
    contains_words,
    searchable_answers,
)
from calibadv_env.protocol.normalizing import (
    NormalForm,
    Normalizer,
    form_for,
    normal,
    normalize_answer,
)
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import Retriever

_BATCH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSearchFigures:
    """Coverage of one search with the question itself, as shares of the questions asked.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Coverage of questions by a corpus and by searches; None where undefined.

    Attributes:
        num_tasks: Number of questions.
        num_telling: Those with an accepted answer other than yes, no and nothing; the shares of
            answers are shares of these.
        num_with_gold: Those that name their evidence; the shares of gold are shares of these.
        num_with_chain: Those of them with a query for each hop.
        num_telling_with_chain: Those of them with a telling answer.
        answer_in_corpus: An accepted answer stands in some passage, as whole words. An upper
            bound: a short answer stands in passages that say nothing on the question.
        gold_in_corpus: The corpus holds gold passages for every hop.
        one_search_answer: An accepted answer stands in what one search with the question finds.
        one_search_gold: That search finds gold passages for every hop.
        chain_answer: As ``one_search_answer``, for the searches of the chain taken together;
            share of the questions with a chain and a telling answer.
        chain_gold: Each search of the chain finds a gold passage of its hop; share of the
            questions with a chain.
    """

    num_tasks: int
    num_telling: int
    num_with_gold: int
    num_with_chain: int
    num_telling_with_chain: int
    answer_in_corpus: float | None
    gold_in_corpus: float | None
    one_search_answer: float | None
    one_search_gold: float | None
    chain_answer: float | None
    chain_gold: float | None


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
            if normalize_answer(answer)
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


def majority_share(tasks: Sequence[QATask]) -> float:
    """The share of questions that one constant answer gets right, at best."""
    answers = Counter(normalize_answer(task.golden_answers[0]) for task in tasks)
    return answers.most_common(1)[0][1] / len(tasks)


def unreachable_tasks(
    tasks: Sequence[QATask], retriever: Retriever, top_k: int = 3
) -> list[QATask]:
    """The tasks whose chain a perfect searcher cannot follow with searches for ``top_k`` passages.

    They are those without a chain (:func:`chain_queries`), and those for which at some hop its
    query finds no gold passage.
    """
    queries = dict.fromkeys(query for task in tasks for query in chain_queries(task))
    found = _search(retriever, list(queries), top_k)
    return [task for task in tasks if not _is_reached(task, found)]


def one_search_figures(
    tasks: Sequence[QATask], retriever: Retriever, top_k: int = 3
) -> OneSearchFigures:
    """How far one search with the question itself goes.

    Args:
        tasks: At least one task, each with gold passages.
        retriever: Retriever to audit.
        top_k: How many passages the search gives.
    """
    results = retriever.search([task.question for task in tasks], top_k)
    first = every = answered = 0
    for task, ranked in zip(tasks, results, strict=True):
        hits = hops_hit(task, ranked)
        first += hits[0]
        every += all(hits)
        answered += _is_answered(searchable_answers(task.golden_answers, "auto"), ranked)
    total = len(tasks)
    return OneSearchFigures(
        num_tasks=total,
        first_hop=first / total,
        all_hops=every / total,
        answer=answered / total,
    )


def hops_hit(task: QATask, ranked: Iterable[ScoredPassage]) -> list[bool]:
    """For each hop whether one of its gold passages is among those found."""
    ids = {scored.passage.id for scored in ranked}
    return [not ids.isdisjoint(gold) for gold in gold_hops(task)]


def telling_answers(
    task: QATask, normalizer: Normalizer = "auto"
) -> frozenset[tuple[NormalForm, str]]:
    """The accepted answers whose presence in a text means something, each in its normal form."""
    forms = [(form_for(golden, normalizer), golden) for golden in task.golden_answers]
    found = frozenset((form, normal(golden, form)) for form, golden in forms)
    return frozenset(pair for pair in found if pair[1] not in UNTELLING)


class AnswerScan:
    """Finds, in one pass over a corpus, which of many answers stand in it.

    The words of a passage, and its pairs of words, are looked up as two sets. Only where a pair
    begins an answer are the words that follow compared with the answers that begin so. Time grows
    with the corpus, and hardly with the number of answers.

    Args:
        answers: Normalised answers, none empty.
        form: Their normal form.
    """

    def __init__(self, answers: Iterable[str], form: NormalForm = "squad") -> None:
        self._form = form
        self._words: set[str] = set()
        self._by_pair: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        for answer in set(answers):
            words = tuple(answer.split(" "))
            if len(words) == 1:
                self._words.add(answer)
            else:
                self._by_pair.setdefault((words[0], words[1]), []).append(words)
        self.found: set[str] = set()

    def add(self, passage: Passage) -> None:
        """Looks at the next passage. An answer that was found is not looked for again."""
        title, text = normal(passage.title, self._form), normal(passage.text, self._form)
        # The bar, which no answer holds, ends the title.
        words = (*title.split(), "|", *text.split())
        single = self._words.intersection(words)
        if single:
            self._words -= single
            self.found |= single
        for pair in self._by_pair.keys() & pairwise(words):
            self._compare(pair, words)

    def _compare(self, pair: tuple[str, str], words: tuple[str, ...]) -> None:
        """Looks for the answers that begin with a pair of words."""
        starts = [i for i, follows in enumerate(pairwise(words)) if follows == pair]
        left = []
        for answer in self._by_pair[pair]:
            if any(words[i : i + len(answer)] == answer for i in starts):
                self.found.add(" ".join(answer))
            else:
                left.append(answer)
        if left:
            self._by_pair[pair] = left
        else:
            del self._by_pair[pair]


class CoverageTally:
    """Adds up :class:`Coverage` task by task.

    Args:
        found: The answers that stand in the corpus, of those of :func:`telling_answers`.
        retriever: Retriever to audit; None leaves the searches out.
        top_k: How many passages a search gives.
        normalizer: Normal form in which answers are looked for.
    """

    def __init__(
        self,
        found: set[tuple[NormalForm, str]],
        retriever: Retriever | None,
        top_k: int = 3,
        normalizer: Normalizer = "auto",
    ) -> None:
        self._found = found
        self._normalizer = normalizer
        self._retriever = retriever
        self._top_k = top_k
        self._counts: Counter[str] = Counter()

    def add(self, tasks: Sequence[QATask]) -> None:
        """Counts some tasks; their searches go to the retriever in one call."""
        for task in tasks:
            self._count_presence(task)
        if self._retriever is None:
            return
        chains = [chain_queries(task) for task in tasks]
        queries = dict.fromkeys(task.question for task in tasks)
        queries.update(dict.fromkeys(query for chain in chains for query in chain))
        ranked = _search(self._retriever, list(queries), self._top_k)
        for task, chain in zip(tasks, chains, strict=True):
            self._count_searches(task, chain, ranked)

    def coverage(self) -> Coverage:
        """The figures so far."""
        counts = self._counts
        searched = self._retriever is not None

        def share(name: str, of: str) -> float | None:
            return counts[name] / counts[of] if counts[of] else None

        return Coverage(
            num_tasks=counts["tasks"],
            num_telling=counts["telling"],
            num_with_gold=counts["gold"],
            num_with_chain=counts["chain"],
            num_telling_with_chain=counts["telling_chain"],
            answer_in_corpus=share("answer_in_corpus", "telling"),
            gold_in_corpus=share("gold_in_corpus", "gold"),
            one_search_answer=share("one_search_answer", "telling") if searched else None,
            one_search_gold=share("one_search_gold", "gold") if searched else None,
            chain_answer=share("chain_answer", "telling_chain") if searched else None,
            chain_gold=share("chain_gold", "chain") if searched else None,
        )

    def _count_presence(self, task: QATask) -> None:
        counts, hops = self._counts, gold_hops(task)
        answers = telling_answers(task, self._normalizer)
        has_chain = bool(chain_queries(task))
        counts["tasks"] += 1
        counts["telling"] += bool(answers)
        counts["answer_in_corpus"] += not self._found.isdisjoint(answers)
        counts["gold"] += bool(hops)
        counts["gold_in_corpus"] += bool(hops) and all(hops)
        counts["chain"] += has_chain
        counts["telling_chain"] += has_chain and bool(answers)

    def _count_searches(
        self, task: QATask, chain: Sequence[str], ranked: Mapping[str, list[ScoredPassage]]
    ) -> None:
        counts = self._counts
        answers = _searchable(telling_answers(task, self._normalizer))
        hits = hops_hit(task, ranked[task.question])
        counts["one_search_gold"] += bool(hits) and all(hits)
        counts["one_search_answer"] += _is_answered(answers, ranked[task.question])
        if chain:
            together = [scored for query in chain for scored in ranked[query]]
            counts["chain_answer"] += _is_answered(answers, together)
            counts["chain_gold"] += _is_reached(task, ranked)


def measure_coverage(
    tasks: Iterable[QATask],
    passages: Iterable[Passage],
    retriever: Retriever | None,
    top_k: int = 3,
    normalizer: Normalizer = "auto",
) -> Coverage:
    """Measures what a corpus holds of some questions and what searches reach.

    Args:
        tasks: The questions; gone through twice.
        passages: The corpus; gone through once.
        retriever: Retriever to audit; None leaves the searches out.
        top_k: How many passages a search gives.
        normalizer: Normal form in which answers are looked for.
    """
    wanted = {pair for task in tasks for pair in telling_answers(task, normalizer)}
    forms = sorted({form for form, _ in wanted})
    scans = {form: AnswerScan((a for f, a in wanted if f == form), form) for form in forms}
    for passage in passages:
        for scan in scans.values():
            scan.add(passage)
    found = {(form, answer) for form, scan in scans.items() for answer in scan.found}
    tally = CoverageTally(found, retriever, top_k, normalizer)
    stream: Iterator[QATask] = iter(tasks)
    while batch := list(islice(stream, _BATCH)):
        tally.add(batch)
    return tally.coverage()


def _is_reached(task: QATask, found: Mapping[str, list[ScoredPassage]]) -> bool:
    """Tells if each search of a task's chain finds a gold passage of its own hop."""
    chain = chain_queries(task)
    return bool(chain) and all(
        any(scored.passage.id in gold for scored in found[query])
        for query, gold in zip(chain, gold_hops(task), strict=True)
    )


def _search(
    retriever: Retriever, queries: Sequence[str], top_k: int
) -> dict[str, list[ScoredPassage]]:
    return dict(zip(queries, retriever.search(queries, top_k), strict=True)) if queries else {}


def _searchable(answers: Iterable[tuple[NormalForm, str]]) -> SearchableAnswers:
    """What :func:`telling_answers` gives, as texts are searched for it."""
    return tuple((form, (f" {answer} ",)) for form, answer in answers)


def _is_answered(answers: SearchableAnswers, ranked: Iterable[ScoredPassage]) -> bool:
    texts = [(scored.passage.title, scored.passage.text) for scored in ranked]
    return contains_answer(texts, answers)
