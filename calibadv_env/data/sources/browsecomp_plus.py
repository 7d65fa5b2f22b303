"""BrowseComp-Plus as its authors lay it out: decrypted rows, a corpus, judgements of relevance.

A folder holds, at any depth, the decrypted questions (``…decrypted….jsonl``), the corpus
(``…corpus….jsonl`` or ``.parquet``, with ``docid``, ``text`` and ``url``) and the judgements
``qrel_evidence.txt`` and ``qrel_gold.txt`` (or ``qrel_golds.txt``): lines ``query 0 document 1``.
Rows that name their documents are taken at their word; judgements stand in where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.jsonl import read_parsed, write_jsonl
from calibadv_env.errors import DataError

NAME: Final = "browsecomp-plus"
"""Name of the dataset, for ``calibadv data prepare`` and in the id of its environment."""

_ROWS: Final = ("*decrypted*.jsonl", "*decrypted*.jsonl.gz")
_CORPUS: Final = ("*corpus*.jsonl", "*corpus*.jsonl.gz", "*corpus*.parquet")
_EVIDENCE: Final = ("qrel_evidence.txt", "qrels_evidence.txt")
_GOLD: Final = ("qrel_gold.txt", "qrel_golds.txt", "qrels_gold.txt")
_DOCUMENTS: Final = ("evidence_docs", "gold_docs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files of a copy.

    Attributes:
        rows: The decrypted questions.
        corpus: The documents; None where they lie nowhere, and those of the rows stand in.
        evidence: Judgements: documents that are needed.
        gold: Judgements: documents with the answer.
    """

    rows: Path
    corpus: Path | None
    evidence: Path | None
    gold: Path | None


def find_layout(folder: Path) -> Layout:
    """The files of a copy of the benchmark.

    Raises:
        DataError: if there are no decrypted rows, or several files that may be them.
    """
    rows = _only(folder, _ROWS)
    if rows is None:
        raise DataError(
            f"{folder}: there is no decrypted file (…decrypted….jsonl) of BrowseComp-Plus: its "
            "scripts_build_index/decrypt_dataset.py writes one"
        )
    corpus, evidence, gold = (_only(folder, each) for each in (_CORPUS, _EVIDENCE, _GOLD))
    return Layout(rows=rows, corpus=corpus, evidence=evidence, gold=gold)


def write_rows(layout: Layout, path: Path) -> int:
    """Writes the questions with the documents that they rest on; gives how many name none.

    Args:
        layout: Where they lie.
        path: The file to write, as JSON lines. Texts of documents are left out where a corpus
            has them.

    Raises:
        DataError: if a row or a judgement is faulty.
    """
    judged = {
        key: {} if file is None else read_judgements(file)
        for key, file in zip(_DOCUMENTS, (layout.evidence, layout.gold), strict=True)
    }
    without = 0

    def rows() -> Iterator[Mapping[str, Any]]:
        nonlocal without
        for _, row in read_parsed(layout.rows, dict):
            filled = _with_documents(row, judged, has_corpus=layout.corpus is not None)
            without += not any(filled.get(key) for key in _DOCUMENTS)
            yield filled

    write_jsonl(path, rows())
    return without


def read_judgements(path: Path) -> dict[str, list[str]]:
    """Documents that a file judges relevant, by query.

    Raises:
        DataError: naming the line, if one has other than four columns.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 4:
            raise DataError(f"{path}:{number}: expected `query 0 document 1`, got {line[:80]!r}")
        if columns[3] != "0":
            found.setdefault(columns[0], []).append(columns[2])
    return found


def _with_documents(
    row: Mapping[str, Any], judged: Mapping[str, Mapping[str, list[str]]], *, has_corpus: bool
) -> dict[str, Any]:
    """A row with its evidence: its own documents, else those that were judged."""
    filled = dict(row)
    query = str(row.get("query_id", ""))
    for key in _DOCUMENTS:
        documents = row.get(key) or [{"docid": each} for each in judged[key].get(query, ())]
        filled[key] = [_named(each) for each in documents] if has_corpus else documents
    if has_corpus:
        filled.pop("negative_docs", None)
    return filled


def _named(document: Any) -> Any:
    """A document by its id alone; its text stands in the corpus."""
    if isinstance(document, Mapping) and "docid" in document:
        name = str(document["docid"])
        return {"docid": name, "text": name}
    return document


def _only(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    found = sorted({path for pattern in patterns for path in folder.rglob(pattern)})
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(f"{folder}: expected one of these files, got {names}")
    return found[0] if found else None
