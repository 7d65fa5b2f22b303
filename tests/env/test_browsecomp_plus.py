"""A copy of BrowseComp-Plus in its authors' layout, of three documents."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from calibadv_algo.cli.main import main
from calibadv_env import get_dataset
from calibadv_env.data.sources.browsecomp_plus import find_layout, read_judgements
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
    with pytest.warns(UserWarning, match="carry stand in for the corpus.*far easier.*--corpus"):
        assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy), "--force"]) == 0
    data = get_dataset("browsecomp-plus")
    assert sorted(passage.id for passage in data.corpus()) == ["1", "2", "3"]


def test_rows_without_any_document_are_counted(copy: Path, capsys) -> None:
    for name in ("qrel_evidence.txt", "qrel_golds.txt"):
        (copy / "topics-qrels" / name).unlink()
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    assert "warning: 1 questions name no document" in capsys.readouterr().out


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_called_corpus_is_the_corpus_with_all_its_shards(copy: Path, shards: int) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (copy / "corpus" / "browsecomp_plus_corpus.jsonl").unlink()
    folder = copy / "browsecomp-plus-corpus" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "README.md").write_text("# Of the corpus")
    held = [document(n) for n in range(1, 7)]
    for shard in range(shards):
        table = arrow.Table.from_pylist(held[shard::shards])
        parquet.write_table(table, folder / f"train-{shard:05}-of-{shards:05}.parquet")
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    data = get_dataset("browsecomp-plus")
    assert sorted(passage.id for passage in data.corpus()) == ["1", "2", "3", "4", "5", "6"]
    assert data.tasks("test")[0].gold_passages == (("1",), ("2",))
    if shards > 1:
        (folder / "train-00001-of-00003.parquet").unlink()
        with pytest.warns(UserWarning, match="2 of the 3 shards"):
            assert len(find_layout(copy).corpus) == 2


def test_two_corpora_are_refused_unless_one_is_named(copy: Path) -> None:
    write(copy / "corpus" / "another.jsonl", [document(n) for n in range(1, 6)])
    call = ["data", "prepare", "browsecomp-plus", "--from", str(copy)]
    with pytest.raises(DataError, match=r"expected one of .*another\.jsonl.*--corpus names it"):
        find_layout(copy)
    assert main([*call, "--corpus", str(copy / "corpus" / "another.jsonl")]) == 0
    data = get_dataset("browsecomp-plus")
    assert len(data.corpus()) == 5
    assert data.tasks("test")[1].gold_passages == (("3",),)


def test_the_note_and_errors_name_the_rows_of_the_user(copy: Path) -> None:
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    rows = copy / "data" / "browsecomp_plus_decrypted.jsonl"
    note = json.loads((copy.parent / "prepared" / "browsecomp-plus" / "prepared.json").read_text())
    assert note["source"] == str(rows)


CIPHER = base64.b64encode(bytes(range(120, 160))).decode()
SHORT = base64.b64encode(b"\xab\xcd\xef\x80").decode()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": CIPHER, "answer": "Ada"}, "query is encrypted .*decrypt_dataset.py"),
        ({"query": "Who?", "answer": CIPHER}, "answer is encrypted .*decrypt_dataset.py"),
        ({"query": "Who?", "answer": SHORT}, "answer is encrypted .*decrypt_dataset.py"),
        (
            {"query": "Who?", "answer": "Ada", "gold_docs": [{"docid": "1", "text": CIPHER}]},
            "a document is encrypted",
        ),
        (
            {"query": "Who?", "answer": "Ada", "evidence_docs": 5},
            "evidence_docs must be a list of documents, got int",
        ),
        ({"query": "Who?", "answer": "Ada", "gold_docs": [None]}, "gold_docs must hold objects"),
        ({"query": "Who?"}, "a row must have an answer"),
    ],
)
def test_faulty_rows_are_refused_by_line(copy: Path, capsys, row, message: str) -> None:
    path = copy / "data" / "browsecomp_plus_decrypted.jsonl"
    write(path, [{"query_id": "1", "query": "Who?", "answer": "Ada"}, {"query_id": "7", **row}])
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(rf"browsecomp_plus_decrypted\.jsonl:2: .*{message}", said)


@pytest.mark.parametrize(
    "answer",
    ["Rome", "TCP/IP12", "Donaudampfschifffahrtsgesellschaften", "1984", "MacDonald", "x = y="],
)
def test_a_word_is_not_taken_for_a_cipher(copy: Path, answer: str) -> None:
    path = copy / "data" / "browsecomp_plus_decrypted.jsonl"
    write(path, [{"query_id": "7", "query": "Who?", "answer": answer}])
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    assert get_dataset("browsecomp-plus").tasks("test")[0].golden_answers == (answer,)


def test_documents_may_be_named_by_their_ids(copy: Path) -> None:
    path = copy / "data" / "browsecomp_plus_decrypted.jsonl"
    write(path, [{"query_id": "x", "query": "Who?", "answer": "Ada", "gold_docs": ["2", 3]}])
    assert main(["data", "prepare", "browsecomp-plus", "--from", str(copy)]) == 0
    assert get_dataset("browsecomp-plus").tasks("test")[0].gold_passages == (("2", "3"),)


def test_judgements_count_above_0_alone(copy: Path) -> None:
    file = copy / "topics-qrels" / "qrel_evidence.txt"
    file.write_bytes(b"\xef\xbb\xbf7 0 1 1\n7 0 2 2\n7 0 3 0\n7 0 4 -1\n7 0 2 1\n8 0 1 00\n")
    assert read_judgements(file) == {"7": ["1", "2"]}
    for relevance in ("x", "1.5", ""):
        file.write_text(f"7 0 1 1\n7 0 2 {relevance}\n")
        with pytest.raises(DataError, match=r"qrel_evidence\.txt:2: "):
            read_judgements(file)
    file.write_bytes("7 0 Züri 1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"qrel_evidence\.txt: not valid UTF-8"):
        read_judgements(file)


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
