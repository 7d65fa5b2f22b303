"""Questions of records, by one set of rules for every file and every object."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from calibadv_env.common.records.headerless import peeked, question_columns, said
from calibadv_env.common.records.keys import (
    ALIASES,
    ID,
    at_path,
    find_key,
    is_blank,
    is_missing,
    number_text,
    squashed,
)
from calibadv_env.common.records.values import parsed_literal, plain
from calibadv_env.data.base import QATask, parse_task
from calibadv_env.data.evidence import EVIDENCE, SEARCH_KEYS, with_evidence
from calibadv_env.data.questions.answers import (
    SAID_KEYS,
    find_answers,
    has_rival,
    is_hidden,
)
from calibadv_env.data.questions.evidence_forms import (
    LOST,
    evidence_in,
    layers_of,
    lost_sentences,
    queries_in,
)
from calibadv_env.data.questions.finding import find_question, is_headerless
from calibadv_env.data.questions.paragraphs import PARAGRAPH_KEYS, paragraphs_of
from calibadv_env.data.questions.published import JOINT, LANGUAGES, TALK, in_articles, unfolded
from calibadv_env.data.questions.unanswered import (
    NO_ANSWER,
    NoAnswerError,
    has_empty_list,
    is_unanswerable,
    may_answer,
    no_answer,
)
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.passage_records import check_columns

COLUMNS: Final = ("id", "question", "answers", "split")
"""What the columns of questions can be mapped to."""

_SEPARATORS: Final = ("|", ";")
_DOCUMENTS: Final = "|"
_OWN_KEYS: Final = ("gold_passages", "hops", "metadata")
_UNANSWERABLE: Final = "unanswerable questions left out"
_UNREAD: Final = "pieces of evidence that cannot be read"
_TWICE: Final = "questions that stand more than once with other answers"
_NULL: Final = "answers that are a word for a missing value (null, None, NaN, N/A), taken as text"
_NULLS: Final = frozenset({"null", "none", "nan", "n/a", "<na>", "na"})
_SAID: Final = (
    "questions whose answer is what a model or an assistant said; right in a set of examples, and "
    "wrong in a log of rollouts"
)
_RIVAL: Final = (
    "questions with another answer under a second key, which was not taken; --columns answers=KEY "
    "(in Python columns={'answers': KEY}) takes the other one"
)
_WARNED: Final = (
    _UNANSWERABLE,
    NO_ANSWER,
    _UNREAD,
    LOST,
    _NULL,
    _RIVAL,
    _SAID,
    JOINT,
    LANGUAGES,
    TALK,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A question as a reader found it.

    Attributes:
        place: Where it stands, such as ``quiz.csv:7``, for messages.
        task: The task.
        split: Split that the row itself names, if it does.
    """

    place: str
    task: QATask
    split: Any = None


