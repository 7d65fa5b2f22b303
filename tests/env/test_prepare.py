import json

import pytest

from calibadv_env.data.base import read_tasks
from calibadv_env.data.evidence import gold_hops
from calibadv_env.data.prepared import read_prepared
from calibadv_env.data.preparing.prepare import prepare
from calibadv_env.data.sources.benchmarks import SEVEN
from calibadv_env.data.sources.flashrag import FlashragFolder
from calibadv_env.errors import DataError
from calibadv_env.retrieval import Corpus

PASSAGES = [
    {"id": "n1", "contents": '"Nile"\nThe Nile rises far in the south.'},
    {"id": "n2", "contents": '"Nile"\nThe Nile ends in Egypt, at the sea.'},
    {"id": "c", "contents": '"Cairo"\nCairo is the capital of Egypt.'},
    {"id": "x1", "contents": '"Lima"\nLima is old.'},
    {"id": "x2", "contents": '"Lima"\nLima is big.'},
]


def hotpot(index, *facts, **more):
    """A record whose context states each fact as the only sentence of its article."""
    titles, sentences = zip(*facts, strict=True) if facts else ((), ())
    metadata = {
        "supporting_facts": {"title": list(titles), "sent_id": [0] * len(titles)},
        "context": {"title": list(titles), "sentences": [[s] for s in sentences]},
    }
    return {
        "id": f"dev_{index}",
        "question": f"q {index}?",
        "golden_answers": ["Cairo"],
        "metadata": metadata if facts else {},
    } | more


RECORDS = [
    hotpot(0, ("Nile", "The Nile ends in Egypt."), ("Cairo", "Cairo is a capital.")),
    hotpot(1, ("Cairo", "Cairo is the capital."), ("Oslo", "Oslo is cold.")),
    hotpot(2, ("Lima", "Nothing of this stands anywhere.")),
    hotpot(3, golden_answers=["Cairo", ""]),
]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "in" / "hotpotqa" / "dev.jsonl", RECORDS)
    return {"HotpotQA": (SEVEN["HotpotQA"], FlashragFolder(tmp_path / "in" / "hotpotqa"))}


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "wiki.jsonl", PASSAGES)


def test_gold_is_found_and_what_is_not_found_is_counted(source, corpus, root):
    (done,) = prepare(source, corpus)
    tasks = read_tasks(root / "hotpotqa" / "dev.jsonl")
    assert [task.gold_passages for task in tasks] == [(("n2",), ("c",)), (("c",),), (), ()]
    assert [gold_hops(task) for task in tasks] == [
        (("n2",), ("c",)),
        (("c",), ()),
        ((),),
        (),
    ]
    assert [task.hops for task in tasks] == [2, 2, 1, 0]
    facts = done.splits["dev"]
    assert (facts.tasks, facts.expected, facts.blank_answers) == (4, 7405, 1)
    gold = facts.gold
    assert (gold.tasks_with_evidence, gold.tasks_complete) == (3, 1)
    assert (gold.tasks_partial, gold.tasks_missing) == (1, 1)
    assert gold.by_outcome == {"title": 0, "sentence": 3, "no_sentence": 1, "no_title": 1}
    assert done.warnings == [
        "HotpotQA train: expected 90447 tasks, found no file",
        "HotpotQA dev: expected 7405 tasks, found 4",
        "HotpotQA dev: 1 of 4 records name no evidence in a form that is known (supporting "
        "sentences expected)",
    ]


def test_the_note_says_where_everything_comes_from(source, corpus, root):
    prepare(source, corpus)
    note = read_prepared(root / "hotpotqa")
    assert note["source"].startswith("FlashRAG folder ")
    assert note["eval_split"] == "dev"
    assert note["corpus"] == {
        "path": str(corpus),
        "passages": 5,
        "sha256": Corpus.from_jsonl(corpus).sha256,
    }
    assert note["splits"]["dev"]["gold"]["tasks_partial"] == 1


def test_without_a_corpus_the_evidence_is_kept_for_later(source, root):
    (done,) = prepare(source)
    tasks = read_tasks(root / "hotpotqa" / "dev.jsonl")
    assert done.splits["dev"].gold is None
    assert all(task.gold_passages == () for task in tasks)
    assert tasks[1].metadata["evidence"][1] == {"title": "Oslo", "sentences": ["Oslo is cold."]}
    assert read_prepared(root / "hotpotqa")["corpus"] is None


def test_repeating_it_gives_the_same_bytes_and_drops_a_stale_audit(source, corpus, root):
    prepare(source)
    (root / "hotpotqa" / "audit.json").write_text("{}")
    prepare(source, corpus)
    first = {path.name: path.read_bytes() for path in (root / "hotpotqa").iterdir()}
    prepare(source, corpus)
    assert {path.name: path.read_bytes() for path in (root / "hotpotqa").iterdir()} == first
    assert sorted(first) == ["dev.jsonl", "prepared.json"]


def test_a_malformed_record_is_named_and_leaves_what_was_there(source, corpus, root, tmp_path):
    prepare(source, corpus)
    before = (root / "hotpotqa" / "dev.jsonl").read_bytes()
    bad = hotpot(9, ("Nile", "x"))
    bad["metadata"]["supporting_facts"]["sent_id"] = []
    path = write(tmp_path / "in" / "hotpotqa" / "dev.jsonl", [*RECORDS, bad])
    for chosen in (None, corpus):
        with pytest.raises(DataError, match=rf"{path}:5: metadata.supporting_facts must have as"):
            prepare(source, chosen)
    assert (root / "hotpotqa" / "dev.jsonl").read_bytes() == before
    assert [entry.name for entry in root.iterdir()] == ["hotpotqa"]


def test_an_id_that_stands_twice_and_an_empty_split_are_refused(source, root, tmp_path):
    path = write(tmp_path / "in" / "hotpotqa" / "dev.jsonl", [RECORDS[0], RECORDS[0]])
    with pytest.raises(DataError, match=r"dev\.jsonl:2: id 'dev_0' stands at"):
        prepare(source)
    write(path, [])
    with pytest.raises(DataError, match="split dev holds no task"):
        prepare(source)
    assert list(root.iterdir()) == []


def test_data_that_is_not_ours_is_never_written_over(source, root):
    theirs = write(root / "hotpotqa" / "dev.jsonl", RECORDS)
    with pytest.raises(DataError, match="holds files that calibadv data prepare did not write"):
        prepare(source)
    assert theirs.is_file()


def test_one_pass_over_the_corpus_serves_all_benchmarks(source, corpus, tmp_path):
    for name in ("2wikimultihopqa", "nq"):
        write(tmp_path / "in" / name / "dev.jsonl", RECORDS[:1])
    sources = source | {
        name: (SEVEN[name], FlashragFolder(tmp_path / "in" / name.lower()))
        for name in ("2WikiMultihopQA", "NQ")
    }
    stages = []
    done = prepare(sources, corpus, lambda stage, at, total: stages.append(stage))
    assert [one.benchmark.name for one in done] == ["HotpotQA", "2WikiMultihopQA", "NQ"]
    assert all(one.splits["dev"].gold.tasks_complete == 1 for one in done)
    assert stages.count("search the corpus for gold") == 1
