import json

import pytest

from calibadv_env.data import registry
from calibadv_env.data.preparing.coverage import audit_dataset, audit_of, audit_path, write_audit
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError

PASSAGES = [{"id": "p1", "title": "Nile", "text": "The Nile is in Egypt."}]
TASKS = [
    {"id": f"t{i}", "question": f"Where is the Nile {i}?", "golden_answers": [answer]}
    for i, answer in enumerate(["Egypt", "Peru", "Egypt", "Chad"])
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registry, "_datasets", {})
    monkeypatch.setattr(registry, "_folders", {})
    path = tmp_path / "quiz"
    path.mkdir()
    for name, rows in (("dev", TASKS), ("train", TASKS[:1]), ("corpus", PASSAGES)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_is_audited_on_its_evaluation_split(folder):
    result = audit_dataset(str(folder))
    assert (result.split, result.split_size, result.seed) == ("dev", 4, None)
    assert (result.retriever, result.top_k, result.num_passages) == ("bm25", 3, 1)
    assert result.corpus_sha256 == get_dataset(str(folder)).corpus().sha256
    assert result.coverage.answer_in_corpus == 0.5
    assert result.coverage.one_search_answer == 0.5


def test_the_toy_world_is_whole_and_its_chains_can_be_followed():
    coverage = audit_dataset("toy", top_k=3).coverage
    assert coverage.gold_in_corpus == coverage.answer_in_corpus == 1.0
    assert coverage.chain_gold == coverage.chain_answer == 1.0
    assert coverage.one_search_gold < 0.7


def test_a_sample_is_seeded_and_says_so(folder):
    one, again = (audit_dataset(str(folder), max_tasks=2, seed=s, retriever="none") for s in (5, 5))
    assert one == again
    assert (one.seed, one.split_size, one.coverage.num_tasks) == (5, 4, 2)
    shares = {
        audit_dataset(str(folder), max_tasks=1, seed=s, retriever="none").coverage.answer_in_corpus
        for s in range(8)
    }
    assert shares == {0.0, 1.0}


def test_bad_arguments_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="top_k must be positive, got 0"):
        audit_dataset(str(folder), top_k=0)
    with pytest.raises(ValueError, match="max_tasks must be positive, got 0"):
        audit_dataset(str(folder), max_tasks=0)


def test_figures_travel_with_the_data_as_long_as_the_corpus_is_the_same(folder):
    name = str(folder)
    result = audit_dataset(name, retriever="none")
    assert audit_of(name, "dev", result.corpus_sha256) is None
    write_audit(result, audit_path(name))
    write_audit(audit_dataset(name, split="train"), audit_path(name))
    found = audit_of(name, "dev", result.corpus_sha256)
    assert found["coverage"]["answer_in_corpus"] == 0.5
    assert found["retriever"] == "none"
    assert audit_of(name, "eval", result.corpus_sha256) == found
    assert audit_of(name, "train", result.corpus_sha256)["split"] == "train"
    assert audit_of(name, "dev", "0" * 64) is None
    assert audit_of(name, "test", result.corpus_sha256) is None
    assert [p.name for p in folder.glob("*audit*")] == ["audit.json"]


def test_the_audit_of_a_built_in_dataset_lies_in_the_users_folder(tmp_path):
    assert audit_path("HotpotQA") == tmp_path / "data" / "hotpotqa" / "audit.json"
    write_audit(audit_dataset("toy"), audit_path("toy"))
    assert audit_of("toy", "eval", get_dataset("toy").corpus().sha256)["dataset"] == "toy"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot read the file"), ('{"format": 7}', "format must be 1"), ("[]", "format must")],
)
def test_a_damaged_file_is_named(folder, content, message):
    (folder / "audit.json").write_text(content)
    with pytest.raises(DataError, match=rf"audit\.json: {message}"):
        audit_of(str(folder), "dev", "")
    with pytest.raises(DataError, match=r"audit\.json"):
        write_audit(audit_dataset(str(folder), retriever="none"), folder / "audit.json")
