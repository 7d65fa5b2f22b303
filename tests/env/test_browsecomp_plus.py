"""A copy of BrowseComp-Plus in its authors' layout, of three documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from calibadv_algo.cli.main import main
from calibadv_env import get_dataset
from calibadv_env.data.sources.browsecomp_plus import find_layout, read_judgements, write_rows
from calibadv_env.errors import DataError


def document(number: int) -> dict[str, str]:
    text = f"Document number {number}. It speaks of Ada, and of {number * 100} ships."
    return {"docid": str(number), "text": text, "url": f"http://x/{number}"}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "prepared"))
    folder = tmp_path / "BrowseComp-Plus"
    for name in ("data", "topics-qrels", "corpus"):
        (folder / name).mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {
            "query_id": "7",
            "query": "Who has 200 ships?",
            "answer": "Ada",
            "evidence_docs": [document(1), document(2)],
            "gold_docs": [document(2)],
            "negative_docs": [document(3)],
        },
        {"query_id": "8", "query": "Who has 300 ships?", "answer": "Ada"},
    ]
    write(folder / "data" / "browsecomp_plus_decrypted.jsonl", rows)
    write(folder / "corpus" / "browsecomp_plus_corpus.jsonl", [document(n) for n in range(1, 5)])
    evidence = "7 0 1 1\n7 0 2 1\n8 0 3 1\n8 0 4 0\n"
    (folder / "topics-qrels" / "qrel_evidence.txt").write_text(evidence)
    (folder / "topics-qrels" / "qrel_golds.txt").write_text("7 0 2 1\n8 0 3 1\n")
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_it_is_prepared_with_evidence_and_gold(copy: Path, capsys) -> None:
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    data = get_dataset("browsecomp-plus")
    first, second = data.tasks("test")
    assert (first.id, first.question, first.golden_answers) == ("7", "Who has 200 ships?", ("Ada",))
    assert first.gold_passages == (("1",), ("2",))
    assert second.gold_passages == (("3",),)
    assert len(data.corpus()) == 4
    assert "4 documents" in capsys.readouterr().out
    env = gymnasium.make(
        "calibadv_env:DeepSearch-Pages-v0", dataset="browsecomp-plus", split="test"
    )
    env.reset(options={"task_index": 0})
    text, *_, info = env.step("<think>t</think><open>2</open>")
    assert "200 ships" in text
    assert info["gold_opened"] == ("2",)


def test_without_a_corpus_the_documents_of_the_rows_stand_in(copy: Path) -> None:
    (copy / "corpus" / "browsecomp_plus_corpus.jsonl").unlink()
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy), "--force"]) == 0
    data = get_dataset("browsecomp-plus")
    assert sorted(passage.id for passage in data.corpus()) == ["1", "2", "3"]


def test_rows_without_any_document_are_counted(copy: Path, tmp_path: Path) -> None:
    for name in ("qrel_evidence.txt", "qrel_golds.txt"):
        (copy / "topics-qrels" / name).unlink()
    assert write_rows(find_layout(copy), tmp_path / "rows.jsonl") == 1


def test_what_is_missing_or_odd_is_said(copy: Path) -> None:
    file = copy / "topics-qrels" / "qrel_evidence.txt"
    file.write_text("7 0 1 1\n7 1\n")
    with pytest.raises(DataError, match=r"qrel_evidence.txt:2: expected `query 0 document 1`"):
        read_judgements(file)
    write(copy / "data" / "again_decrypted.jsonl", [])
    with pytest.raises(DataError, match="expected one of these files"):
        find_layout(copy)
    for path in copy.rglob("*decrypted*"):
        path.unlink()
    with pytest.raises(DataError, match="no decrypted file"):
        find_layout(copy)
