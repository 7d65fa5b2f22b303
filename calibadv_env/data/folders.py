"""Folders of questions: which of their files hold which split, and which the corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.packed import PACKED_ENDS, unpacked_name
from calibadv_env.common.records import read_records
from calibadv_env.common.records.keys import ANSWERS, find_key
from calibadv_env.data.evidence import EVIDENCE
from calibadv_env.data.names import SPLITS
from calibadv_env.data.questions.answers import texts_of
from calibadv_env.data.reading import TaskSource, data_suffixes, find_file
from calibadv_env.errors import DataError
from calibadv_env.retrieval.passage_records import read_passages

CORPUS_STEMS: Final = ("corpus", "documents")
"""Names of the file that holds the corpus of the tasks beside it."""

_QUERIES: Final = "queries"
_QRELS: Final = "qrels"
_SPLIT_WORDS: Final = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "devel": "dev",
    "development": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}$")


def split_of_name(name: str) -> str | None:
    """The split that a word in the name of a file says, such as dev in hotpot_dev_v1.json."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def is_beir(folder: Path) -> bool:
    """True for a folder as BEIR publishes them: corpus, queries, and qrels by split."""
    return bool(find_file(folder, _QUERIES)) and any((folder / _QRELS).glob("*.tsv"))


def split_files(folder: Path) -> dict[str, TaskSource]:
    """The files of a folder by split.

    They are called after the splits; or hold the word for one in their names, such as
    ``hotpot_dev_v1.json`` or ``data/validation-00000-of-00002.parquet``; or there is but one file,
    which is then the split test. BEIR's folders are put together of queries and qrels.

    Raises:
        DataError: if it holds none, or two files for one split.
    """
    if is_beir(folder):
        return dict(_beir_splits(folder))
    files = {split: find_file(folder, split) for split in SPLITS}
    found: dict[str, TaskSource] = {split: path for split, path in files.items() if path}
    if found:
        return found
    paths = [path for path in _data_files(folder) if stem_of(path) not in CORPUS_STEMS]
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        split = split_of_name(stem_of(path)) or split_of_name(path.parent.name)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    if not by_split and len(paths) == 1:
        return {"test": paths[0]}
    for split, of_split in by_split.items():
        if len({_SHARD.sub("", stem_of(path)) for path in of_split}) > 1:
            names = ", ".join(path.name for path in of_split)
            raise DataError(f"{folder}: the split {split} must be one file, got {names}")
    if not by_split:
        raise DataError(f"{folder}: the folder holds none of train.jsonl, dev.jsonl, test.jsonl")
    return {split: tuple(by_split[split]) for split in SPLITS if split in by_split}


def corpus_file(folder: Path) -> Path | None:
    """The file that holds the corpus of the tasks in a folder, if there is one."""
    paths = (find_file(folder, stem) for stem in CORPUS_STEMS)
    return next((path for path in paths if path), None)


def stem_of(path: Path) -> str:
    """The name of a file without ``.gz`` and without the suffix of its format."""
    name = unpacked_name(path.name)
    ends = [end for end in data_suffixes() if name.lower().endswith(end)]
    return name[: -len(max(ends, key=len))] if ends else name


def _data_files(folder: Path) -> list[Path]:
    """The files of a folder and of its ``data`` that some reader has, in the order of names."""
    ends = tuple(f"{end}{packed}" for end in data_suffixes() for packed in ("", *PACKED_ENDS))
    below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    places = [folder, *(p for p in below if p.name == "data" or p.name in _SPLIT_WORDS)]
    kept = [
        path
        for place in places
        for path in sorted(place.iterdir())
        if path.is_file() and path.name.lower().endswith(ends) and path.name not in _NOTES
    ]
    return kept


_NOTES: Final = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "prepared.json"}
)


def _beir_splits(folder: Path) -> dict[str, Sequence[dict[str, Any]]]:
    """The queries of each split of BEIR, with the documents that answer them as evidence.

    Where the queries have no answers, which is the rule, the titles of these documents are the
    accepted answers (their ids, where they have no titles).
    """
    path = find_file(folder, _QUERIES)
    queries: dict[str, dict[str, Any]] = {}
    for place, record in read_records(path) if path else ():
        key = find_key(record, ("_id", "id", "query_id", "qid"))
        text = record.get("text", record.get("query", record.get("question")))
        if key is None or not isinstance(text, str):
            raise DataError(f"{place}: a query of BEIR must have _id and text")
        queries[str(record[key])] = {**record, "question": text}
    titles: dict[str, str] = {}
    splits: dict[str, Sequence[dict[str, Any]]] = {}
    for qrels in sorted((folder / _QRELS).glob("*.tsv")):
        split = split_of_name(qrels.stem) or qrels.stem
        relevant = _relevant(qrels)
        if not titles and not all(_answers(queries.get(q, {})) for q in relevant):
            corpus = corpus_file(folder)
            passages = read_passages(corpus) if corpus else ()
            titles = {passage.id: passage.title for _, passage in passages}
        splits[split] = [
            _beir_record(query, queries[query], documents, titles)
            for query, documents in relevant.items()
            if query in queries
        ]
    return {split: splits[split] for split in (*SPLITS, *splits) if split in splits}


def _relevant(path: Path) -> dict[str, list[str]]:
    """Query -> documents with a score above 0."""
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) == 4:  # TREC's form: query, 0, document, score
                cells = [cells[0], cells[2], cells[3]]
            if not line.strip() or (number == 1 and not _is_number(cells[-1])):
                continue
            if len(cells) != 3 or not _is_number(cells[2]):
                raise DataError(f"{path}:{number}: a line must have query, document and score")
            if float(cells[2]) > 0:
                found.setdefault(cells[0], []).append(cells[1])
    return found


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").replace(".", "", 1).isdigit()


def _answers(record: dict[str, Any]) -> list[str]:
    for layer in (record, record.get("metadata")):
        key = find_key(layer, ANSWERS) if isinstance(layer, dict) else None
        if key is not None and isinstance(layer, dict):
            return texts_of(layer[key], key)
    return []


def _beir_record(
    query: str, record: dict[str, Any], documents: list[str], titles: dict[str, str]
) -> dict[str, Any]:
    answers = _answers(record)
    metadata = record["metadata"] if isinstance(record.get("metadata"), dict) else {}
    metadata = {k: v for k, v in metadata.items() if k != EVIDENCE} | {"qrels": documents}
    if not answers:
        answers = list(dict.fromkeys(titles.get(doc) or doc for doc in documents))
        metadata["answers_are"] = "titles of relevant documents"
    if not metadata.get("supporting_facts"):
        metadata[EVIDENCE] = [{"title": "", "sentences": [], "ids": documents}]
    return {
        "id": query,
        "question": record["question"],
        "golden_answers": answers,
        "metadata": metadata,
    }
