import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.common.jsonl import read_jsonl, write_jsonl
from calibadv_env.data.base import QATask, read_tasks, write_tasks
from calibadv_env.errors import DataError

GOOD = {"id": "t1", "question": "Who?", "golden_answers": ["Ada"]}

TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)
TASKS = st.builds(
    QATask,
    id=TEXT,
    question=TEXT,
    golden_answers=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    gold_passages=st.lists(st.lists(TEXT, min_size=1, max_size=2).map(tuple), max_size=3).map(
        tuple
    ),
    hops=st.integers(0, 5),
    metadata=st.dictionaries(st.text("abc", min_size=1), st.integers() | TEXT, max_size=2),
)


def lines_of(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@settings(max_examples=25, deadline=None)
@given(tasks=st.lists(TASKS, min_size=1, max_size=4, unique_by=lambda task: task.id))
def test_tasks_survive_a_round_trip(tmp_path_factory, tasks):
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("t.jsonl", "t.jsonl.gz"):
        write_tasks(folder / name, tasks)
        assert read_tasks(folder / name) == tasks


def test_compressed_files_are_equal_bytes_and_really_compressed(tmp_path):
    task = QATask(id="a", question="b" * 1000, golden_answers=("c",))
    write_tasks(tmp_path / "1.gz", [task])
    write_tasks(tmp_path / "2.gz", [task])
    data = (tmp_path / "1.gz").read_bytes()
    assert data == (tmp_path / "2.gz").read_bytes()
    assert data[4:8] == bytes(4), "the header must not hold the time of writing"
    assert len(data) < 200
    assert b"b" * 1000 in gzip.decompress(data)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(path, [{"a": 2}, {"a": object()}])
    assert [record for _, record in read_jsonl(path)] == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_further_keys_are_kept_in_the_metadata(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of(GOOD | {"choices": ["x"], "metadata": {"type": "bridge"}}))
    assert read_tasks(path)[0].metadata == {"type": "bridge", "choices": ["x"]}


def test_hops_default_to_the_number_of_gold_hops(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of(GOOD | {"gold_passages": [["p"], ["q", "r"]]}))
    task = read_tasks(path)[0]
    assert (task.hops, task.gold_passages) == (2, (("p",), ("q", "r")))


def test_blank_lines_windows_ends_and_a_byte_order_mark_are_harmless(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n  \n")
    assert [task.id for task in read_tasks(path)] == ["t1"]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps(GOOD | {"question": "a\u2028b\x85c"}, ensure_ascii=False), encoding="utf-8"
    )
    assert read_tasks(path)[0].question == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "id must be a string, got NoneType"),
        ({"id": 7}, "id must be a string, got int"),
        ({"id": ""}, "id must not be empty"),
        ({"question": ["x"]}, "question must be a string"),
        ({"question": " "}, "question must not be empty"),
        ({"question": "\ud800"}, "unpaired surrogate"),
        ({"golden_answers": "Ada"}, "golden_answers must be a list"),
        ({"golden_answers": []}, "golden_answers must not be empty"),
        ({"golden_answers": ["ok", 3]}, r"golden_answers\[1\] must be a string"),
        ({"golden_answers": [""]}, r"golden_answers\[0\] must not be empty"),
        ({"metadata": []}, "metadata must be an object"),
        ({"gold_passages": "p"}, "gold_passages must be a list of lists"),
        ({"gold_passages": ["p"]}, r"gold_passages\[0\] must be a list"),
        ({"gold_passages": [[]]}, r"gold_passages\[0\] must not be empty"),
        ({"hops": -1}, "hops must be a whole number"),
        ({"hops": True}, "hops must be a whole number"),
        ({"hops": 1.5}, "hops must be a whole number"),
        ({"metadata": {"x": 1}, "x": 2}, "'x' stands in the line and in its metadata"),
    ],
)
def test_a_bad_value_names_file_line_and_key(tmp_path, change, message):
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of(GOOD, GOOD | {"id": "t2"} | change))
    with pytest.raises(DataError, match=rf"t\.jsonl:2: .*{message}"):
        read_tasks(path)


@pytest.mark.parametrize("key", ["id", "question", "golden_answers"])
def test_a_missing_key_names_file_line_and_key(tmp_path, key):
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of({k: v for k, v in GOOD.items() if k != key}))
    with pytest.raises(DataError, match=rf"t\.jsonl:1: key '{key}' is missing"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "x", ', "not valid JSON"),
        (b"[1]", "JSON object, got list"),
        (b'{"id": "\xff"}', "not valid UTF-8"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_a_line_that_is_no_object_names_file_and_line(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(lines_of(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=rf"t\.jsonl:3: .*{message}"):
        read_tasks(path)


def test_a_repeated_id_names_both_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of(GOOD, GOOD))
    with pytest.raises(DataError, match=r"t\.jsonl:2: id 't1' stands at .*t\.jsonl:1 too"):
        read_tasks(path)


def test_missing_empty_and_damaged_files_are_data_errors(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot open"):
        read_tasks(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot open"):
        read_tasks(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.jsonl: there is no question in it"):
        read_tasks(tmp_path / "empty.jsonl")
    packed = gzip.compress(lines_of(GOOD).encode() * 100)
    (tmp_path / "cut.gz").write_bytes(packed[:-12])
    with pytest.raises(DataError, match=r"cut\.gz:\d+: "):
        read_tasks(tmp_path / "cut.gz")
    (tmp_path / "broken.gz").write_bytes(packed[:20] + b"\x00" * 9 + packed[29:])
    with pytest.raises(DataError, match=r"broken\.gz:\d+: "):
        read_tasks(tmp_path / "broken.gz")
