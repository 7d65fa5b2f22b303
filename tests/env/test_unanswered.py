"""Questions without an answer are left out, counted and told, whatever stands in its place."""

import json
import math

import pytest

from calibadv_env.data import registry
from calibadv_env.data.preparing.prepare import prepare
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import find_reader, read_rows, read_split
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.data.sources.benchmarks import find_benchmark
from calibadv_env.data.sources.flashrag import FlashragFolder, OriginalFiles
from calibadv_env.data.sources.search_r1 import ParquetFiles
from calibadv_env.errors import DataError

LEFT_OUT = r"{} questions without an answer \(blank, null, NaN or an empty list\) left out"
CORPUS = [{"id": "p", "text": "Ulm is a city."}]


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("CALIBADV_DATA", str(tmp_path / "data"))
    for name in ("_datasets", "_loaders", "_folders", "_unnamed", "_origins"):
        monkeypatch.setattr(registry, name, {})


def lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    "blank",
    [
        {"answer": None},
        {"answer": math.nan},
        {"answer": ""},
        {"answer": "\u200b"},
        {"answer": {"value": None, "aliases": []}},
        {"answers": {"text": None}},
        {"golden_answers": [None, ""]},
        {"target": None},
        {"reward_model": {"ground_truth": {"target": None}}},
        {"reward_model": {"style": "rule", "ground_truth": None}},
        {"extra_info": '{"answer": null}'},
    ],
)
def test_an_empty_place_of_an_answer_costs_its_question_alone(tmp_path, blank):
    path = lines(
        tmp_path / "q.jsonl", {"question": "Wo?", "answer": "Ulm"}, {"question": "Q"} | blank
    )
    with pytest.warns(UserWarning, match=LEFT_OUT.format(1)):
        (task,) = read_split(path, "q")
    assert task.golden_answers == ("Ulm",)
    lines(path, {"question": "Q"} | blank)
    with pytest.raises(DataError, match=r"q\.jsonl"):
        read_split(path, "q")


def test_tables_lists_and_named_columns_do_the_same(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,answer\nWo?,Ulm\nWer?,\n")
    with pytest.warns(UserWarning, match=LEFT_OUT.format(1)):
        assert len(read_split(path, "q")) == 1
    rows = [{"frage": "Wo?", "antwort": "Ulm"}, {"frage": "Wer?", "antwort": None}]
    columns = {"question": "frage", "answers": "antwort"}
    with pytest.warns(UserWarning, match=LEFT_OUT.format(1)):
        register_dataset("quiz", rows, CORPUS, columns=columns)
    assert len(get_dataset("quiz").tasks("test")) == 1
    with pytest.raises(ValueError, match=r"\[0\]: golden_answers must not be empty"):
        register_dataset("none", rows[1:], CORPUS, columns=columns)


def test_a_record_without_a_place_for_an_answer_is_still_an_error(tmp_path):
    path = lines(tmp_path / "q.jsonl", {"question": "Wo?", "answer": "Ulm"}, {"question": "Wer?"})
    with pytest.raises(DataError, match=r"q\.jsonl:2: a row must have an answer"):
        read_split(path, "q")


def test_a_folder_of_flashrag_and_an_original_file_count_each_once(tmp_path):
    record = {"id": "test_0", "question": "Wo?", "golden_answers": ["Ulm"], "metadata": {}}
    rows = [record, record | {"id": "test_1", "golden_answers": None}]
    folder = lines(tmp_path / "f" / "bamboogle" / "test.jsonl", *rows).parent
    bamboogle = find_benchmark("bamboogle")
    done = prepare({"Bamboogle": (bamboogle, FlashragFolder(folder))})[0]
    assert done.splits["test"].tasks == 1
    assert [w for w in done.warnings if "1 questions without an answer" in w]

    reading = QuestionReading()
    path = lines(tmp_path / "mine.jsonl", *({k: r[k] for k in r if k != "id"} for r in rows))
    corpus = lines(tmp_path / "c.jsonl", *CORPUS)
    source = OriginalFiles((path,), "test", reading)
    with pytest.warns(UserWarning, match=LEFT_OUT.format(1)):
        prepare({"Bamboogle": (bamboogle, source)}, corpus)
    assert (
        reading.notes()["questions without an answer (blank, null, NaN or an empty list) left out"]
        == "1"
    )


def test_null_in_parquet_and_on_the_hub_is_no_missing_key(tmp_path, monkeypatch):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    truths = [["Ulm"], None]
    rows = [
        {"data_source": "nq", "question": f"{i}?", "golden_answers": truth,
         "extra_info": {"split": "test", "index": i}}
        for i, truth in enumerate(truths)
    ]  # fmt: skip
    path = tmp_path / "test.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    done = prepare({"NQ": (find_benchmark("nq"), ParquetFiles((path,), "nq", "test"))})[0]
    assert done.splits["test"].tasks == 1
    held = [{"question": "Wo?", "answer": "Ulm", "note": None},
            {"question": "Wer?", "answer": None, "note": None}]  # fmt: skip
    monkeypatch.setattr("calibadv_env.data.sources.hub._load", lambda name: {"test": held})
    assert find_reader("hf:o/n").name == "hf"
    with pytest.warns(UserWarning, match=LEFT_OUT.format(1)):
        (row,) = read_rows("hf:o/n")
    assert row.task.golden_answers == ("Ulm",)
    assert "note" not in row.task.metadata


@pytest.mark.parametrize(
    "record",
    [
        {"answers": [], "answer": "Paris"},
        {"ground_truths": [], "answer": "Paris"},
        {"golden_answers": [None], "answers": [], "final_answer": "Paris"},
        {"answers": {"text": []}, "answer": "Paris"},
        {"answers": [], "answer_key": "B", "choices": ["Rom", "Paris"]},
        {"answers": [], "reward_model": {"ground_truth": {"target": ["Paris"]}}},
        {"id": "1", "answers": [], "golden_answers": ["Paris"]},
    ],
)
def test_an_empty_list_gives_way_to_an_answer_under_another_key(tmp_path, record):
    (task,) = read_split(lines(tmp_path / "q.jsonl", {"question": "Wo?"} | record), "q")
    assert task.golden_answers == ("Paris",)


@pytest.mark.parametrize(
    "record",
    [
        {"answers": []},
        {"answers": [], "answer": ""},
        {"answer": "", "answers": []},
        {"answers": {"text": [], "answer_start": []}},
        {"answers": {"text": [], "answer_start": []}, "answer": "Rom"},
        {"answers": [], "is_impossible": True, "answer": "Rom"},
        {"answers": [], "plausible_answers": [{"text": "Rom"}]},
        {"answers": [], "label": 0, "output": "I do not know"},
        {"answers": [], "response": "Rom", "messages": [{"role": "assistant", "content": "Rom"}]},
    ],
)
def test_an_unanswerable_question_stays_one(tmp_path, record):
    path = lines(
        tmp_path / "q.jsonl", {"question": "Wo?", "answer": "Ulm"}, {"question": "Wer?"} | record
    )
    with pytest.warns(UserWarning, match="1 .*questions.* left out"):
        (task,) = read_split(path, "q")
    assert task.golden_answers == ("Ulm",)
