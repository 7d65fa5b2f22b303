"""Passages of the records in which corpora are published.

Besides this package's own ``{"id", "title", "text"}`` and FlashRAG's ``{"id", "contents"}`` these
are BEIR, MS MARCO, DPR's ``psgs_w100``, KILT, HippoRAG's lists, LangChain's ``page_content``, and
others whose keys stand in :mod:`calibadv_env.common.records.keys`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.records import read_records
from calibadv_env.common.records.headerless import (
    by_file,
    file_of,
    is_numbered,
    passage_columns,
    said,
)
from calibadv_env.common.records.keys import (
    PASSAGE_ID,
    TEXT,
    TITLE,
    at_path,
    find_key,
    is_blank,
    is_missing,
    keys_of,
    number_text,
    squashed,
)
from calibadv_env.common.records.values import parsed_literal, plain
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage

COLUMNS: Final = ("id", "title", "text")
"""What the columns of documents can be mapped to."""

_DOCUMENTS: Final = frozenset({"docid", "documentid", "docno"})
_PIECES: Final = ("chunk_id", "paragraph_id", "para_id", "chunk_index", "chunk_no")
"""Keys of a piece of a document, beside that of the document."""
_FLAG: Final = "--columns (of `data prepare` --corpus-columns)"
_WRAPPERS: Final = ("kwargs", "_source", "__data__", "document", "passage", "node", "doc")
"""Keys under which dumps of LangChain, Elasticsearch, LlamaIndex … hold the document."""
_PAYLOADS: Final = ("payload", "properties", "fields", "metadata")
"""Those of vector databases (Qdrant, Weaviate, Pinecone), where nothing beside holds a text."""
_ACTIONS: Final = ("index", "create")
"""Lines of Elasticsearch's bulk files that name the id of the document on the next line."""
_OUTER: Final = frozenset({"_id", "id", "docid", "doc_id", "pid"})
"""Ids that stand outside of it."""
_METADATA: Final = ("metadata", "meta", "extra_info")


class NoTextError(ValueError):
    """A record has no key that is known to hold a text."""


