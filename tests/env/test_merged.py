import json
import pickle

import gymnasium
import pytest

from calibadv_env.data import prepared, registry
from calibadv_env.data.preparing.coverage import audit_dataset, audit_of, audit_path, write_audit
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.errors import DataError
from calibadv_env.retrieval import MemoryRetriever

PASSAGES = [
    {"id": "p1", "title": "Nile", "text": "The Nile is in Egypt."},
    {"id": "p2", "title": "Cairo", "text": "Cairo is the capital of Egypt."},
]


def task(number, gold=("p1",)):
    return {
        "id": f"train_{number}",
        "question": f"Where is the Nile, {number}?",
        "golden_answers": ["Egypt"],
        "gold_passages": [list(gold)],
        "metadata": {"kind": "x"},
    }


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CALIBADV_CORPUS", raising=False)
    for name in ("_datasets", "_folders", "_unnamed"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(prepared, "_corpora", {})
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


@pytest.fixture
def _parts():
    first = {"train": [task(0), task(1)], "dev": [task(2)], "test": [task(3)]}
    register_dataset("first", first, PASSAGES)
    register_dataset("second", {"train": [task(0)], "dev": [task(1), task(9)]}, PASSAGES)


@pytest.mark.usefixtures("_parts")
def test_tasks_stand_in_the_order_of_the_name_with_the_dataset_before_their_ids():
    merged = get_dataset("second + first")
    assert merged.name == "second+first"
    assert merged is get_dataset("second+first")
    assert merged.splits == ("train", "dev")
    tasks = merged.tasks("train")
    assert [one.id for one in tasks] == ["second:train_0", "first:train_0", "first:train_1"]
    assert tasks[1].metadata == {"kind": "x", "dataset": "first"}
    assert tasks is merged.tasks("train")
    assert (tasks.name, tasks.split) == ("second+first", "train")
    assert pickle.loads(pickle.dumps(merged)) is merged


@pytest.mark.usefixtures("_parts")
def test_each_part_is_evaluated_on_its_own_split():
    merged = get_dataset("first+second")
    tasks = merged.tasks("eval")
    assert [one.id for one in tasks] == ["first:train_3", "second:train_1", "second:train_9"]
    assert tasks.split == "test+dev"
    env = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="first+second", split="eval")
    _, info = env.reset(options={"task_id": "second:train_9"})
    assert (info["split"], info["num_tasks"]) == ("test+dev", 3)
    *_, info = env.step("<think>x</think><search>Nile</search>")
    assert info["gold_recall"] == 1.0


@pytest.mark.usefixtures("_parts")
def test_the_audit_of_a_merged_dataset_is_found_again(tmp_path):
    result = audit_dataset("first+second", top_k=1)
    path = audit_path("first+second")
    assert path == tmp_path / "data" / "first+second" / "audit.json"
    write_audit(result, path)
    assert audit_of("first+second", "eval", result.corpus_sha256)["split"] == "test+dev"
    folders = audit_path("./a/x+./b/y")
    assert folders == tmp_path / "data" / "x+y" / "audit.json"


@pytest.mark.usefixtures("_parts")
def test_what_cannot_be_merged_is_refused():
    register_dataset("other", {"train": [task(0, ["q"])]}, [{"id": "q", "title": "", "text": "x"}])
    register_dataset("lonely", {"hard": [task(0)]}, PASSAGES)
    merged = get_dataset("first+other")
    assert len(merged.tasks("train")) == 3
    with pytest.raises(DataError, match=r"must search one corpus, .*first \w{12}, other \w{12}"):
        merged.retriever("bm25")
    retriever = MemoryRetriever(get_dataset("first").corpus())
    assert merged.retriever(retriever) is retriever
    with pytest.raises(ValueError, match="must be in every part, got 'test': second has train, d"):
        get_dataset("first+second").tasks("test")
    for name in ("first+first", "first+"):
        with pytest.raises(ValueError, match=r"two different parts or more|dataset must be one of"):
            get_dataset(name)
    with pytest.raises(ValueError, match=r"must share a split: first has train.*lonely has hard"):
        get_dataset("first+lonely")
    with pytest.raises(ValueError, match=r"dataset must be one of .*got 'nothing'"):
        get_dataset("first+nothing")


def test_a_lone_file_merges_with_a_folder_whose_path_has_a_plus(tmp_path):
    def write(path, rows):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(tmp_path / "c++" / "train.jsonl", [task(0)])
    write(tmp_path / "c++" / "corpus.jsonl", PASSAGES)
    write(tmp_path / "lone" / "quiz.jsonl", [task(5)])
    write(tmp_path / "lone" / "corpus.jsonl", PASSAGES)
    folder = get_dataset(str(tmp_path / "c++"))
    assert len(folder.tasks("train")) == 1
    register_dataset("plain", tmp_path / "c++")
    merged = get_dataset(f"plain+{tmp_path}/lone/quiz.jsonl")
    assert [one.id[-7:] for one in merged.tasks("train")] == ["train_0", "train_5"]
    assert len(merged.corpus()) == 2


def test_benchmarks_share_their_corpus_and_missing_files_are_told(tmp_path, monkeypatch):
    def write(name, split, gold):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        record = {"id": f"{split}_0", "question": f"{name}?", "golden_answers": ["Egypt"]}
        (folder / f"{split}.jsonl").write_text(json.dumps(record) + "\n")

    corpus = tmp_path / "wiki.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in PASSAGES))
    merged = get_dataset("hotpotqa+2wikimultihopqa")
    assert merged.name == "HotpotQA+2WikiMultihopQA"
    assert (merged.splits, merged.eval_split) == (("train", "dev"), "dev")
    write("hotpotqa", "train", [])
    with pytest.raises(DataError, match=r"no train\.jsonl of 2WikiMultihopQA here"):
        merged.tasks("train")
    with pytest.raises(DataError, match="HotpotQA has no corpus: set CALIBADV_CORPUS"):
        merged.corpus()
    write("2wikimultihopqa", "train", [])
    monkeypatch.setenv("CALIBADV_CORPUS", str(corpus))
    assert [one.question for one in merged.tasks("train")] == ["hotpotqa?", "2wikimultihopqa?"]
    assert merged.retriever("bm25") is get_dataset("2wikimultihopqa").retriever("bm25")
    write("nq", "test", [])
    write("hotpotqa", "dev", [])
    mixed = get_dataset("nq+hotpotqa")
    assert mixed.tasks("eval").split == "test+dev"
    assert [one.id for one in mixed.tasks("eval")] == ["NQ:test_0", "HotpotQA:dev_0"]
