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
"""How one piece of evidence fared: the corpus has one passage of this title, or several and
nothing to choose by (``title``); several, of which some hold a sentence (``sentence``); several,
of which none does (``no_sentence``); none (``no_title``). The first two give gold passages."""

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
        for piece in evidence:
            wanted = self._sentences.setdefault(title_key(piece.title), {})
            wanted.update(dict.fromkeys(piece.sentences))

    def add(self, passage: Passage) -> None:
        """Looks at the next passage."""
        key = title_key(passage.title)
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
        key = title_key(evidence.title)
        of_title = self._by_title.get(key, [])
        if not of_title:
            return Match((), "no_title")
        if len(of_title) == 1 or not evidence.sentences:
            return Match(tuple(of_title), "title")
        holding = {
            passage_id
            for sentence in evidence.sentences
            for passage_id in self._by_sentence.get((key, sentence), [])
        }
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
        Evidence(title=piece["title"], sentences=tuple(piece["sentences"]))
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
