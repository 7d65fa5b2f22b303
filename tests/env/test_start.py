"""What an environment over the atlas reads and builds when it is made."""

import json
import multiprocessing
import pickle
import subprocess
import sys

import pytest

from calibadv_env.data.atlas.build import CORPUS_SHA256, load_files
from calibadv_env.data.base import TaskSet, parse_task
from calibadv_env.data.lines import LineCorpus, LineTasks
from calibadv_env.data.names import SPLITS
from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval.bm25 import postings as postings_module
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.corpus import Corpus, parse_passage

TOY = get_dataset("toy").corpus()
CONTENT = b"".join(
    json.dumps({"id": p.id, "title": p.title, "text": p.text}).encode() + b"\n" for p in TOY
)
QUERIES = [p.text for p in TOY.passages[:20]] + ["", "river river city", "no such words"]


def line_corpus(folder, content=CONTENT, sha256=TOY.sha256):
    return LineCorpus(content, sha256, folder)


def folder_of(tmp_path):
    return tmp_path / "bm25-1.2-0.75-plain"


# Lines ------------------------------------------------------------------------------------


def test_a_corpus_of_lines_is_the_corpus(tmp_path):
    corpus = line_corpus(tmp_path)
    assert corpus.passages[3] is corpus.passages[3]
    assert corpus.passages[-1] == TOY.passages[-1]
    assert tuple(corpus.passages[1:5:2]) == TOY.passages[1:5:2]
    assert list(corpus) == list(TOY)
    assert (len(corpus), corpus.sha256, hash(corpus)) == (len(TOY), TOY.sha256, hash(TOY))
    assert corpus == Corpus(list(corpus))
    assert Corpus(list(corpus)) == corpus
    assert corpus.index_of(TOY.passages[7].id) == 7
    assert TOY.passages[7].id in corpus
    assert "no such" not in corpus
    with pytest.raises(KeyError):
        corpus.by_id("no such")
    with pytest.raises(IndexError):
        corpus.passages[len(TOY)]
    assert pickle.loads(pickle.dumps(corpus)) == TOY


def test_the_hash_of_the_atlas_is_the_known_one():
    lines = load_files()["corpus.jsonl"].splitlines()
    assert Corpus([parse_passage(json.loads(line)) for line in lines]).sha256 == CORPUS_SHA256


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_of_lines_are_the_tasks_and_their_evidence_is_there(split):
    content = load_files()[f"tasks-{split}.jsonl"]
    wanted = TaskSet(
        [parse_task(json.loads(line)) for line in content.splitlines()], name="atlas", split=split
    )
    tasks = LineTasks(content, name="atlas", split=split)
    assert tasks[5] == wanted[5]
    assert tasks[5] is tasks[5]
    assert tasks[-1] == wanted[-1]
    assert list(tasks) == list(wanted)
    assert len(tasks) == len(wanted)
    assert tasks.index_of(wanted[9].id) == 9
    assert list(pickle.loads(pickle.dumps(tasks))) == list(wanted)
    with pytest.raises(KeyError, match="has no task"):
        tasks.index_of("no such")
    corpus = get_dataset("atlas").corpus()
    assert all(p in corpus for task in wanted for hop in task.gold_passages for p in hop)


def test_making_an_environment_parses_few_lines():
    code = (
        "import json\n"
        "from types import SimpleNamespace\n"
        "import gymnasium, calibadv_env\n"
        "from calibadv_env.data import lines\n"
        "calls = []\n"
        "lines.json = SimpleNamespace(loads=lambda x: calls.append(x) or json.loads(x))\n"
        "env = gymnasium.make('calibadv_env:DeepSearch-v1', dataset='atlas')\n"
        "env.reset(seed=0)\n"
        "print(len(calls))\n"
    )
    warm = "import gymnasium; gymnasium.make('calibadv_env:DeepSearch-v1', dataset='atlas')"
    subprocess.run([sys.executable, "-c", warm], check=True)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 1100  # a task, and the thousand passages whose scripts are looked at


# The index --------------------------------------------------------------------------------


def test_a_kept_index_answers_as_a_new_one_to_the_last_bit(tmp_path, monkeypatch):
    new = Bm25Retriever(line_corpus(tmp_path))
    monkeypatch.setattr(postings_module, "_compute", lambda *_: pytest.fail("computed again"))
    kept = Bm25Retriever(line_corpus(tmp_path))
    wanted = new.search(QUERIES, 7)
    assert kept.search(QUERIES, 7) == wanted
    assert pickle.loads(pickle.dumps(kept)).search(QUERIES, 7) == wanted
    assert kept.identity() == new.identity()


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "manifest", "corpus", "version", "file"])
def test_an_index_that_is_damaged_or_stale_is_made_again(tmp_path, monkeypatch, damage):
    wanted = Bm25Retriever(TOY).search(QUERIES, 7)
    Bm25Retriever(line_corpus(tmp_path))
    folder = folder_of(tmp_path)
    scores = folder / "scores.f4"
    if damage == "byte":
        scores.write_bytes(b"\x00" * 4 + scores.read_bytes()[4:])
    elif damage == "cut":
        scores.write_bytes(scores.read_bytes()[:-4])
    elif damage == "gone":
        (folder / "words.json").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text('{"format"')
    elif damage == "corpus":
        record = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**record, "corpus_sha256": "0"}))
    elif damage == "version":
        monkeypatch.setattr(postings_module, "version", lambda _: "0.0.1")
    else:
        folder.rename(tmp_path / "away")
        folder.write_text("not a folder")
    assert Bm25Retriever(line_corpus(tmp_path)).search(QUERIES, 7) == wanted
    if damage != "file":
        monkeypatch.setattr(postings_module, "_compute", lambda *_: pytest.fail("computed again"))
        assert Bm25Retriever(line_corpus(tmp_path)).search(QUERIES, 7) == wanted


def test_a_place_that_cannot_be_written_is_done_without(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    found = Bm25Retriever(line_corpus(blocker / "x")).search(QUERIES, 7)
    assert found == Bm25Retriever(TOY).search(QUERIES, 7)


def test_other_settings_and_plain_corpora_are_kept_apart(tmp_path):
    Bm25Retriever(line_corpus(tmp_path))
    other = Bm25Retriever(line_corpus(tmp_path), k1=0.5, b=0.1)
    assert other.search(QUERIES, 7) == Bm25Retriever(TOY, k1=0.5, b=0.1).search(QUERIES, 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bm25-0.5-0.1-plain",
        "bm25-1.2-0.75-plain",
    ]


def make_and_search(folder):
    return Bm25Retriever(line_corpus(folder)).search(QUERIES, 7)


def test_several_processes_may_begin_at_once(tmp_path):
    with multiprocessing.get_context("fork").Pool(6) as pool:
        found = pool.map(make_and_search, [tmp_path] * 12)
    assert found == [Bm25Retriever(TOY).search(QUERIES, 7)] * 12
    assert [p.name for p in tmp_path.iterdir()] == ["bm25-1.2-0.75-plain"]


def test_the_atlas_is_what_it_was():
    content = load_files()["corpus.jsonl"].splitlines()
    plain = Corpus([parse_passage(json.loads(line)) for line in content])
    questions = [task.question for task in get_dataset("atlas").tasks("dev")[:40]]
    found = get_dataset("atlas").retriever("bm25").search(questions, 5)
    assert found == Bm25Retriever(plain).search(questions, 5)
