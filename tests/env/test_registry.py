import gzip
import json
import multiprocessing
import pickle
import threading

import gymnasium
import pytest

from calibadv_env.data import dataset as dataset_module
from calibadv_env.data import registry
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.registry import (
    Dataset,
    env_id_of,
    get_dataset,
    list_datasets,
    register_dataset,
)
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage

PASSAGES = [
    {"id": "p1", "title": "Nile", "text": "The Nile is in Egypt."},
    {"id": "p2", "contents": '"Cairo"\nCairo is the capital of Egypt.'},
]
TASKS = [
    {"id": "t1", "question": "Where is the Nile?", "golden_answers": ["Egypt"]},
    {
        "id": "t2",
        "question": "What is the capital of the country of the Nile?",
        "golden_answers": ["Cairo"],
        "gold_passages": [["p1"], ["p2"]],
    },
]


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_datasets", dict(registry._datasets))
    monkeypatch.setattr(registry, "_folders", {})
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def write(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "trivia"
    path.mkdir()
    write(path / "train.jsonl", TASKS)
    write(path / "test.jsonl.gz", TASKS[:1])
    write(path / "corpus.jsonl", PASSAGES)
    return path


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("my-trivia", "DeepSearch-MyTrivia-v1"),
        ("my_trivia", "DeepSearch-MyTrivia-v1"),
        ("MyTrivia", "DeepSearch-MyTrivia-v1"),
        ("nq", "DeepSearch-Nq-v1"),
        ("2wiki-HQ", "DeepSearch-2wikiHQ-v1"),
        ("atlas-wiki", "DeepSearch-AtlasWiki-v1"),
    ],
)
def test_the_id_is_the_name_in_camel_case(name, env_id):
    assert env_id_of(name) == env_id


@pytest.mark.parametrize("name", ["", "-a", "a b", "a--b", "é", "a/b", "a-", "a:b", "a\n"])
def test_malformed_names_are_refused(name):
    with pytest.raises(ValueError, match="name must be ASCII letters"):
        register_dataset(name, TASKS, PASSAGES)


def test_registration_makes_a_gymnasium_id():
    assert register_dataset("my-trivia", TASKS, PASSAGES) == "DeepSearch-MyTrivia-v1"
    spec = gymnasium.spec("DeepSearch-MyTrivia-v1")
    assert spec.entry_point == "calibadv_env.env:DeepSearchEnv"
    assert spec.vector_entry_point == "calibadv_env.vector:DeepSearchVectorEnv"
    assert spec.kwargs == {"dataset": "my-trivia"}
    assert "my-trivia" in list_datasets()
    assert get_dataset("my-trivia") is get_dataset("my-trivia")


def test_a_lone_file_is_the_test_split_and_stands_for_train_and_dev(tmp_path):
    path = write(tmp_path / "tasks.jsonl", TASKS)
    register_dataset("lone", path, write(tmp_path / "passages.jsonl", PASSAGES))
    dataset = get_dataset("lone")
    assert dataset.splits == ("test",)
    assert dataset.tasks("train") is dataset.tasks("dev") is dataset.tasks("test")
    assert dataset.tasks("train").split == "test"
    assert [task.id for task in dataset.tasks("test")] == ["t1", "t2"]
    with pytest.raises(ValueError, match="split of dataset 'lone' must be test, got 'val'"):
        dataset.tasks("val")


def test_a_folder_brings_its_splits_and_its_corpus(folder):
    register_dataset("trivia", str(folder))
    dataset = get_dataset("trivia")
    assert dataset.splits == ("train", "test")
    assert len(dataset.tasks("train")) == 2
    assert len(dataset.tasks("test")) == 1
    assert dataset.corpus().by_id("p2").title == "Cairo"
    with pytest.raises(ValueError, match="must be train, test, got 'dev'"):
        dataset.tasks("dev")


def test_a_folder_needs_no_registration(folder):
    dataset = get_dataset(str(folder))
    assert get_dataset(f"{folder}/") is dataset
    assert len(dataset.tasks("train")) == 2
    assert pickle.loads(pickle.dumps(dataset)) is dataset
    with pytest.raises(DataError, match="no such folder"):
        get_dataset(f"{folder}/none")


def test_a_mapping_mixes_files_and_sequences(tmp_path):
    tasks = [QATask(id="x", question="Who?", golden_answers=("Ada",))]
    sources = {"train": write(tmp_path / "a.jsonl", TASKS), "easy": tasks}
    register_dataset("mixed", sources, Corpus([Passage("p1", "", "a"), Passage("p2", "", "b")]))
    dataset = get_dataset("mixed")
    assert dataset.splits == ("train", "easy")
    assert dataset.tasks("easy")[0].id == "x"
    with pytest.raises(ValueError, match="got 'test'"):
        dataset.tasks("test")


def test_a_name_is_taken_once_unless_overwritten(recwarn):
    register_dataset("twice", TASKS, PASSAGES)
    old = get_dataset("twice")
    with pytest.raises(ValueError, match="'twice' is already registered; pass overwrite=True"):
        register_dataset("twice", TASKS[:1], PASSAGES)
    assert get_dataset("twice") is old
    register_dataset("twice", TASKS[:1], PASSAGES, overwrite=True)
    assert len(get_dataset("twice").tasks("test")) == 1
    with pytest.raises(ValueError, match="gives the id DeepSearch-Twice-v1 of the dataset 'twice'"):
        register_dataset("Twice", TASKS, PASSAGES, overwrite=True)
    with pytest.raises(ValueError, match="built-in"):
        register_dataset("toy", TASKS, PASSAGES, overwrite=True)
    assert not recwarn.list


