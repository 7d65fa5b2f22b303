"""Datasets from generators, from the hub, from files named by their path, and from packages."""

import json
import os
import pickle
import subprocess
import sys
import types

import gymnasium
import pytest

from calibadv_env.data import registry
from calibadv_env.data.base import QATask
from calibadv_env.data.preparing.own import prepare_own
from calibadv_env.data.reading import is_fetched, read_corpus
from calibadv_env.data.registry import (
    describe_datasets,
    get_dataset,
    list_datasets,
    register_dataset,
)
from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.retrieval import Corpus, Passage

PASSAGES = [
    {"id": "p1", "title": "Nile", "text": "The Nile is in Egypt."},
    {"id": "p2", "title": "Cairo", "text": "Cairo is the capital of Egypt."},
]
TASKS = [
    {"id": "a", "question": "Where is the Nile?", "golden_answers": ["Egypt"]},
    {"id": "b", "question": "Which city?", "golden_answers": ["Cairo"], "gold_passages": [["p2"]]},
]


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    for name in ("_datasets", "_loaders", "_origins", "_folders", "_unnamed"):
        monkeypatch.setattr(registry, name, {})
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def origin(name):
    return next(one.origin for one in describe_datasets() if one.name == name)


# Iterables --------------------------------------------------------------------------------


def counted(items, log):
    for item in items:
        log.append(item)
        yield item


def test_a_generator_is_read_at_the_first_use_and_once():
    tasks, passages = [], []
    register_dataset("stream", counted(TASKS, tasks), counted(PASSAGES, passages))
    assert tasks == passages == []
    assert origin("stream") == "registered by this process from a generator"
    dataset = get_dataset("stream")
    assert tasks == []
    assert [task.id for task in dataset.tasks("train")] == ["a", "b"]
    assert dataset.tasks("test") is dataset.tasks("train")
    assert len(dataset.corpus()) == 2
    assert (len(tasks), len(passages)) == (2, 2)
    env = gymnasium.make("DeepSearch-Stream-v1")
    assert env.reset(seed=0)[1]["num_tasks"] == 2


def test_splits_may_be_generators_beside_files(tmp_path):
    log = []
    sources = {"train": counted(TASKS, log), "dev": write(tmp_path / "d.jsonl", TASKS[:1])}
    register_dataset("mixed", sources, PASSAGES)
    assert len(get_dataset("mixed").tasks("dev")) == 1
    assert log == []
    assert len(get_dataset("mixed").tasks("train")) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "c", "question": "q"}, r"bad/test\[2\]: key 'golden_answers' is missing"),
        (3, r"bad/test\[2\] must be a QATask or a dict, got int"),
        (TASKS[0], r"bad/test\[2\]: id 'a' stands at bad/test\[0\] too"),
        (
            QATask(id="c", question="q", golden_answers=("x",), gold_passages=(("p9",),)),
            r"task 'c' in split 'test' of dataset 'bad'.*got 'p9'",
        ),
    ],
)
def test_a_bad_item_is_told_with_its_position_every_time(bad, message):
    register_dataset("bad", iter([*TASKS, bad]), PASSAGES)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            get_dataset("bad").tasks("test")


def test_a_generator_that_breaks_is_not_taken_for_an_empty_one():
    def broken():
        yield TASKS[0]
        raise OSError("the disk is gone")

    register_dataset("broken", broken(), PASSAGES)
    with pytest.raises(OSError, match="the disk is gone"):
        get_dataset("broken").tasks("test")
    with pytest.raises(DataError, match=r"broken/test could not be read: the disk is gone"):
        get_dataset("broken").tasks("test")
    register_dataset("none", iter([]), PASSAGES)
    with pytest.raises(DataError, match="split 'test' of dataset 'none' is empty"):
        get_dataset("none").tasks("test")


# The hub ----------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A local copy of a dataset in the shape that the hub has it."""
    pytest.importorskip("datasets")
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(3)]
    write(tmp_path / "owner" / "quiz" / "train.jsonl", rows)
    write(tmp_path / "owner" / "quiz" / "validation.jsonl", rows[:1])
    write(tmp_path / "owner" / "wiki" / "train.jsonl", PASSAGES)
    return tmp_path / "owner"


