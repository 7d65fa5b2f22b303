"""Finds the passages of a corpus that hold the evidence which a dataset names by title. Pure.

Multi-hop datasets say which Wikipedia articles, and which sentences of them, an answer rests on.
A corpus of another year and cut into other pieces holds some of these and not others. This module
says which, in one pass over the corpus, and counts what was not found.
"""

from __future__ import annotations

import html
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import EVIDENCE, Evidence
from calibadv_env.protocol.answers import normalize_answer
from calibadv_env.protocol.passages import Passage

MIN_SHARE: Final = 0.5
"""Least share of a sentence's word triples that must stand in a passage. A corpus of another year
has edited sentences, and a cut every hundred words goes through the middle of some."""

Outcome = Literal["title", "sentence", "no_sentence", "no_title"]
"""How one piece of evidence fared: the dataset names no sentence and the corpus has passages of its
title, or of the ids that it names (``title``); some of those hold a sentence (``sentence``); none
does (``no_sentence``); there are none (``no_title``). The first two give gold passages."""

_QUOTES: Final = str.maketrans("", "", '"“”„«»')
_SHINGLE: Final = 3


@dataclass(frozen=True, slots=True)
class Match:
    """Passages of a corpus that hold one piece of evidence.

    Attributes:
        passages: Ids of the gold passages in corpus order, empty if there are none.
        outcome: How they were found, or why not.
    """

    passages: tuple[str, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldCounts:
    """Counts of what was found for the tasks of a split.

    Attributes:
        tasks: Number of tasks.
        tasks_with_evidence: Those that name evidence.
        tasks_complete: Those of them all of whose evidence the corpus holds.
        tasks_partial: Those of which it holds some.
        tasks_missing: Those of which it holds nothing.
        evidence: Pieces of evidence, one a hop.
        by_outcome: How many of these had each :data:`Outcome`.
    """

    tasks: int
    tasks_with_evidence: int
    tasks_complete: int
    tasks_partial: int
    tasks_missing: int
    evidence: int
    by_outcome: Mapping[Outcome, int]


class GoldFinder:
    """Collects, in one pass over a corpus, the passages that some evidence asks for.

    Memory grows with the evidence and with the passages that match it, not with the corpus.

    Args:
        evidence: All evidence that will be asked for.
    """

    def __init__(self, evidence: Iterable[Evidence]) -> None:
        self._sentences: dict[str, dict[str, None]] = {}
        self._by_title: dict[str, list[str]] = {}
        self._by_sentence: dict[tuple[str, str], list[str]] = {}
        self._by_id: dict[str, dict[str, str]] = {}
        for piece in evidence:
            self._by_id.update((one, {}) for one in piece.ids)
            for title in (piece.title, *piece.titles):
                if title_key(title):
                    wanted = self._sentences.setdefault(title_key(title), {})
                    wanted.update(dict.fromkeys(piece.sentences))

    def add(self, passage: Passage) -> None:
        """Looks at the next passage; one that was cut of a document is called ``<id>#number``."""
        key = title_key(passage.title)
        of_id = self._by_id.get(passage.id)
        if of_id is None and "#" in passage.id:
            of_id = self._by_id.get(passage.id.rpartition("#")[0])
        if of_id is not None:
            of_id[passage.id] = key
        sentences = self._sentences.get(key)
        if sentences is None:
            return
        self._by_title.setdefault(key, []).append(passage.id)
        if sentences:
            words = normalize_answer(passage.text).split()
            held = {size: _word_groups(words, size) for size in range(1, _SHINGLE + 1)}
            for sentence in sentences:
                if _share(shingles(sentence), held) >= MIN_SHARE:
                    self._by_sentence.setdefault((key, sentence), []).append(passage.id)

    def find(self, evidence: Evidence) -> Match:
        """The passages so far that match one of the finder's pieces of evidence, and how."""
        keys = [title_key(title) for title in (evidence.title, *evidence.titles)]
        holding = {
            passage_id
            for key in keys
            for sentence in evidence.sentences
            for passage_id in self._by_sentence.get((key, sentence), [])
        }
        named = [
            passage_id
            for one in evidence.ids
            for passage_id, key in self._by_id.get(one, {}).items()
            # A bare number may count something else in this corpus.
            if not one.isdigit() or not key or key in keys or not any(keys)
        ]
        if named:
            # Of a document that was cut the pieces with a sentence, if any has one.
            of_these = [passage_id for passage_id in named if passage_id in holding]
            return Match(tuple(of_these or named), "sentence" if of_these else "title")
        of_title = [i for key in dict.fromkeys(keys) for i in self._by_title.get(key, [])]
        if not of_title:
            return Match((), "no_title")
        if not evidence.sentences:
            return Match(tuple(of_title), "title")
        if not holding:
            return Match((), "no_sentence")
        return Match(tuple(i for i in of_title if i in holding), "sentence")


class GoldTally:
    """Adds up :class:`GoldCounts` task by task."""

    def __init__(self) -> None:
        self._tasks: Counter[str] = Counter()
        self._outcomes: Counter[Outcome] = Counter()

    def add(self, matches: Sequence[Match]) -> None:
        """Counts the evidence of one task, in hop order."""
        self._tasks["tasks"] += 1
        self._outcomes.update(match.outcome for match in matches)
        if matches:
            found = sum(bool(match.passages) for match in matches)
            kind = "complete" if found == len(matches) else "partial" if found else "missing"
            self._tasks[kind] += 1

    def counts(self) -> GoldCounts:
        """The sums so far."""
        tasks = self._tasks
        return GoldCounts(
            tasks=tasks["tasks"],
            tasks_with_evidence=tasks["complete"] + tasks["partial"] + tasks["missing"],
            tasks_complete=tasks["complete"],
            tasks_partial=tasks["partial"],
            tasks_missing=tasks["missing"],
            evidence=self._outcomes.total(),
            by_outcome={outcome: self._outcomes[outcome] for outcome in get_args(Outcome)},
        )


def evidence_of(task: QATask) -> tuple[Evidence, ...]:
    """The evidence that a task's metadata names, in hop order; empty if it names none."""
    return tuple(
        Evidence(
            title=piece["title"],
            sentences=tuple(piece.get("sentences") or ()),
            titles=tuple(piece.get("titles") or ()),
            ids=tuple(piece.get("ids") or ()),
        )
        for piece in task.metadata.get(EVIDENCE, ())
    )


def with_gold(task: QATask, matches: Sequence[Match]) -> QATask:
    """The task with the gold passages that were found, by the match of each piece of its evidence.

    ``gold_passages`` has one entry for each hop whose evidence was found. The metadata names the
    passages of every hop, none where nothing was found, and ``hops`` stays the number of all hops.
    """
    pieces: list[dict[str, Any]] = [
        {**piece, "passages": list(match.passages)}
        for piece, match in zip(task.metadata.get(EVIDENCE, ()), matches, strict=True)
    ]
    if not pieces:
        return task
    return replace(
        task,
        gold_passages=tuple(match.passages for match in matches if match.passages),
        metadata={**task.metadata, EVIDENCE: pieces},
    )


def find_gold(
    tasks: Sequence[QATask], corpus: Iterable[Passage]
) -> tuple[list[QATask], GoldCounts]:
    """The tasks with the passages of a corpus that hold their evidence, found in one pass.

    A task that has gold passages, or names no evidence, stays as it is, and is not counted among
    those with evidence.
    """
    wanted = [[] if task.gold_passages else evidence_of(task) for task in tasks]
    finder = GoldFinder(piece for pieces in wanted for piece in pieces)
    if any(wanted):
        for passage in corpus:
            finder.add(passage)
    tally = GoldTally()
    found = []
    for task, pieces in zip(tasks, wanted, strict=True):
        matches = [finder.find(piece) for piece in pieces]
        tally.add(matches)
        found.append(with_gold(task, matches) if matches else task)
    return found, tally.counts()


def needs_gold(task: QATask) -> bool:
    """True for a task that names evidence and no passages, where nobody has looked for these."""
    pieces: Sequence[Mapping[str, Any]] = task.metadata.get(EVIDENCE) or ()
    return bool(pieces) and not task.gold_passages and "passages" not in pieces[0]


def gold_warning(counts: GoldCounts) -> str:
    """A sentence on the evidence that a corpus lacks; "" if it lacks none."""
    lost = counts.by_outcome["no_title"] + counts.by_outcome["no_sentence"]
    if not lost:
        return ""
    return (
        f"{lost:,} of {counts.evidence:,} pieces of evidence are not in the corpus "
        f"({counts.by_outcome['no_title']:,} without their title, "
        f"{counts.by_outcome['no_sentence']:,} with the title and not the sentence); "
        f"{counts.tasks_missing:,} of {counts.tasks_with_evidence:,} questions that name evidence "
        f"have no gold passage, {counts.tasks_partial:,} have some"
    )


def title_key(title: str) -> str:
    """Reduces a title to what two spellings of it share.

    Entities of HTML are resolved, the text is brought to NFKC and folded to lower case,
    underscores become spaces, quotation marks go. Brackets stay: "Mercury (planet)" is not
    "Mercury".
    """
    text = unicodedata.normalize("NFKC", html.unescape(title)).casefold()
    return " ".join(text.replace("_", " ").translate(_QUOTES).split())


def shingles(sentence: str) -> frozenset[str]:
    """The word triples of a normalised sentence; the whole of it if it has fewer words."""
    words = normalize_answer(sentence).split()
    return frozenset(_word_groups(words, min(_SHINGLE, max(1, len(words)))))


def _word_groups(words: Sequence[str], size: int) -> set[str]:
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def _share(groups: frozenset[str], held: Mapping[int, set[str]]) -> float:
    """Share of a sentence's groups that a passage holds; 0 for a sentence without words."""
    if not groups:
        return 0.0
    size = next(iter(groups)).count(" ") + 1
    return len(groups & held[size]) / len(groups)
