import json
import subprocess
import sys

import gymnasium
import pytest

from calibadv_env.data import prepared, registry
from calibadv_env.data.base import QATask
from calibadv_env.data.cutting import Cutting
from calibadv_env.data.loading import Options
from calibadv_env.data.prepared import own_names
from calibadv_env.data.preparing.own import deal_out, prepare_own
from calibadv_env.data.registry import (
    describe_datasets,
    get_dataset,
    list_datasets,
    refuse_built_in_name,
)
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.bm25.build import build_bm25_index

DOCUMENTS = "id,title,text\nd1,Nile,The Nile is in Egypt.\nd2,Cairo,Cairo is in Egypt too.\n"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CALIBADV_CORPUS", raising=False)
    for name in ("_datasets", "_folders", "_unnamed"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(prepared, "_corpora", {})
    return tmp_path / "data"


@pytest.fixture
def questions(tmp_path):
    rows = [f"Where is thing {i}?,place {i},d{1 + i % 2}" for i in range(20)]
    path = tmp_path / "questions.csv"
    path.write_text("question,answer,documents\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.csv"
    path.write_text(DOCUMENTS)
    return path


def test_a_table_becomes_a_dataset_that_every_process_knows(questions, documents, root):
    done = prepare_own("Capitals", [str(questions)], documents)
    assert done.sizes == {"train": 16, "dev": 2, "test": 2}
    assert (done.num_documents, done.num_passages, done.num_with_gold) == (2, 2, 20)
    assert done.folder == root / "capitals"
    assert "Capitals" in list_datasets()
    listing = next(one for one in describe_datasets() if one.name == "Capitals")
    assert listing.origin == f"prepared in {root / 'capitals'}"
    dataset = get_dataset("capitals")
    assert dataset is get_dataset("Capitals")
    assert dataset.name == "Capitals"
    env = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="capitals", split="test")
    _, info = env.reset(seed=0)
    assert (info["split"], info["num_tasks"], info["has_gold"]) == ("test", 2, True)
    program = (
        "from calibadv_env import get_dataset; d = get_dataset('capitals');"
        "print(len(d.tasks('train')), d.corpus().sha256)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert out.split() == ["16", dataset.corpus().sha256]


def test_a_path_takes_the_place_of_a_name(questions, documents, tmp_path):
    done = prepare_own(str(tmp_path / "mine" / "quiz"), [str(questions)], documents)
    assert (done.folder / "corpus.jsonl").is_file()
    dataset = get_dataset(str(done.folder))
    assert len(dataset.tasks("train")) == 16
    assert dataset.name == str(done.folder)
    done.folder.rename(tmp_path / "moved")
    assert len(get_dataset(str(tmp_path / "moved")).tasks("train")) == 16
    assert own_names() == {}


def test_the_deal_is_repeatable_and_keeps_equal_questions_together():
    tasks = [QATask(id=str(i), question=f"Q {i // 2} ", golden_answers=("a",)) for i in range(60)]
    dealt = deal_out(tasks, (0.8, 0.1, 0.1), seed=0)
    assert {split: len(of) for split, of in dealt.items()} == {"train": 48, "dev": 6, "test": 6}
    questions = [{task.question for task in of} for of in dealt.values()]
    assert not questions[0] & questions[1]
    assert not questions[1] & questions[2]
    assert dealt == deal_out(tasks, (8, 1, 1), seed=0) != deal_out(tasks, (8, 1, 1), seed=1)
    assert list(deal_out(tasks, (0, 0.5, 0.5), seed=0)) == ["dev", "test"]
    assert list(deal_out(tasks, (1, 0, 0), seed=0)) == ["train"]
    with pytest.raises(ValueError, match=r"at least 3 different ones.* got 2"):
        deal_out(tasks[:4], (0.8, 0.1, 0.1), seed=0)
    small = deal_out(tasks[:6], (0.98, 0.01, 0.01), seed=0)
    assert [len(of) for of in small.values()] == [2, 2, 2]


def test_files_called_after_splits_and_a_split_column_say_which(tmp_path, documents):
    header, row = "question,answer\n", "What{}?,that\n"
    for number, split in enumerate(("train", "test")):
        (tmp_path / f"{split}.csv").write_text(header + row.format(number))
    files = [str(tmp_path / "test.csv"), str(tmp_path / "train.csv")]
    assert prepare_own("named", files, documents).sizes == {"train": 1, "test": 1}
    column = tmp_path / "all.csv"
    column.write_text("split,question,answer\ndev,a,b\ntrain,c,d\n")
    assert prepare_own("column", [str(column)], documents).sizes == {"train": 1, "dev": 1}
    assert get_dataset("column").tasks("dev")[0].metadata == {}
    lines = tmp_path / "all.jsonl"
    record = {"id": "1", "question": "q", "golden_answers": ["a"], "split": "test"}
    lines.write_text(json.dumps(record) + "\n")
    assert prepare_own("lines", [str(lines)], documents).sizes == {"test": 1}
    column.write_text("split,question,answer\ndev,a,b\n,c,d\n")
    with pytest.raises(DataError, match=r"all\.csv:3: split must be one of .*, got None"):
        prepare_own("column", [str(column)], documents)
    assert len(get_dataset("column").tasks("dev")) == 1


def test_long_documents_are_cut_and_stay_gold(tmp_path, documents):
    documents.write_text("id,title,text\nlong,L," + " ".join(f"w{i}" for i in range(25)) + "\n")
    questions = tmp_path / "q.csv"
    questions.write_text("question,answer,documents\nq,a,long\n")
    options = Options(cutting=Cutting(words=10))
    done = prepare_own("cut", [str(questions)], documents, shares=(1, 0, 0), options=options)
    assert (done.num_documents, done.num_passages) == (1, 3)
    dataset = get_dataset("cut")
    assert dataset.tasks("train")[0].gold_passages == (("long#1", "long#2", "long#3"),)
    pieces = [passage.text.split() for passage in dataset.corpus()]
    assert [len(piece) for piece in pieces] == [10, 10, 5]
    assert [word for piece in pieces for word in piece] == [f"w{i}" for i in range(25)]
    assert Cutting(words=5).passages(Passage("x", "", "")) == [Passage("x", "", "")]


def test_an_index_stays_where_it_is_and_is_checked(tmp_path, questions, documents, monkeypatch):
    build_bm25_index(_jsonl(tmp_path), tmp_path / "index")
    done = prepare_own("big", [str(questions)], tmp_path / "index")
    assert not (done.folder / "corpus.jsonl").exists()
    dataset = get_dataset("big")
    assert len(dataset.corpus()) == 2
    assert dataset.retriever("bm25").search(["Nile"], 1)[0][0].passage.id == "d1"
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    registry._folders.clear()
    with pytest.raises(DataError, match="there is no such corpus"):
        get_dataset("big").corpus()
    monkeypatch.setenv("CALIBADV_CORPUS", str(tmp_path / "elsewhere"))
    assert len(get_dataset("big").corpus()) == 2


def test_a_corpus_that_changed_is_refused(questions, documents):
    folder = prepare_own("stale", [str(questions)], documents).folder
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"id": "d3", "title": "", "text": "new"}\n')
    with pytest.raises(DataError, match=r"the corpus has changed.*prepare` again"):
        get_dataset("stale").corpus()


def test_without_documents_a_server_elsewhere_is_needed(questions):
    done = prepare_own("bare", [str(questions)], None)
    assert done.num_passages is None
    dataset = get_dataset("bare")
    assert len(dataset.tasks("train")) == 16
    with pytest.raises(DataError, match=r"has no corpus: put corpus\.jsonl .* or name a search"):
        dataset.corpus()
    env = gymnasium.make(
        "calibadv_env:DeepSearch-v1", dataset="bare", retriever="http://127.0.0.1:9"
    )
    env.reset(seed=0)


def test_a_name_that_is_taken_or_malformed_is_refused():
    with pytest.raises(ValueError, match="built-in dataset, got 'hotpotQA'"):
        refuse_built_in_name("hotpotQA")
    with pytest.raises(ValueError, match="name must be ASCII"):
        refuse_built_in_name("a b")
    refuse_built_in_name("./hotpotqa")
    refuse_built_in_name("capitals")


def test_what_is_wrong_is_told_and_nothing_is_written(tmp_path, questions, documents, root):
    def refused(error, message, name="x", sources=(str(questions),), **options):
        with pytest.raises(error, match=message):
            prepare_own(name, list(sources), documents, **options)
        assert not (root / name.lower()).exists()

    refused(ValueError, "at least one file", sources=())
    refused(ValueError, "shares must not be negative", shares=(1, -1, 1))
    refused(DataError, "cannot open", sources=[str(tmp_path / "no.csv")])
    questions.write_text("question,answer,documents\nq,a,d1\nr,b,d9\ns,c,\n")
    refused(DataError, r"task 'q-[0-9a-f]+' in split .* names the document 'd9'")
    (root / "y").mkdir(parents=True)
    (root / "y" / "precious").write_text("")
    with pytest.raises(DataError, match="did not write"):
        prepare_own("y", [str(questions)], documents)
    assert (root / "y" / "precious").exists()
    assert [path.name for path in root.iterdir()] == ["y"]


def _jsonl(folder):
    path = folder / "corpus.jsonl"
    rows = [line.split(",") for line in DOCUMENTS.splitlines()[1:]]
    records = [{"id": a, "title": b, "text": c} for a, b, c in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