def test_a_copy_of_a_repository_is_read_by_the_real_package(repository, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    register_dataset("quiz", f"hf:{repository}/quiz", f"hf:{repository}/wiki")
    assert origin("quiz") == f"registered by this process from hf:{repository}/quiz"
    dataset = get_dataset("quiz")
    assert dataset.splits == ("train", "dev")
    ids = [task.id for task in dataset.tasks("train")]
    assert len(set(ids)) == 3
    assert ids[0] == dataset.tasks("dev")[0].id, "the id of a row is made of its content"
    assert dataset.tasks("eval")[0].golden_answers == ("0",)
    assert dataset.tasks("eval").split == "dev"
    assert dataset.corpus().by_id("p2").title == "Cairo"
    assert pickle.loads(pickle.dumps(dataset)) is dataset
    unnamed = get_dataset(f"hf:{repository}/quiz")
    assert len(unnamed.tasks("train")) == 3
    assert pickle.loads(pickle.dumps(unnamed)) is unnamed
    with pytest.raises(DataError, match="has no corpus"):
        unnamed.corpus()
    done = prepare_own("kept", [f"hf:{repository}/quiz"], None)
    assert done.sizes == {"train": 3, "dev": 1}


def fake_datasets(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.exceptions = types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_registering_touches_no_network_and_the_configuration_reaches_the_loader(monkeypatch):
    calls = []

    def load(*arguments):
        calls.append(arguments)
        row = {"id": 5, "question": "q", "answers": ["x", "y"], "level": None, "type": "z"}
        return {"train": [row], "test": [row]}

    fake_datasets(monkeypatch, load)
    register_dataset("web", "hf:owner/name:config", PASSAGES)
    assert "web" in list_datasets()
    assert calls == []
    task = get_dataset("web").tasks("test")[0]
    assert (task.id, task.golden_answers, task.metadata) == ("5", ("x", "y"), {"type": "z"})
    assert set(calls) == {("owner/name", "config")}


def test_offline_it_says_what_to_download_and_where_to_put_it(monkeypatch):
    def load(repository, config):
        raise ConnectionError("no route to host")

    fake_datasets(monkeypatch, load)
    register_dataset("web", "hf:owner/name:config", PASSAGES)
    with pytest.raises(DataError) as caught:
        get_dataset("web")
    text = str(caught.value)
    assert "hf:owner/name:config cannot be loaded: no route to host" in text
    assert "hf download owner/name --repo-type dataset --local-dir name" in text
    assert "name hf:./name:config in place of hf:owner/name:config" in text
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'calibadv\[data\]'"):
        get_dataset("web")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "q"}], r"hf:o/n train\[0\]: a row must have an answer"),
        (
            [{"id": 1, "question": "q", "answer": "a"}] * 2,
            r"hf:o/n train\[1\]: id '1' stands at",
        ),
        ([], "hf:o/n train: there is no question in it"),
    ],
)
def test_faulty_rows_are_told_with_their_place(monkeypatch, rows, message):
    fake_datasets(monkeypatch, lambda *_: {"train": rows})
    with pytest.raises(DataError, match=message):
        get_dataset("hf:o/n").tasks("train")


def test_faulty_passages_and_names_are_refused(monkeypatch):
    fake_datasets(monkeypatch, lambda *_: {"train": [{"id": "x"}]})
    with pytest.raises(DataError, match=r"hf:o/n train\[0\]: key 'contents' is missing"):
        read_corpus("hf:o/n")
    for name in ("hf:name", "hf:", "hf:owner/"):
        with pytest.raises(ValueError, match="must be named hf:owner/name"):
            register_dataset("x", name, PASSAGES)
    with pytest.raises(ValueError, match="corpus of dataset 'x' must be given"):
        register_dataset("x", "hf:o/n")
    with pytest.raises(ValueError, match="x/train: a dataset of the hub brings its own splits"):
        register_dataset("x", {"train": "hf:o/n"}, PASSAGES)
    assert is_fetched(3) is False


# Files named by their path ----------------------------------------------------------------


def test_a_file_is_a_dataset_with_the_corpus_beside_it(tmp_path):
    (tmp_path / "quiz.csv").write_text("question,answer\nWhere is the Nile?,Egypt\n")
    write(tmp_path / "corpus.jsonl", PASSAGES)
    name = str(tmp_path / "quiz.csv")
    dataset = get_dataset(name)
    assert dataset.tasks("train") is dataset.tasks("test")
    assert pickle.loads(pickle.dumps(dataset)) is dataset
    program = f"from calibadv_env import get_dataset; print(len(get_dataset({name!r}).corpus()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr


def test_a_folder_of_tables_is_a_dataset(tmp_path):
    (tmp_path / "train.csv").write_text("question,answer,documents\nWhere?,Egypt,d1\n")
    (tmp_path / "documents.csv").write_text("id,title,text\nd1,Nile,In Egypt.\n")
    dataset = get_dataset(str(tmp_path))
    assert dataset.tasks("train")[0].gold_passages == (("d1",),)
    register_dataset("tables", tmp_path)
    assert isinstance(get_dataset("tables").corpus(), Corpus)
    (tmp_path / "documents.csv").write_text("id,title,text\nd2,Nile,In Egypt.\n")
    registry._folders.clear()
    with pytest.raises(DataError, match="must be in the corpus, got 'd1'"):
        get_dataset(str(tmp_path))


