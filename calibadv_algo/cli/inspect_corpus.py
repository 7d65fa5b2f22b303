"""What `calibadv data inspect` shows of a corpus, which has no questions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from calibadv_env.data.cutting import FOLDER_WORDS
from calibadv_env.data.folders import split_files
from calibadv_env.data.loading import Options
from calibadv_env.data.questions.answers import find_answers
from calibadv_env.data.questions.finding import find_question
from calibadv_env.data.reading import find_reader, read_passages
from calibadv_env.data.sources.text_files import is_text_folder
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.passage_records import PassageReading

_FIRST: Final = 5
"""Records by which a file is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFacts:
    """What a corpus holds.

    Attributes:
        documents: Number of documents with a text.
        first: The first of them.
        read: For each of ``id``, ``title`` and ``text`` the keys that it was read from, and what
            was left out, in words.
    """

    documents: int
    first: tuple[Passage, ...]
    read: Mapping[str, str]


def is_corpus(path: Path) -> bool:
    """True for a file or folder of documents, by its form or by its first records."""
    reader = find_reader(path)
    if not reader.has_records or (path.is_dir() and _has_splits(path)):
        return False
    if is_text_folder(path):
        return True
    try:
        first = list(islice(reader.records(str(path)), _FIRST))
    except DataError:
        return False
    return bool(first) and all(_is_document(record) for _, record in first)


def _has_splits(folder: Path) -> bool:
    try:
        return bool(split_files(folder))
    except DataError:
        return False


def _is_document(record: Mapping[str, Any]) -> bool:
    reading = PassageReading()
    try:
        if find_answers(record, None, "")[1]:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are given when the whole file is read
            list(reading.passages([("", record)]))
    except (DataError, ValueError):
        return False
    try:
        asked, _ = find_question(record, None)
    except ValueError:
        return True
    return asked in reading.mapping.get("text", {})


def corpus_facts(path: Path, number: int, columns: Mapping[str, str]) -> CorpusFacts:
    """Reads a corpus through.

    Args:
        path: File or folder.
        number: Documents that are shown.
        columns: Keys of id, title and text, where they are named.

    Raises:
        DataError: if it is faulty, with its place.
    """
    reading = PassageReading(columns=columns)
    first: list[Passage] = []
    count = 0
    for passage in _passages(path, reading):
        count += 1
        if len(first) < number:
            first.append(passage)
    if not count:
        raise DataError(f"{path}: there is no document in it")
    read = {f"{name} read from": ", ".join(keys) for name, keys in reading.mapping.items()}
    for what, left in (
        ("passages without any text left out", reading.num_empty),
        ("documents that stand twice left out once", reading.num_repeated),
        ("ids made of the content", reading.num_made_ids),
    ):
        read |= {what: f"{left:,}"} if left else {}
    return CorpusFacts(documents=count, first=tuple(first), read=read)


def _passages(path: Path, reading: PassageReading) -> Iterator[Passage]:
    return (passage for _, passage in read_passages(path, reading))


def show_corpus(path: Path, number: int, columns: Mapping[str, str], *, as_json: bool) -> None:
    """Prints what a corpus holds, and what to do with it."""
    console = Console(highlight=False)
    facts = corpus_facts(path, number, columns)
    if as_json:
        console.print_json(json.dumps({"corpus": str(path), **asdict(facts)}))
        return

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(f"{path}: a corpus of {facts.documents:,} documents; it holds no questions")
    for what, value in facts.read.items():
        say(f"{what}: {value}")
    if is_text_folder(path):
        pieces = Options().cut(path, Corpus(facts.first))
        size = f"passages of at most {FOLDER_WORDS} words"
        say(f"the first {len(facts.first):,} become {len(pieces):,} {size}")
    for passage in facts.first:
        console.print_json(json.dumps(asdict(passage)))
    flags = "".join(f",{name}={key}" for name, key in columns.items())
    mapped = f" --corpus-columns {flags[1:]}" if flags else ""
    say(f"next: calibadv data prepare NAME --from QUESTIONS --corpus {path}{mapped}")
    mapped = mapped.replace("--corpus-columns", "--columns")
    say(f"      calibadv index bm25 {path} FOLDER{mapped}, or calibadv serve {path}{mapped}")
