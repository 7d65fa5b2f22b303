"""BrowseComp-Plus as its authors lay it out: decrypted rows, a corpus, judgements of relevance.

A folder holds, at any depth, the decrypted questions (``…decrypted….jsonl``), the corpus
(``…corpus….jsonl`` or ``.parquet``, or a folder ``…corpus…`` of such files, the shards; with
``docid``, ``text`` and ``url``) and the judgements ``qrel_evidence.txt`` and ``qrel_gold.txt`` (or
``qrel_golds.txt``): lines ``query 0 document 1``, of which those with a number above 0 count.
Rows that name their documents are taken at their word; judgements stand in where they do not.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.jsonl import read_jsonl
from calibadv_env.data.questions.finding import is_encrypted
from calibadv_env.errors import DataError

NAME: Final = "browsecomp-plus"
"""Name of the dataset, for ``calibadv data prepare`` and in the id of its environment."""

WITHOUT: Final = "questions name no document that they rest on"
"""What is counted of the rows, in words."""

_ROWS: Final = ("*decrypted*.jsonl", "*decrypted*.jsonl.gz")
_ENDS: Final = (".jsonl", ".jsonl.gz", ".parquet")
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})")
_EVIDENCE: Final = ("qrel_evidence.txt", "qrels_evidence.txt")
_GOLD: Final = ("qrel_gold.txt", "qrel_golds.txt", "qrels_gold.txt")
_DOCUMENTS: Final = ("evidence_docs", "gold_docs")
_TEXTS: Final = ("query", "question", "answer")
_SCRIPT: Final = "scripts_build_index/decrypt_dataset.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files of a copy.

    Attributes:
        rows: The decrypted questions.
        corpus: The documents, in one file or several shards; none where they lie nowhere.
        evidence: Judgements: documents that are needed.
        gold: Judgements: documents with the answer.
    """

    rows: Path
    corpus: tuple[Path, ...]
    evidence: Path | None
    gold: Path | None


def find_layout(folder: Path, *, wants_corpus: bool = True) -> Layout:
    """The files of a copy of the benchmark; a warning says which shards of the corpus are missing.

    Args:
        folder: The copy.
        wants_corpus: If false, no corpus is looked for, since the user names another one.

    Raises:
        DataError: if there are no decrypted rows, or several files that may be one thing.
    """
    rows = _only(folder, _ROWS)
    if rows is None:
        raise DataError(
            f"{folder}: there is no decrypted file (…decrypted….jsonl) of BrowseComp-Plus: its "
            f"{_SCRIPT} writes one"
        )
    corpus = _corpus(folder) if wants_corpus else ()
    evidence, gold = (_only(folder, each) for each in (_EVIDENCE, _GOLD))
    return Layout(rows=rows, corpus=corpus, evidence=evidence, gold=gold)


def warn_of_own_documents(layout: Layout) -> None:
    """Warns that the documents of the questions stand in for the corpus."""
    text = (
        f"{layout.rows}: the documents that the questions themselves carry stand in for the "
        "corpus. To search among these few is far easier than among the benchmark's some 100,000, "
        "and scores are not those of BrowseComp-Plus; put its corpus into the copy (a file "
        "…corpus….jsonl or .parquet, or a folder …corpus… of such files), or name it by --corpus"
    )
    warnings.warn(text, stacklevel=2)