@dataclass
class PassageReading:
    """Reads records as passages, and keeps count of what was done with them.

    Attributes:
        columns: Keys, or paths of keys with dots, of ``id``, ``title`` and ``text``, where the
            names do not say it.
        keep_empty: If true, passages without any text are kept, for files whose rows an index
            counts.
        num_empty: Passages without any text, which are left out unless they are kept.
        num_repeated: Records without an id that say what one before them says; left out.
        num_made_ids: Passages whose ids were made of their content.
        mapping: For each of ``id``, ``title`` and ``text`` the keys that it was read from.
        guessed: The same for the columns of a table without a header, by the look of its rows; of
            several files that of the last.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keep_empty: bool = False
    num_empty: int = 0
    num_repeated: int = 0
    num_made_ids: int = 0
    mapping: dict[str, dict[str, None]] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    _plans: dict[tuple[str, ...], dict[str, str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses columns of other things."""
        check_columns(self.columns, COLUMNS)

    def passages(
        self, records: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> Iterator[tuple[str, Passage]]:
        """The passages of records, each with its place; a warning says what was left out.

        Raises:
            DataError: if a record has no text, with its place and its keys.
        """
        made: set[str] = set()
        place = ""
        for first, of_file in by_file(records):
            self._guess(first)
            for place, passage, is_made in self._read(of_file):
                if is_blank(passage.text) and not self.keep_empty:
                    self.num_empty += 1
                    continue
                if is_made:
                    if passage.id in made:
                        self.num_repeated += 1
                        continue
                    made.add(passage.id)
                    self.num_made_ids += 1
                yield place, passage
            if self.guessed:
                text = f"{file_of(place) or place}: {said(self.guessed, _FLAG)}"
                warnings.warn(text, stacklevel=2)
        self._warn(place)

    def _guess(self, first: Sequence[Mapping[str, Any]]) -> None:
        """Guesses the columns of a file without a header; what was known of another one goes."""
        if self.guessed:
            self._plans.clear()
        self.guessed = passage_columns(first) if first and not self.columns else {}
        if self.guessed:
            self._plans.clear()

    def _read(
        self, records: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> Iterator[tuple[str, Passage, bool]]:
        """The passages of one file, also empty ones, and whether their ids were made."""
        above: Mapping[str, Any] = {}
        for place, record in records:
            action = _action(record)
            if action is not None:
                above = action
                continue
            if "_id" in above:
                record = {"_id": above["_id"], **record}
            above = {}
            try:
                yield place, *self._passage(record)
            except NoTextError as error:
                raise DataError(
                    f"{place}: {error}; --columns text=KEY,title=KEY (of `data prepare` "
                    "--corpus-columns, in Python corpus_columns={'text': KEY}) says which key "
                    "holds it"
                ) from error
            except ValueError as error:
                raise DataError(f"{place}: {error}") from error

    def _passage(self, record: Mapping[str, Any]) -> tuple[Passage, bool]:
        if "text" not in record and "contents" not in record and not self.columns:
            record = _unwrapped(record)
        names = tuple(record)
        found = self._plans.get(names)
        if found is None or any(k is not None and is_missing(record[k]) for k in found.values()):
            found = self._keys(record)
            for name, key in found.items():
                if key is not None:
                    self.mapping.setdefault(name, {})[key] = None
            # Only where all keys have values is the choice that of every record with these keys.
            is_plan = all(k is None or k in record for k in found.values())
            if is_plan and not any(is_missing(value) for value in record.values()):
                self._plans[names] = found
        return _assembled(record, found)

    def _keys(self, record: Mapping[str, Any]) -> dict[str, str | None]:
        given = dict(self.columns)
        if not given and self.guessed and is_numbered(record):
            given = dict(self.guessed)
        if "text" not in given and isinstance(record.get("text"), str):
            # Our own form: the text is what stands there, be it white space alone.
            given["text"] = "text"
            if "title" not in given and isinstance(record.get("title"), str):
                given["title"] = "title"
        return {
            "id": given.get("id") or find_key(record, PASSAGE_ID),
            "title": given.get("title") or find_key(record, TITLE),
            "text": given.get("text") or find_key(record, TEXT),
        }

    def _warn(self, place: str) -> None:
        where = file_of(place) or place
        if self.num_empty and not self.keep_empty:
            text = f"{where}: {self.num_empty:,} passages without any text were left out"
            warnings.warn(text, stacklevel=2)
        if self.num_repeated:
            text = f"{where}: {self.num_repeated:,} documents stand twice and were left out once"
            warnings.warn(text, stacklevel=2)


def parse_record(record: Mapping[str, Any]) -> Passage:
    """The passage of one record by the rules of this module; its text may be empty.

    Raises:
        ValueError: if it has no text, naming its keys.
    """
    return PassageReading()._passage(record)[0]


def read_passages(
    path: str | Path, reading: PassageReading | None = None
) -> Iterator[tuple[str, Passage]]:
    """The passages of a file of any form, in order, each with its place.

    Raises:
        DataError: if the file or a record is faulty, with its place.
    """
    return (reading or PassageReading()).passages(read_records(path))


def distinct_passages(passages: Iterable[tuple[str, Passage]]) -> Iterator[Passage]:
    """Passages with their places, whose ids must differ.

    Raises:
        DataError: at an id that came before, with both places and what to do.
    """
    places: dict[str, str] = {}
    for place, passage in passages:
        if passage.id in places:
            raise repeated_id(passage.id, places[passage.id], place)
        places[passage.id] = place
        yield passage


def repeated_id(passage_id: str, first: str, second: str) -> DataError:
    """The error on two passages of one id, with their places and what to do."""
    return DataError(
        f"{second}: id {passage_id!r} stands twice, the first time at {first}; take out one of the "
        "two, or name a key whose values differ (--columns id=KEY, of `data prepare` "
        "--corpus-columns id=KEY). Where the pieces of a document share its id, leave that key "
        "out of the file: ids are then made of title and text"
    )


def content_id(title: str, text: str) -> str:
    """An id that depends on title and text alone."""
    digest = hashlib.blake2b(f"{title}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
    return f"d{digest.hexdigest()}"


def check_columns(columns: Mapping[str, str], known: Iterable[str]) -> None:
    """Refuses a mapping of columns to things that there are not.

    Raises:
        ValueError: naming those that there are.
    """
    for name in columns:
        if name not in known:
            text = f"columns must map {', '.join(known)} to keys, got {name!r}"
            if name in COLUMNS:
                text += "; those of documents are --corpus-columns (in Python corpus_columns)"
            raise ValueError(text)


def _assembled(record: Mapping[str, Any], found: Mapping[str, str | None]) -> tuple[Passage, bool]:
    if found["text"] is None:
        if not any(name in record for name in ("text", "contents", "content", "page_content")):
            raise NoTextError(
                "key 'contents' is missing, and so are 'title' and 'text'; the keys are "
                f"{keys_of(record)}, none of which is known to hold a text"
            )
        text, head = "", ""
    else:
        text, head = _text(at_path(record, found["text"]), found["text"])
    title = _title(record, found["title"])
    if found["text"] == "contents":
        title, text = _split_contents(title, text)
    elif head and title in ("", head):
        title, text = head, text.removeprefix(head).strip()
    raw = None if found["id"] is None else at_path(record, found["id"])
    passage_id = _piece_id(record, found["id"], _id(raw))
    is_made = passage_id is None
    if passage_id is None:
        passage_id = content_id(title, text)
    for name, value in (("id", passage_id), ("title", title), ("text", text)):
        _refuse_surrogates(name, value)
    return Passage(passage_id, title, text), is_made


def _unwrapped(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object in which a record holds its document, such as Elasticsearch's ``_source``."""
    for key in _WRAPPERS:
        inner = record.get(key)
        if isinstance(inner, Mapping) and find_key(inner, TEXT) is not None:
            outer = {k: v for k, v in record.items() if k in _OUTER and not _is_list(v)}
            return {**outer, **inner}
    if find_key(record, TEXT) is None:
        inner = next((record[k] for k in _PAYLOADS if isinstance(record.get(k), Mapping)), {})
        if find_key(inner, TEXT) is not None:
            return {**{k: v for k, v in record.items() if k in _OUTER}, **inner}
    return record


def _action(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a line of a bulk file says of the document behind it; None for another record."""
    if len(record) != 1:
        return None
    name, inner = next(iter(record.items()))
    is_action = name in _ACTIONS and isinstance(inner, Mapping)
    return inner if is_action else None


def _text(value: Any, key: str) -> tuple[str, str]:
    """The text, and the first of its paragraphs where it is a list whose first one is a title."""
    if isinstance(value, Mapping) and "text" in value:
        return _text(value["text"], key)
    if isinstance(value, (list, tuple)):
        value = [item for part in value for item in (part if _is_list(part) else [part])]
        parts = [str(plain(part)).strip() for part in value if not is_missing(part)]
        head = parts[0] if len(parts) > 1 and "\n" in str(value[0]) else ""
        return ("\n" if head else " ").join(parts), head
    if not isinstance(value, str):
        if is_missing(value):
            return "", ""
        raise ValueError(f"{key} must be a string, got {type(value).__name__}")
    return value, ""


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _title(record: Mapping[str, Any], key: str | None) -> str:
    """The title; it may stand in the metadata, where LangChain may call it source."""
    value = None if key is None else at_path(record, key)
    if value is None and key is None:
        for name in _METADATA:
            metadata = record.get(name)
            if isinstance(metadata, str):
                metadata = parsed_literal(metadata)
            if isinstance(metadata, Mapping):
                names = (*TITLE, "source") if "page_content" in record else TITLE
                named = find_key(metadata, names)
                value = None if named is None else metadata[named]
                break
        if isinstance(value, (list, dict)):
            value = None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not is_missing(value):
        return number_text(value)
    if value is None or isinstance(value, float):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {type(value).__name__}")
    return value


def _split_contents(title: str, contents: str) -> tuple[str, str]:
    r"""Title and text of contents, whose first line is the title (``"Title"\ntext``)."""
    head, newline, body = contents.partition("\n")
    if not newline:
        return title, head.strip()
    head = head.strip()
    first = head[1:-1] if len(head) >= 2 and head[0] == head[-1] == '"' else head
    if title and first != title.strip():
        return title, contents.strip()
    return first, body.strip()


def _id(value: Any) -> str | None:
    if isinstance(value, bool):
        raise ValueError(f"id must be a string or a number, got {value}")
    if is_missing(value):
        return None
    if isinstance(value, (int, float)):
        return number_text(value)
    if not isinstance(value, str):
        raise ValueError(f"id must be a string or a number, got {type(value).__name__}")
    return value


def _piece_id(record: Mapping[str, Any], key: str | None, document: str | None) -> str | None:
    """The id of a piece whose record also has that of its document, which other pieces share.

    A piece that is but numbered is called ``<document>#<number>``, as those that are cut here.
    """
    name = find_key(record, _PIECES) if document and squashed(key or "") in _DOCUMENTS else None
    piece = None if name is None else _id(record[name])
    if piece is None:
        return document
    is_number = isinstance(record[name], (int, float)) or piece.isdecimal()  # type: ignore[index]
    return f"{document}#{piece}" if is_number else piece


def _refuse_surrogates(name: str, value: str) -> None:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} holds an unpaired surrogate") from error