def test_unknown_gold_names_the_task_and_registers_nothing():
    bad = TASKS[1] | {"gold_passages": [["p1"], ["p9"]]}
    with pytest.raises(DataError, match=r"task 't2' in split 'test' of dataset 'bad'.*got 'p9'"):
        register_dataset("bad", [TASKS[0], bad], PASSAGES)
    assert "bad" not in list_datasets()
    assert "DeepSearch-Bad-v1" not in gymnasium.registry


def test_a_faulty_file_registers_nothing(folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"id": "t3"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:3: key 'golden_answers' is missing"):
        register_dataset("bad", folder)
    assert "bad" not in list_datasets()
    assert "DeepSearch-Bad-v1" not in gymnasium.registry


def test_a_failed_overwrite_keeps_the_old_dataset():
    register_dataset("keep", TASKS, PASSAGES)
    old = get_dataset("keep")
    with pytest.raises(ValueError, match=r"keep/test\[0\]: key"):
        register_dataset("keep", [{}], PASSAGES, overwrite=True)
    assert get_dataset("keep") is old
    assert "DeepSearch-Keep-v1" in gymnasium.registry


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="corpus of dataset 'x' must be given"):
        register_dataset("x", TASKS)
    with pytest.raises(ValueError, match="splits of dataset 'x' must not be empty"):
        register_dataset("x", {}, PASSAGES)
    with pytest.raises(ValueError, match="split 'test' of dataset 'x' is empty"):
        register_dataset("x", [], PASSAGES)
    with pytest.raises(ValueError, match=r"x/test\[0\] must be a QATask or a dict, got int"):
        register_dataset("x", [1], PASSAGES)
    with pytest.raises(ValueError, match=r"corpus\[1\] must be a Passage or a dict, got str"):
        register_dataset("x", TASKS, [PASSAGES[0], "text"])
    with pytest.raises(ValueError, match=r"corpus\[0\]: key 'contents' is missing"):
        register_dataset("x", TASKS, [{"id": "1"}])
    with pytest.raises(ValueError, match="passages must not be empty"):
        register_dataset("x", TASKS, [])
    write(tmp_path / "corpus.jsonl", PASSAGES)
    write(tmp_path / "test.jsonl", TASKS)
    with pytest.raises(ValueError, match="passages must not be empty"):
        register_dataset("x", tmp_path, [])
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(DataError, match="holds none of train"):
        register_dataset("x", tmp_path, PASSAGES)
    with pytest.raises(DataError, match="cannot open"):
        register_dataset("x", tmp_path / "none.jsonl", PASSAGES)


def test_an_unknown_name_lists_the_known_ones():
    pattern = r"one of .*'atlas'.* 'toy'.* the path of a folder or file, got 'q'"
    with pytest.raises(ValueError, match=pattern):
        get_dataset("q")


def test_a_retriever_is_built_once_for_each_name_even_by_many_threads(monkeypatch):
    built = []

    def slow(spec, corpus):
        built.append(spec)
        threading.Event().wait(0.05)
        return MemoryRetriever(corpus)

    monkeypatch.setattr(dataset_module, "make_retriever", slow)
    register_dataset("shared", TASKS, PASSAGES)
    dataset = get_dataset("shared")
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(dataset.retriever("bm25"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["bm25"]
    assert len(set(map(id, found))) == 1
    assert dataset.retriever("memory") is not found[0]


def test_a_retriever_object_passes_through():
    register_dataset("objects", TASKS, PASSAGES)
    retriever = MemoryRetriever(get_dataset("objects").corpus())
    assert get_dataset("objects").retriever(retriever) is retriever


def test_loaders_are_called_once_a_split():
    calls = []

    def load(split):
        calls.append(split)
        return TaskSet([QATask(id="a", question="b", golden_answers=("c",))], name="d", split=split)

    def fail():
        raise AssertionError("tasks without gold need no corpus")

    dataset = Dataset(name="d", splits=("train", "dev"), load_tasks=load, load_corpus=fail)
    assert dataset.tasks("dev") is dataset.tasks("dev")
    assert calls == ["dev"]


def test_a_dataset_pickles_by_name_and_only_if_registered():
    register_dataset("pickled", TASKS, PASSAGES)
    dataset = get_dataset("pickled")
    assert pickle.loads(pickle.dumps(dataset)) is dataset
    register_dataset("pickled", TASKS, PASSAGES, overwrite=True)
    with pytest.raises(pickle.PicklingError, match="not the registered one"):
        pickle.dumps(dataset)


def test_datasets_without_splits_or_with_a_strange_lone_split_are_refused():
    with pytest.raises(ValueError, match="splits of dataset 'd' must not be empty"):
        Dataset(name="d", splits=(), load_tasks=None, load_corpus=None)
    with pytest.raises(ValueError, match="lone_split must be one of"):
        Dataset(name="d", splits=("a",), load_tasks=None, load_corpus=None, lone_split="b")


def _num_tasks(name, connection):
    connection.send(len(get_dataset(name).tasks("test")))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the platform cannot fork"
)
def test_a_forked_worker_knows_the_registration():
    register_dataset("forked", TASKS, PASSAGES)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_num_tasks, args=("forked", sender))
    worker.start()
    assert receiver.poll(20)
    assert receiver.recv() == 2
    worker.join()
