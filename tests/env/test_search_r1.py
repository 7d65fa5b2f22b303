import sys

import pytest

from calibadv_env.data.sources.flashrag import parse_record
from calibadv_env.data.sources.search_r1 import ParquetFiles, record_of, source_name
from calibadv_env.errors import DataError, MissingDependencyError

INSTRUCTION = "Answer. Question: like this. For example <answer> Beijing </answer>."


def row(source="nq", index=0, split="test", **more):
    """A row as Search-R1's scripts write it."""
    return {
        "id": f"{split}_{index}",
        "question": f"who is {index}?",
        "golden_answers": ["Ada", "Bob"],
        "data_source": source,
        "prompt": [
            {"role": "user", "content": f"{INSTRUCTION} Question: who is {index}?\n"},
        ],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Ada", "Bob"]}},
        "extra_info": {"split": split, "index": index},
    } | more


def bare(**more):
    """A row with nothing but what the trainers need."""
    full = row(**more)
    return {k: v for k, v in full.items() if k not in ("id", "question", "golden_answers")}


def write(path, rows):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("source", ["nq", "searchR1_nq", "NQ"])
def test_data_sources_of_all_dialects_mean_one_benchmark(source):
    assert source_name({"data_source": source}) == "nq"


def test_own_columns_come_first():
    assert record_of(row()) == {
        "id": "test_0",
        "question": "who is 0?",
        "golden_answers": ["Ada", "Bob"],
    }


def test_a_bare_row_gives_its_question_out_of_the_prompt():
    record = record_of(bare(index=4))
    assert record == {
        "id": "test_4",
        "question": "who is 4?",
        "golden_answers": ["Ada", "Bob"],
    }


def test_verl_and_skyrl_rows_are_understood():
    verl = bare(extra_info={"split": "train", "index": 3, "question": "why?"})
    assert record_of(verl)["question"] == "why?"
    skyrl = bare(reward_model=None, reward_spec={"ground_truth": {"target": ["Cy"]}})
    assert record_of(skyrl)["golden_answers"] == ["Cy"]
    lone = bare(reward_model={"ground_truth": "Dee"})
    assert record_of(lone)["golden_answers"] == ["Dee"]
    nested = row(golden_answers={"target": ["Eve"]})
    assert record_of(nested)["golden_answers"] == ["Eve"]


def test_rows_without_question_or_answers_are_refused():
    with pytest.raises(ValueError, match="the question must stand in"):
        record_of(bare(prompt=[{"role": "user", "content": "hello"}]))
    with pytest.raises(ValueError, match="accepted answers must stand in"):
        record_of(bare(reward_model={"style": "rule"}))


def test_one_file_holds_several_benchmarks(tmp_path):
    rows = [row("nq", i) for i in range(3)] + [row("searchR1_popqa", i) for i in range(2)]
    path = write(tmp_path / "test.parquet", rows)
    files = ParquetFiles((path,), "popqa", "test")
    assert files.splits() == ("test",)
    places, records = zip(*files.records("test"), strict=True)
    assert places == (f"{path}: row 3", f"{path}: row 4")
    assert [parse_record(record)[0].id for record in records] == ["test_0", "test_1"]
    with pytest.raises(DataError, match=r"no row has the data_source 'bamboogle', only nq \(3\)"):
        ParquetFiles((path,), "bamboogle", "test").splits()


def test_what_search_r1_calls_test_is_the_eval_split_of_the_benchmark(tmp_path):
    train = write(tmp_path / "train.parquet", [row("hotpotqa", split="train")])
    test = write(tmp_path / "test.parquet", [row("hotpotqa", split="test")])
    files = ParquetFiles((train, test), "hotpotqa", "dev")
    assert files.splits() == ("train", "dev")
    assert [record["id"] for _, record in files.records("dev")] == ["test_0"]


def test_without_a_split_the_name_of_the_file_counts(tmp_path):
    path = write(tmp_path / "val.parquet", [row("nq", extra_info={"index": 0})])
    assert ParquetFiles((path,), "nq", "test").splits() == ("dev",)
    odd = write(tmp_path / "odd.parquet", [row("nq", extra_info={"index": 0})])
    with pytest.raises(DataError, match=r"odd\.parquet: row 0: extra_info\.split.*got 'odd'"):
        ParquetFiles((odd,), "nq", "test").splits()


def test_faults_name_file_and_row(tmp_path):
    rows = [row(), row(index=1, prompt=None, question=None)]
    path = write(tmp_path / "test.parquet", rows)
    with pytest.raises(DataError, match=r"test\.parquet: row 1: the question must stand"):
        list(ParquetFiles((path,), "nq", "test").records("test"))
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken\.parquet: cannot read the file"):
        ParquetFiles((tmp_path / "broken.parquet",), "nq", "test").splits()
    with pytest.raises(DataError, match=r"none\.parquet: cannot read the file"):
        ParquetFiles((tmp_path / "none.parquet",), "nq", "test").splits()
    other = write(tmp_path / "other.parquet", [{"a": 1}])
    with pytest.raises(DataError, match="no column data_source"):
        ParquetFiles((other,), "nq", "test").splits()


def test_parquet_without_its_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"calibadv\[data\]"):
        ParquetFiles((tmp_path / "x.parquet",), "nq", "test").splits()


def test_a_truth_that_joins_the_answers_gives_way_to_the_list_beside_it():
    joined = bare(
        reward_model={"style": "rule", "ground_truth": "Ada, Bob"},
        extra_info={"answer": ["Ada", "Bob"], "index": 0, "split": "test", "question": "who?"},
    )
    assert record_of(joined)["golden_answers"] == ["Ada", "Bob"]


def test_names_of_the_hub_are_those_of_their_benchmarks():
    assert source_name({"data_source": "google-research-datasets/nq_open"}) == "nq"