def read_rows(
    layout: Layout, counts: Counter[str], *, has_texts: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions with the documents that they rest on, each with its place.

    Args:
        layout: Where they lie.
        counts: Is told how many name none, under :data:`WITHOUT`.
        has_texts: If true, documents keep their texts; a corpus makes these needless.

    Raises:
        DataError: if a row or a judgement is faulty, or a row is encrypted, with its place.
    """
    judged = {
        key: {} if file is None else read_judgements(file)
        for key, file in zip(_DOCUMENTS, (layout.evidence, layout.gold), strict=True)
    }
    for number, row in read_jsonl(layout.rows):
        place = f"{layout.rows}:{number}"
        try:
            _refuse_encrypted(row)
            filled = _with_documents(row, judged, has_texts=has_texts)
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
        counts[WITHOUT] += not any(filled.get(key) for key in _DOCUMENTS)
        yield place, filled


def read_judgements(path: Path) -> dict[str, list[str]]:
    """Documents that a file judges relevant, by query: those with a number above 0.

    Raises:
        DataError: if the file cannot be read; naming the line, if one has other than four columns
            or a relevance that is no whole number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not valid UTF-8: {error.reason} at byte {error.start}; save it as UTF-8 "
            f"(`iconv -f WINDOWS-1252 -t UTF-8 {path.name} > NEW`, if it is Western European text)"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror}") from error
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 4:
            raise DataError(f"{path}:{number}: expected `query 0 document 1`, got {line[:80]!r}")
        if not re.fullmatch(r"[+-]?[0-9]+", columns[3]):
            raise DataError(
                f"{path}:{number}: the relevance must be a whole number, got {columns[3]!r:.80}"
            )
        if columns[3].lstrip("+0")[:1] not in ("", "-"):
            found.setdefault(columns[0], {})[columns[2]] = None
    return {query: list(documents) for query, documents in found.items()}


def _refuse_encrypted(row: Mapping[str, Any]) -> None:
    """Refuses a row of which the question, the answer or a document is encrypted."""
    documents = [each for key in _DOCUMENTS for each in _listed(row, key)]
    texts = [(key, row.get(key)) for key in _TEXTS]
    texts += [("a document", each.get("text")) for each in documents if isinstance(each, Mapping)]
    for what, text in texts:
        if isinstance(text, str) and is_encrypted(text):
            raise ValueError(
                f"{what} is encrypted ({text[:20]!r}…); run the benchmark's {_SCRIPT}, and take "
                "the file that it writes"
            )


def _listed(row: Mapping[str, Any], key: str) -> list[Any]:
    """The documents under a key of a row.

    Raises:
        ValueError: if they are no list of objects or ids.
    """
    documents = row.get(key)
    if documents is None or documents == "":
        return []
    if not isinstance(documents, list):
        raise ValueError(f"{key} must be a list of documents, got {type(documents).__name__}")
    for each in documents:
        if isinstance(each, bool) or not isinstance(each, (Mapping, str, int)):
            raise ValueError(
                f"{key} must hold objects with docid and text, or ids, got {type(each).__name__}"
            )
    return [each if isinstance(each, Mapping) else {"docid": str(each)} for each in documents]


def _with_documents(
    row: Mapping[str, Any], judged: Mapping[str, Mapping[str, list[str]]], *, has_texts: bool
) -> dict[str, Any]:
    """A row with its evidence: its own documents, else those that were judged."""
    filled = dict(row)
    query = str(row.get("query_id", ""))
    for key in _DOCUMENTS:
        documents = _listed(row, key) or [{"docid": each} for each in judged[key].get(query, ())]
        filled[key] = documents if has_texts else [_named(each) for each in documents]
    if not has_texts:
        filled.pop("negative_docs", None)
    return filled


def _named(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document by its id alone; its text stands in the corpus."""
    if "docid" in document:
        name = str(document["docid"])
        return {"docid": name, "text": name}
    return document


def _corpus(folder: Path) -> tuple[Path, ...]:
    """The file of the corpus, or its shards; none if there is neither."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        parts = [part.lower() for part in path.relative_to(folder).parts]
        is_data = parts[-1].endswith(_ENDS) and "decrypted" not in parts[-1] and path.is_file()
        is_hidden = any(part.startswith(".") for part in parts)
        if is_data and not is_hidden and any("corpus" in part for part in parts):
            name = _SHARD.sub("", str(path.relative_to(folder)))
            groups.setdefault(name, []).append(path)
    if len(groups) > 1:
        names = ", ".join(groups)
        raise DataError(
            f"{folder}: expected one of these files as the corpus, got {names}; --corpus names it"
        )
    found = next(iter(groups.values()), [])
    shard = _SHARD.search(found[0].name) if found else None
    if shard is not None and len(found) < int(shard[2]):
        text = (
            f"{found[0].parent}: {len(found)} of the {int(shard[2])} shards of the corpus lie "
            "here; the documents of the others are missing"
        )
        warnings.warn(text, stacklevel=2)
    return tuple(found)


def _only(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    found = sorted({path for pattern in patterns for path in folder.rglob(pattern)})
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(f"{folder}: expected one of these files, got {names}")
    return found[0] if found else None