def test_without_a_corpus_only_a_search_elsewhere_works(tmp_path):
    path = write(tmp_path / "quiz.jsonl", TASKS)
    dataset = get_dataset(str(path))
    assert len(dataset.tasks("test")) == 2
    with pytest.raises(DataError, match=r"put corpus\.jsonl or documents\.csv into"):
        dataset.retriever("bm25")
    assert dataset.retriever("http://127.0.0.1:9").url.startswith("http://127.0.0.1:9")
    with pytest.raises(DataError, match="no such folder or file"):
        get_dataset(str(tmp_path / "none.jsonl"))


# Packages ---------------------------------------------------------------------------------


PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-trivia"
version = "1.2"
[project.entry-points."calibadv_env.datasets"]
tiny-trivia = "tiny_trivia:load"
tiny-folder = "tiny_trivia:FOLDER.resolve"
tiny-broken = "tiny_trivia:nothing"
tiny-wrong = "tiny_trivia:wrong"
toy = "tiny_trivia:load"
"not a name" = "tiny_trivia:load"
[tool.setuptools]
packages = ["tiny_trivia"]
[tool.setuptools.package-data]
tiny_trivia = ["*.jsonl"]
"""
MODULE = """
from pathlib import Path
import calibadv_env
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.retrieval import Corpus, Passage

FOLDER = Path(__file__).parent

def load():
    task = QATask(id="t", question="Where is the Nile?", golden_answers=("Egypt",))
    return calibadv_env.Dataset(
        name="tiny-trivia",
        splits=("test",),
        lone_split="test",
        load_tasks=lambda split: TaskSet([task], name="tiny-trivia", split=split),
        load_corpus=lambda: Corpus([Passage("p1", "Nile", "The Nile is in Egypt.")]),
    )

def wrong():
    return 5
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A real package, installed by pip into a folder of its own."""
    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "tiny_trivia").mkdir()
    (source / "tiny_trivia" / "__init__.py").write_text(MODULE)
    write(source / "tiny_trivia" / "test.jsonl", TASKS)
    write(source / "tiny_trivia" / "corpus.jsonl", PASSAGES)
    target = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--no-index", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def _on_path(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    yield
    sys.modules.pop("tiny_trivia", None)


@pytest.mark.usefixtures("_on_path")
@pytest.mark.filterwarnings("ignore:entry point 'not a name'")
def test_an_installed_package_brings_datasets():
    assert {"tiny-trivia", "tiny-folder"} <= set(list_datasets())
    assert origin("tiny-trivia") == "package tiny-trivia 1.2 (tiny_trivia:load)"
    assert origin("toy") == "built in"
    assert "tiny_trivia" not in sys.modules
    dataset = get_dataset("tiny-trivia")
    assert dataset.tasks("train")[0].id == "t"
    assert dataset is get_dataset("tiny-trivia")
    assert len(get_dataset("tiny-folder").tasks("test")) == 2
    assert get_dataset("tiny-folder").name == "tiny-folder"
    with pytest.raises(DataError, match=r"'tiny-broken' of package tiny-trivia 1\.2 .*nothing"):
        get_dataset("tiny-broken")
    with pytest.raises(DataError, match=r"tiny_trivia:wrong.* must give a Dataset .*got int"):
        get_dataset("tiny-wrong")
    with pytest.raises(ValueError, match="'tiny-trivia' is already registered"):
        register_dataset("tiny-trivia", TASKS, PASSAGES)
    register_dataset("tiny-trivia", TASKS, PASSAGES, overwrite=True)
    assert len(get_dataset("tiny-trivia").tasks("test")) == 2


@pytest.mark.usefixtures("_on_path")
def test_a_name_that_cannot_be_one_is_warned_about():
    with pytest.warns(UserWarning, match="'not a name' of calibadv_env.datasets is no name"):
        list_datasets()


def test_a_new_process_finds_the_package(installed):
    program = (
        "import gymnasium\n"
        "env = gymnasium.make('calibadv_env:DeepSearch-TinyTrivia-v1', split='test')\n"
        "print(env.reset(seed=0)[1]['question'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout == "Where is the Nile?\n", done.stderr


def test_passages_of_a_package_are_passages():
    register_dataset("plain", TASKS, [Passage("p2", "", "x")])
    assert origin("plain") == "registered by this process from a list"
