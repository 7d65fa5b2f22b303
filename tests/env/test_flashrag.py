import copy
import gzip
import importlib
import json
import sys
import types

import pytest

from calibadv_env.data.evidence import Evidence
from calibadv_env.data.gold import evidence_of
from calibadv_env.data.sources.flashrag import (
    FlashragFolder,
    FlashragHub,
    how_to_fetch,
    parse_evidence,
    parse_record,
)
from calibadv_env.data.sources.hub import without_none
from calibadv_env.errors import DataError, MissingDependencyError

NQ = {"id": "test_0", "question": "who was first", "golden_answers": ["Ada", "Ada L."]}
HOTPOT = {
    "id": "dev_0",
    "question": "Were A and B from one country?",
    "golden_answers": ["yes"],
    "metadata": {
        "type": "comparison",
        "level": "hard",
        "supporting_facts": {"title": ["B", "A", "B", "A"], "sent_id": [1, 0, 0, 9]},
        "context": {
            "title": ["A", "C", "B"],
            "sentences": [["A is here. "], ["C."], ["B is there.", " B is big."]],
        },
    },
}
TWOWIKI = {
    "id": "dev_0",
    "question": "Where was the father of A born?",
    "golden_answers": ["Oslo"],
    "metadata": {
        "type": "compositional",
        "supporting_facts": {"title": ["A", "F"], "sent_id": [0, 0]},
        "context": {"title": ["A", "F"], "content": [["A is a son of F."], ["F is from Oslo."]]},
    },
}
MUSIQUE = {
    "id": "dev_0",
    "question": "Who owns the paper of the town?",
    "golden_answers": ["Bob"],
    "metadata": {
        "answerable": True,
        "question_decomposition": [
            {
                "id": 1,
                "question": "The town >> paper",
                "answer": "Post",
                "paragraph_support_idx": 3,
                "support_paragraph": {
                    "idx": 3,
                    "title": "Town",
                    "paragraph_text": "It is old. Its paper is the Post.",
                    "is_supporting": True,
                },
            },
            {
                "id": 2,
                "question": "#1 >> owner",
                "answer": "Bob",
                "paragraph_support_idx": 7,
                "support_paragraph": {"idx": 7, "title": "Post", "paragraph_text": "Bob owns it."},
            },
        ],
    },
}


def changed(record, path, value):
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return record


def test_a_record_without_metadata_is_a_task_as_it_stands():
    task, num_blank = parse_record(NQ)
    assert (task.id, task.golden_answers, task.hops, num_blank) == (
        "test_0",
        ("Ada", "Ada L."),
        0,
        0,
    )
    assert evidence_of(task) == ()


def test_numbers_as_ids_and_blank_answers_are_mended_and_counted():
    task, num_blank = parse_record(NQ | {"id": 7, "golden_answers": ["", "Ada", "  "]})
    assert (task.id, task.golden_answers, num_blank) == ("7", ("Ada",), 2)
    with pytest.raises(ValueError, match="golden_answers must not be empty"):
        parse_record(NQ | {"golden_answers": [""]})
    with pytest.raises(ValueError, match="id must be a string, got bool"):
        parse_record(NQ | {"id": True})


def test_hotpotqa_names_articles_in_the_order_of_its_facts():
    task, _ = parse_record(HOTPOT)
    assert evidence_of(task) == (
        Evidence(title="B", sentences=("B is big.", "B is there.")),
        Evidence(title="A", sentences=("A is here.",)),
    )
    assert task.hops == 2
    assert task.metadata["type"] == "comparison"
    assert "context" not in task.metadata


def test_2wikimultihopqa_calls_its_sentences_content():
    task, _ = parse_record(TWOWIKI)
    assert [piece.sentences for piece in evidence_of(task)] == [
        ("A is a son of F.",),
        ("F is from Oslo.",),
    ]


def test_musique_names_a_paragraph_a_step_and_keeps_the_steps():
    task, _ = parse_record(MUSIQUE)
    assert evidence_of(task) == (
        Evidence(title="Town", sentences=("Its paper is the Post.",)),
        Evidence(title="Post", sentences=("Bob owns it.",)),
    )
    assert [s["question"] for s in task.metadata["question_decomposition"]] == [
        "The town >> paper",
        "#1 >> owner",
    ]
    assert "support_paragraph" not in task.metadata["question_decomposition"][0]
    assert "support_paragraph" in MUSIQUE["metadata"]["question_decomposition"][0]


def test_articles_that_are_missing_leave_the_titles():
    record = changed(HOTPOT, ("metadata", "context"), {"title": [], "sentences": []})
    assert evidence_of(parse_record(record)[0]) == (Evidence(title="B"), Evidence(title="A"))


