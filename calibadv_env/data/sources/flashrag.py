"""FlashRAG's benchmarks: from a folder on disk, or from the hub.

A record is ``{"id", "question", "golden_answers", "metadata"}``. The metadata of HotpotQA and
2WikiMultihopQA holds ``supporting_facts`` (columns ``title`` and ``sent_id``) and ``context``
(columns ``title`` and ``sentences``, in 2WikiMultihopQA ``content``); that of MuSiQue holds
``question_decomposition``, a list of steps each with its ``support_paragraph``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from calibadv_env.common.jsonl import read_jsonl
from calibadv_env.common.records.keys import is_blank
from calibadv_env.data.base import QATask, parse_task
from calibadv_env.data.evidence import EVIDENCE, Evidence, sentences_stating, with_evidence
from calibadv_env.data.folders import split_of_name, stem_of
from calibadv_env.data.names import SPLITS
from calibadv_env.data.questions.evidence_forms import LOST, evidence_in, lost_sentences
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.questions.unanswered import NO_ANSWER, is_empty
from calibadv_env.data.reading import read_rows
from calibadv_env.data.sources.hub import load_from_hub, row_of
from calibadv_env.errors import DataError

HUB: Final = "RUC-NLPIR/FlashRAG_datasets"
"""The repository with all benchmarks, one configuration each."""

_BULKY: Final = ("context", "paragraphs")
"""Metadata that is not kept: whole articles, gold and not, many kilobytes a task."""


class Source(Protocol):
    """Where the records of one benchmark come from; can be read more than once."""

    @property
    def label(self) -> str:
        """Its name in a report."""
        ...

    def splits(self) -> tuple[str, ...]:
        """The splits that it holds.

        Raises:
            DataError: if it holds none, or cannot be read.
        """
        ...

    def records(self, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The records of a split, each with its place for error messages.

        Raises:
            DataError: if a record cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FlashragFolder:
    """One benchmark in a copy of FlashRAG's data.

    Attributes:
        folder: The folder with ``train.jsonl``, ``dev.jsonl`` or ``test.jsonl`` (or
            ``.jsonl.gz``).
    """

    folder: Path

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return f"FlashRAG folder {self.folder}"

    def splits(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        found = tuple(split for split in SPLITS if split_file(self.folder, split))
        if not found:
            names = ", ".join(f"{split}.jsonl" for split in SPLITS)
            raise DataError(f"{self.folder}: the folder holds none of {names}")
        return found

    def records(self, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`Source`."""
        path = split_file(self.folder, split)
        if path is None:
            raise DataError(f"{self.folder}: the folder holds no {split}.jsonl")
        for number, record in read_jsonl(path):
            yield f"{path}:{number}", record