@dataclass
class QuestionReading:
    """Reads records as questions, and keeps count of what was guessed and left out.

    Attributes:
        columns: Keys, or paths of keys with dots, of ``id``, ``question`` and ``answers``, where
            the names do not say it.
        separator: Stands between the answers of one text; "" if a text is one answer.
        wants_paragraphs: If true, the paragraphs that the records carry are kept.
        mapping: For each of ``id``, ``question`` and ``answers`` the keys it was read from.
        counts: How often something was done, by what it is.
        splits: Questions by the split that they name.
        paragraphs: The paragraphs by id, in order, if they are wanted.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str = ""
    wants_paragraphs: bool = False
    mapping: dict[str, dict[str, None]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    paragraphs: dict[str, Passage] = field(default_factory=dict)
    _guessed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses columns of other things."""
        check_columns(self.columns, COLUMNS)

    def rows(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
        """The questions of records, each with its place; a warning says what was left out.

        Raises:
            DataError: if a record has no question or no answer, with its place and its keys.
        """
        before = Counter(self.counts)
        made: Counter[str] = Counter()
        asked: dict[int, int] = {}
        place = ""
        num_read = 0
        first_blank: DataError | None = None
        first, records = peeked(records)
        self._guessed = {} if self.columns else _guessed(first)
        for outer, record in records:
            for place, inner in self._questions(outer, record):
                try:
                    row = self._row(place, inner)
                except NoAnswerError as error:
                    if not error.is_blank:
                        raise DataError(f"{place}: {error}") from error
                    first_blank = first_blank or DataError(f"{place}: {error}")
                    self.counts[NO_ANSWER] += 1
                    continue
                except ValueError as error:
                    raise DataError(f"{place}: {error}") from error
                if row is None:
                    continue
                num_read += 1
                answers = hash(row.task.golden_answers)
                self.counts[_TWICE] += asked.setdefault(hash(row.task.question), answers) != answers
                if "id" not in self.mapping or row.task.id.startswith("q-"):
                    row = self._distinct(row, made)
                yield row
        if first_blank is not None and not num_read:
            raise first_blank
        self._warn(place, self.counts - before)

    def _questions(
        self, place: str, record: Mapping[str, Any]
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The questions of a record; where the user names keys, these are those of the record."""
        unfold = in_articles if self._named else unfolded
        return unfold(place, record, self.counts)

    @property
    def _named(self) -> Mapping[str, str]:
        """The columns that the user names, or that a table without a header seems to have."""
        return self.columns or self._guessed

    def notes(self) -> dict[str, str]:
        """What was guessed and left out, in words."""
        found = {f"{name} read from": ", ".join(keys) for name, keys in self.mapping.items()}
        if len(self.splits) > 1:
            named = (f"{split} {count:,}" for split, count in self.splits.items())
            found["splits that the questions name"] = ", ".join(named)
        return found | {what: f"{count:,}" for what, count in sorted(self.counts.items()) if count}

    def left_out(self) -> str:
        """The end of a message that no question was found: what was left out; "" if nothing."""
        found = [f"{self.counts[w]:,} {w}" for w in (_UNANSWERABLE, NO_ANSWER) if self.counts[w]]
        return f" ({', '.join(found)})" if found else ""

    def _distinct(self, row: Row, made: Counter[str]) -> Row:
        """A made id that came before gets a number behind it."""
        made[row.task.id] += 1
        number = made[row.task.id]
        if number == 1:
            return row
        return replace(row, task=replace(row.task, id=f"{row.task.id}-{number}"))

    def _warn(self, place: str, counts: Counter[str]) -> None:
        where = place.rpartition(":")[0] or place
        if self._guessed:
            warnings.warn(f"{where}: {said(self._guessed, '--columns')}", stacklevel=2)
        for what in _WARNED:
            if counts[what]:
                warnings.warn(f"{where}: {counts[what]:,} {what}", stacklevel=2)
        for mark in _SEPARATORS:
            count = counts[_held(mark)]
            if count:
                text = (
                    f"{where}: {count:,} answers hold {mark!r} and are taken as one answer each; "
                    f"if it stands between answers, --answer-separator {mark!r} (in Python "
                    f"answer_separator={mark!r}) parts them"
                )
                warnings.warn(text, stacklevel=2)

    def _row(self, place: str, record: Mapping[str, Any]) -> Row | None:
        if is_unanswerable(record):
            self.counts[_UNANSWERABLE] += 1
            return None
        if has_empty_list(record, self._named.get("answers")):
            self.counts[NO_ANSWER] += 1
            return None
        split = at_path(record, self._named.get("split", "split"))
        if isinstance(split, str) and split:
            self.splits[split] += 1
        if _is_own(record) and not self._named:
            task = parse_task(_without_blanks(record, self.counts))
            self._note("id", "id")
            self._note("question", "question")
            self._note("answers", "golden_answers")
        else:
            task = self._task({k: v for k, v in record.items() if k != "split"})
        if EVIDENCE in task.metadata and not _is_evidence(task.metadata[EVIDENCE]):
            renamed = {k: v for k, v in task.metadata.items() if k != EVIDENCE}
            renamed[f"{EVIDENCE}_as_published"] = task.metadata[EVIDENCE]
            task = replace(task, metadata=renamed)
        if self.wants_paragraphs:
            self._keep_paragraphs(record)
        if not task.gold_passages and EVIDENCE not in task.metadata:
            evidence, num_unread = evidence_in(record, task.golden_answers)
            task = with_evidence(task, evidence)
            self.counts[_UNREAD] += num_unread
            self.counts[LOST] += lost_sentences(record)
        return Row(place=place, task=task, split=split or task.metadata.get("split"))

    def _task(self, record: Mapping[str, Any]) -> QATask:
        if "id" in record and not self._named and not may_answer(record):
            raise no_answer(record, "", {})
        question_key, question = find_question(record, self._named.get("question"))
        answers_at = self._named.get("answers") or ("1" if question_key == "0" else None)
        answer_key, answers = find_answers(record, answers_at, self.separator)
        answers = [answer for answer in answers if not is_hidden(answer)]
        if not answers:
            raise no_answer(record, answer_key, self._named)
        if len(answers) == 1 and not self.separator:
            # A long answer may well hold a semicolon; under "answers" it may part them.
            marks = _SEPARATORS if answer_key.lower().endswith("answers") else _SEPARATORS[:1]
            self.counts.update(_held(mark) for mark in marks if mark in answers[0])
        self.counts[_NULL] += len(answers) == 1 and answers[0].strip().lower() in _NULLS
        self.counts[_SAID] += answer_key in SAID_KEYS and answer_key not in self._named.values()
        if self._named.get("answers") is None:
            self.counts[_RIVAL] += has_rival(record, answer_key, answers)
        self._note("question", question_key)
        self._note("answers", answer_key)
        id_key = self._named.get("id") or find_key(record, ID)
        raw = None if id_key is None else at_path(record, id_key)
        if id_key is not None and not is_missing(raw):
            self._note("id", id_key)
            task_id = _id(raw, id_key)
        else:
            self.counts["ids made of the content"] += 1
            task_id = made_id(question, answers)
        used = {question_key, answer_key, id_key, *_OWN_KEYS}
        used |= {key for key in record if squashed(key) in _SQUASHED_ALIASES}
        own = {key: record[key] for key in _OWN_KEYS if not is_missing(record.get(key))}
        if isinstance(own.get("hops"), str) and own["hops"].strip().isdigit():
            own["hops"] = int(own["hops"])
        if isinstance(own.get("gold_passages"), str):
            own["gold_passages"] = parsed_literal(own["gold_passages"]) or own["gold_passages"]
        documents = record.get("documents")
        if isinstance(documents, str) and not isinstance(parsed_literal(documents), list):
            parts = (part.strip() for part in documents.split(_DOCUMENTS))
            own["gold_passages"] = [[part] for part in parts if part]
            used.add("documents")
        own["metadata"] = _metadata(record, used, own.get("metadata"))
        if not own["metadata"]:
            del own["metadata"]
        return parse_task({"id": task_id, "question": question, "golden_answers": answers, **own})

    def _keep_paragraphs(self, record: Mapping[str, Any]) -> None:
        for layer in layers_of(record):
            for paragraph in paragraphs_of(layer):
                passage = paragraph.passage
                held = self.paragraphs.setdefault(passage.id, passage)
                if held != passage:
                    self.counts["documents of one id with different texts"] += 1

    def _note(self, name: str, key: str) -> None:
        self.mapping.setdefault(name, {})[key] = None


_SQUASHED_ALIASES: Final = frozenset(map(squashed, ALIASES))


def _guessed(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of rows without a header; where none asks, those of question and answers."""
    found = question_columns(rows)
    is_pair = bool(rows) and not found and is_headerless(rows[0])
    return {"question": "0", "answers": "1"} if is_pair else found


def parse_question(record: Mapping[str, Any]) -> QATask | None:
    """The task of one record by the rules of this module; None for an unanswerable one.

    Raises:
        ValueError: if it has no question or no answer, naming its keys.
    """
    row = QuestionReading()._row("", record)
    return None if row is None else row.task


def made_id(question: str, answers: Iterable[str]) -> str:
    """An id that depends on question and answers alone."""
    text = "\0".join((question, *answers)).encode("utf-8", "surrogatepass")
    return f"q-{hashlib.blake2b(text, digest_size=6).hexdigest()}"


def _held(mark: str) -> str:
    return f"answers that hold {mark!r}, taken as one"


def _is_own(record: Mapping[str, Any]) -> bool:
    """True for a record in this package's own form, which is FlashRAG's."""
    answers = record.get("golden_answers")
    return (
        isinstance(record.get("id"), str)
        and isinstance(record.get("question"), str)
        and isinstance(answers, (list, tuple))
        and bool(answers)
        and all(isinstance(answer, str) for answer in answers)
        and not all(map(is_blank, answers))
        and not isinstance(record.get("metadata"), str)
    )


def _without_blanks(record: Mapping[str, Any], counts: Counter[str]) -> dict[str, Any]:
    answers = list(record["golden_answers"])
    kept = [answer for answer in answers if not is_blank(answer)]
    counts["blank answers left out"] += len(answers) - len(kept)
    return {**record, "golden_answers": kept}


def _is_evidence(pieces: Any) -> bool:
    """True for evidence in this package's own form; others keep something else under this name."""
    return isinstance(pieces, (list, tuple)) and all(
        isinstance(piece, Mapping)
        and isinstance(piece.get("title"), str)
        and isinstance(piece.get("sentences", []), (list, tuple))
        for piece in pieces
    )


def _id(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{key} must be a string or a number, got {type(value).__name__}")
    return value if isinstance(value, str) else number_text(value)


def _metadata(record: Mapping[str, Any], used: set[str | None], own: Any) -> dict[str, Any]:
    """What else the record says, without paragraphs; queries for its hops under their own key."""
    if isinstance(own, str):
        parsed = parsed_literal(own)
        own = parsed if isinstance(parsed, dict) else {"metadata": own}
    if own is not None and not isinstance(own, Mapping):
        own = {"metadata": plain(own)}
    found = {k: v for k, v in (own or {}).items() if not _is_bulk(k, v)}
    for key, value in record.items():
        if key not in used and not is_missing(value) and not _is_bulk(key, value):
            found[key] = value
    queries = queries_in(record)
    if queries and SEARCH_KEYS not in found:
        found[SEARCH_KEYS] = queries
    return found


def _is_bulk(key: str, value: Any) -> bool:
    """True for the paragraphs of a record, which a task does not keep."""
    return key in PARAGRAPH_KEYS and bool(paragraphs_of({key: value}))