def test_the_original_lists_of_pairs_will_do():
    metadata = {"supporting_facts": [["A", 0]], "context": [["A", ["One.", "Two."]]]}
    assert parse_evidence(metadata) == (Evidence(title="A", sentences=("One.",)),)
    assert parse_evidence({"supporting_facts": None}) == ()


@pytest.mark.parametrize(
    ("record", "path", "value", "message"),
    [
        (HOTPOT, ("metadata", "supporting_facts"), "A", "supporting_facts must be an object or"),
        (HOTPOT, ("metadata", "supporting_facts", "title"), "A", "lists as title and sent_id"),
        (HOTPOT, ("metadata", "supporting_facts", "sent_id"), [1], "got 4 and 1"),
        (HOTPOT, ("metadata", "supporting_facts", "sent_id"), ["0"] * 4, "pair a title with a"),
        (HOTPOT, ("metadata", "context", "title"), ["A"], "as many title as texts, got 1 and 3"),
        (HOTPOT, ("metadata", "context", "sentences"), "A", "lists as title and as sentences"),
        (HOTPOT, ("metadata", "context", "sentences"), [[1], [], []], "must hold texts"),
        (HOTPOT, ("metadata", "context"), "A", "context must be an object or a list"),
        (MUSIQUE, ("metadata", "question_decomposition"), ["A"], "must be a list of objects"),
        (
            MUSIQUE,
            ("metadata", "question_decomposition", 1, "support_paragraph"),
            "A",
            r"question_decomposition\[1\].support_paragraph must be an object",
        ),
        (
            MUSIQUE,
            ("metadata", "question_decomposition", 0, "support_paragraph", "title"),
            None,
            r"\[0\].support_paragraph must have a text as title",
        ),
    ],
)
def test_malformed_metadata_is_refused_by_name(record, path, value, message):
    with pytest.raises(ValueError, match=message):
        parse_record(changed(record, path, value))


def test_a_folder_is_read_with_file_and_line(tmp_path):
    (tmp_path / "dev.jsonl").write_text(json.dumps(HOTPOT) + "\n\n" + json.dumps(NQ) + "\n")
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(json.dumps(NQ).encode()))
    folder = FlashragFolder(tmp_path)
    assert folder.splits() == ("dev", "test")
    assert [place for place, _ in folder.records("dev")] == [
        f"{tmp_path}/dev.jsonl:1",
        f"{tmp_path}/dev.jsonl:3",
    ]
    assert next(folder.records("test"))[1] == NQ
    with pytest.raises(DataError, match=r"holds no train\.jsonl"):
        next(folder.records("train"))
    with pytest.raises(DataError, match=r"holds none of train\.jsonl, dev\.jsonl, test\.jsonl"):
        FlashragFolder(tmp_path / "none").splits()


def test_without_none_reaches_every_depth():
    assert without_none({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}


def test_the_hub_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[data\]"):
        FlashragHub("nq").splits()


def test_a_hub_that_cannot_be_reached_says_what_to_download_and_where_to_put_it(monkeypatch):
    def fail(repository, config):
        raise ConnectionError(f"Couldn't reach {repository!r}")

    exceptions = types.SimpleNamespace(DatasetsError=KeyError)
    fake = types.SimpleNamespace(load_dataset=fail, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(DataError) as caught:
        FlashragHub("hotpotqa").splits()
    text = str(caught.value)
    assert "Couldn't reach 'RUC-NLPIR/FlashRAG_datasets'" in text
    assert "/datasets/RUC-NLPIR/FlashRAG_datasets/resolve/main/hotpotqa/" in text
    assert how_to_fetch("hotpotqa") in text
    assert "calibadv data prepare hotpotqa --from flashrag FlashRAG_datasets" in text


def test_the_package_datasets_reads_a_local_copy_of_the_hub(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    config = importlib.import_module("datasets.config")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "hub"
    for name, split, record in (("nq", "test", NQ), ("hotpotqa", "dev", HOTPOT)):
        (repository / name).mkdir(parents=True)
        (repository / name / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    (repository / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: nq\n  data_files:\n  - {split: test, path: nq/test.jsonl}\n"
        "- config_name: hotpotqa\n  data_files:\n  - {split: dev, path: hotpotqa/dev.jsonl}\n"
        "---\n"
    )
    hub = FlashragHub("hotpotqa", str(repository))
    assert hub.splits() == ("dev",)
    ((place, record),) = hub.records("dev")
    assert place.endswith("hotpotqa dev[0]")
    assert parse_record(record) == parse_record(HOTPOT)
    assert FlashragHub("nq", str(repository)).splits() == ("test",)
    with pytest.raises(DataError, match="cannot be loaded"):
        FlashragHub("popqa", str(repository)).splits()