@dataclass(frozen=True, slots=True)
class FlashragHub:
    """One benchmark on the hub, fetched and kept by the package ``datasets``.

    Attributes:
        config: Name of the configuration, such as "hotpotqa".
        repository: The repository, or a local copy of it.
    """

    config: str
    repository: str = HUB

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return f"hub {self.repository} {self.config}"

    def splits(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        found = self._load()
        return tuple(split for split in SPLITS if split in found)

    def records(self, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`Source`."""
        for number, row in enumerate(self._load()[split]):
            yield f"{self.label} {split}[{number}]", row_of(row)

    def _load(self) -> Any:
        fetch = how_to_fetch(self.config)
        return load_from_hub(self.repository, self.config, self.label, fetch)


@dataclass(frozen=True)
class OriginalFiles:
    """One benchmark in files of other people's, such as those that its authors publish.

    Attributes:
        paths: The files; a word in a name says which split it is, else ``eval_split``.
        eval_split: The split that the benchmark is evaluated on.
        reading: Rules and counts of the questions.
    """

    paths: tuple[Path, ...]
    eval_split: str
    reading: QuestionReading = field(default_factory=QuestionReading)
    _counted: set[Path] = field(default_factory=set, compare=False, repr=False)

    @property
    def label(self) -> str:
        """See :class:`Source`."""
        return "files " + " ".join(str(path) for path in self.paths)

    def splits(self) -> tuple[str, ...]:
        """See :class:`Source`."""
        found = [self._split_of(path) for path in self.paths]
        if len(set(found)) != len(found):
            raise DataError(f"{self.label}: each split must be one file, got {', '.join(found)}")
        return tuple(split for split in SPLITS if split in found)

    def records(self, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`Source`."""
        for path in self.paths:
            if self._split_of(path) == split:
                reading = self.reading
                if path in self._counted and not reading.wants_paragraphs:
                    # Files are read more than once, and what is left out of them counts once.
                    reading = replace(reading, counts=Counter(), splits=Counter(), mapping={})
                self._counted.add(path)
                for row in read_rows(path, "", reading):
                    task = row.task
                    record = {"id": task.id, "question": task.question, "metadata": task.metadata}
                    yield row.place, {**record, "golden_answers": list(task.golden_answers)}

    def _split_of(self, path: Path) -> str:
        return split_of_name(stem_of(path)) or self.eval_split


def how_to_fetch(name: str) -> str:
    """Instructions for fetching a benchmark, by FlashRAG's name, and where to put it."""
    return (
        f"Get the files https://huggingface.co/datasets/{HUB}/resolve/main/{name}/"
        "{train,dev,test}.jsonl, as far as there are such, for instance on a machine with "
        "internet access by\n"
        f"  hf download {HUB} --repo-type dataset --include '{name}/*' "
        "--local-dir FlashRAG_datasets\n"
        f"then copy FlashRAG_datasets here and run\n"
        f"  calibadv data prepare {name} --from flashrag FlashRAG_datasets"
    )


def tasks_of(
    source: Source, split: str, counts: Counter[str] | None = None
) -> Iterator[tuple[QATask, int]]:
    """The tasks of a split, each with its number of blank answers.

    Args:
        source: Where the records come from.
        split: Name of the split.
        counts: Is told, by what it is, what was left out or not found; None tells nobody.

    Raises:
        DataError: if a record is faulty or repeats an id, with its place.
    """
    places: dict[str, str] = {}
    for place, record in source.records(split):
        if counts is not None:
            counts[LOST] += lost_sentences(record)
            counts[NO_ANSWER] += is_empty(record.get("golden_answers", True))
        if is_empty(record.get("golden_answers", True)):
            continue
        try:
            task, num_blank = parse_record(record)
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        if task.id in places:
            raise DataError(f"{place}: id {task.id!r} stands at {places[task.id]} too")
        places[task.id] = place
        yield task, num_blank


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split, plain or gzip; None if there is none."""
    paths = [folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz"]
    return next((path for path in paths if path.is_file()), None)


def parse_record(record: Mapping[str, Any]) -> tuple[QATask, int]:
    """The task of one of FlashRAG's records, with its evidence, and its number of blank answers.

    A whole number as an id is taken as its digits. Blank accepted answers are left out. The
    articles that come with a task (``context``, ``paragraphs``) are not kept, but for the
    supporting sentences.

    Raises:
        ValueError: if a key is missing or a value has the wrong type, naming the key.
    """
    clean = dict(record)
    if isinstance(clean.get("id"), int) and not isinstance(clean["id"], bool):
        clean["id"] = str(clean["id"])
    num_blank = 0
    answers = clean.get("golden_answers")
    if isinstance(answers, list):
        kept = [a for a in answers if not (isinstance(a, str) and is_blank(a))]
        num_blank = len(answers) - len(kept)
        clean["golden_answers"] = kept
    metadata = clean.get("metadata")
    evidence: Sequence[Evidence] = ()
    if isinstance(metadata, dict):
        evidence = () if EVIDENCE in metadata else parse_evidence(metadata)
        clean["metadata"] = {k: v for k, v in metadata.items() if k not in _BULKY}
        if "question_decomposition" in metadata:
            clean["metadata"]["question_decomposition"] = [
                {k: v for k, v in step.items() if k != "support_paragraph"}
                for step in metadata["question_decomposition"] or ()
            ]
    clean = {k: v for k, v in clean.items() if k not in _BULKY}
    task = parse_task(clean)
    if not evidence and EVIDENCE not in task.metadata:
        # Some copies keep it beside the metadata, or one level further down.
        evidence, _ = evidence_in(record, task.golden_answers)
    return with_evidence(task, evidence), num_blank


def parse_evidence(metadata: Mapping[str, Any]) -> tuple[Evidence, ...]:
    """The evidence that a record's metadata names; may be none.

    For HotpotQA and 2WikiMultihopQA it is one piece an article, in the order in which the
    supporting facts name them; for MuSiQue one a step of the decomposition. A supporting sentence
    that the context does not hold is left out; its title is not.

    Raises:
        ValueError: if a value has the wrong type, naming the key.
    """
    if metadata.get("question_decomposition"):
        steps = _records(metadata, "question_decomposition")
        return tuple(e for i, step in enumerate(steps) if (e := _evidence_of_step(step, i)))
    if not metadata.get("supporting_facts"):
        return ()
    articles = _articles(metadata.get("context"))
    sentences: dict[str, list[str]] = {}
    for title, number in _pairs(metadata["supporting_facts"]):
        kept = sentences.setdefault(title, [])
        article = articles.get(title, ())
        if 0 <= number < len(article) and article[number].strip():
            kept.append(article[number].strip())
    return tuple(
        Evidence(title=title, sentences=tuple(dict.fromkeys(kept)))
        for title, kept in sentences.items()
    )


def _evidence_of_step(step: Mapping[str, Any], number: int) -> Evidence | None:
    place = f"question_decomposition[{number}]"
    paragraph = step.get("support_paragraph")
    if paragraph is None:
        return None
    if not isinstance(paragraph, dict):
        raise ValueError(f"{place}.support_paragraph must be an object")
    title, text = paragraph.get("title"), paragraph.get("paragraph_text", "")
    if not isinstance(title, str) or not isinstance(text, str):
        raise ValueError(f"{place}.support_paragraph must have a text as title and paragraph_text")
    answer = step.get("answer")
    stating = sentences_stating(text, answer if isinstance(answer, str) else "")
    return Evidence(title=title, sentences=stating)


def _records(metadata: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    values = metadata[key]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"metadata.{key} must be a list of objects")
    return values


def _pairs(facts: Any) -> list[tuple[str, int]]:
    """The supporting facts as pairs, from columns or from a list of pairs."""
    key = "metadata.supporting_facts"
    if isinstance(facts, dict):
        facts = _zipped(key, facts.get("title"), facts.get("sent_id"), "sent_id", "sent_id")
    if not isinstance(facts, list):
        raise ValueError(f"{key} must be an object or a list, got {type(facts).__name__}")
    for fact in facts:
        is_pair = isinstance(fact, (list, tuple)) and len(fact) == 2
        if not is_pair or not isinstance(fact[0], str) or not isinstance(fact[1], int):
            raise ValueError(f"{key} must pair a title with a sentence number, got {fact!r:.80}")
    return [(fact[0], fact[1]) for fact in facts]


def _zipped(key: str, titles: Any, others: Any, names: str, kind: str) -> list[tuple[Any, Any]]:
    """Two columns as pairs; ``names`` and ``kind`` name the second one in messages."""
    if not isinstance(titles, list) or not isinstance(others, list):
        raise ValueError(f"{key} must have lists as title and {names}")
    if len(titles) != len(others):
        raise ValueError(
            f"{key} must have as many title as {kind}, got {len(titles)} and {len(others)}"
        )
    return list(zip(titles, others, strict=True))


def _articles(context: Any) -> dict[str, Sequence[str]]:
    """Title -> sentences, from columns or from a list of pairs; the first of equal titles."""
    key = "metadata.context"
    if not context:
        return {}
    if isinstance(context, dict):
        bodies = context.get("sentences", context.get("content"))
        context = _zipped(key, context.get("title"), bodies, "as sentences or content", "texts")
    if not isinstance(context, list):
        raise ValueError(f"{key} must be an object or a list, got {type(context).__name__}")
    articles: dict[str, Sequence[str]] = {}
    for article in context:
        is_pair = isinstance(article, (list, tuple)) and len(article) == 2
        if not is_pair or not isinstance(article[1], list):
            raise ValueError(f"{key} must pair a title with sentences, got {article!r:.80}")
        if not all(isinstance(sentence, str) for sentence in article[1]):
            raise ValueError(f"{key} must hold texts as sentences, got {article!r:.80}")
        articles.setdefault(article[0], article[1])
    return articles
