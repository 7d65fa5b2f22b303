"""More shapes of question sets and corpora: printed lists, choices, dumps of other systems."""

import json
import warnings
from pathlib import Path

import pytest

from calibadv_env.common.records import read_records
from calibadv_env.common.records.values import parsed_literal
from calibadv_env.data.questions.parsing import QuestionReading, parse_question
from calibadv_env.data.reading import read_corpus, read_split
from calibadv_env.data.registry import get_dataset, register_dataset
from calibadv_env.errors import DataError

RIVER, LAKE = "The Quant is a river.", "Miral is a lake."
BOTH = [("Quant", RIVER), ("Miral", LAKE)]


def answers(**record):
    return parse_question({"question": "Which?", **record}).golden_answers


@pytest.mark.parametrize(
    "text",
    [
        "('the Quant', 'Quant')",
        "{'the Quant', 'Quant'}",
        "{'text': array(['the Quant', 'Quant'], dtype=object), 'at': array([3, 7], dtype='<i4')}",
        "[array(['the Quant', 'Quant'], dtype=object)]",
    ],
)
def test_tuples_sets_and_arrays_in_objects_are_lists(text):
    assert answers(answers=text) == ("the Quant", "Quant")


def test_texts_that_speak_of_arrays_stay_what_they_are():
    assert parsed_literal("{'text': array(['np.array(x, dtype=int)'], dtype=object)}") == {
        "text": ["np.array(x, dtype=int)"]
    }
    assert answers(answer="(1, 2)") == ("(1, 2)",)
    assert answers(answer="array(x)") == ("array(x)",)


def test_supporting_facts_that_pandas_printed():
    record = {
        "question": "Which river?",
        "answer": "Quant",
        "supporting_facts": "{'title': array(['Ada', 'Quant'], dtype=object), "
        "'sent_id': array([0, 0], dtype=int32)}",
        "context": "{'title': array(['Ada', 'Quant'], dtype=object), 'sentences': array([array("
        "['Ada is here.'],\n dtype=object), array(['It flows.'], dtype=object)], dtype=object)}",
    }
    pieces = parse_question(record).metadata["evidence"]
    assert [(p["title"], tuple(p["sentences"])) for p in pieces] == [
        ("Ada", ("Ada is here.",)),
        ("Quant", ("It flows.",)),
    ]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"answer": "True"}, ("True", "yes")),
        ({"answer": "False"}, ("False", "no")),
        ({"answer": "true"}, ("true",)),
        ({"answer": "a", "aliases": ["b"], "answer_aliases": ["c"]}, ("a", "b", "c")),
        ({"answer": "a", "alt_ans": ["b"]}, ("a", "b")),
        ({"answer": "a", "aug_answer": ["b"]}, ("a", "b")),
        ({"answer": "B", "options": {"A": "x", "B": "Quant"}}, ("Quant",)),
        ({"answer": "B", "choices": ["x", "Quant"]}, ("Quant",)),
        ({"answer": "B", "choices": ["A", "B"]}, ("B",)),
        ({"answer": "Quant", "choices": ["x", "Quant"]}, ("Quant",)),
        ({"answerKey": "2", "choices": {"text": ["x", "y"], "label": ["1", "2"]}}, ("y",)),
        ({"answer": {"answer": [{"name": "Q1", "label": {"de": "d", "en": "e"}}]}}, ("e",)),
        ({"answer": [{"answer_argument": "m.1", "entity_name": "Quant"}]}, ("Quant",)),
        ({"answers_objects": [{"number": "", "spans": ["Quant"]}]}, ("Quant",)),
        ({"annotations": {"short_answers": [{"text": ["Quant"]}], "yes_no_answer": [-1]}},
         ("Quant",)),
        ({"annotations": [{"yes_no_answer": "YES", "short_answers": []}]}, ("yes",)),
        ({"document_text": "<P> The Quant flows </P>",
          "annotations": [{"short_answers": [{"start_token": 1, "end_token": 3}]}]},
         ("The Quant",)),
    ],
)  # fmt: skip
def test_answers_of_more_kinds(record, expected):
    assert answers(**record) == expected


def test_choices_inside_of_the_question():
    choices = [{"label": "A", "text": "x"}, {"label": "B", "text": "Quant"}]
    task = parse_question({"question": {"stem": "Which?", "choices": choices}, "answerKey": "B"})
    assert (task.question, task.golden_answers) == ("Which?", ("Quant",))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Which?"}]},
        {"conversations": [{"from": "human", "value": "Which?"}]},
        {"instruction": "Which?", "input": ""},
    ],
)
def test_questions_in_conversations_and_instructions(record):
    assert parse_question({**record, "answer": "Quant"}).question == "Which?"


def test_evidence_of_dpr_and_multihop_rag():
    positive = [{"title": "Quant", "text": RIVER, "passage_id": "7"}]
    others = [{"title": "Miral", "text": LAKE, "passage_id": "8"}]
    task = parse_question(
        {"question": "Which?", "answers": ["Quant"], "positive_ctxs": positive,
         "hard_negative_ctxs": others}
    )  # fmt: skip
    assert [piece["title"] for piece in task.metadata["evidence"]] == ["Quant"]
    listed = [{"title": "A", "fact": "One.", "url": "u"}, {"title": "B", "fact": "Two."}]
    task = parse_question({"query": "Which?", "answer": "Quant", "evidence_list": listed})
    assert [p["sentences"] for p in task.metadata["evidence"]] == [["One."], ["Two."]]


def test_a_table_between_bars(tmp_path):
    path = tmp_path / "quiz.psv"
    path.write_text("id|question|answer\n1|Which?|Quant, or so\n")
    assert [row for _, row in read_records(path)] == [
        {"id": "1", "question": "Which?", "answer": "Quant, or so"}
    ]


def test_lists_two_objects_deep(tmp_path):
    path = tmp_path / "quiz.json"
    rows = [{"question": "Which?", "answer": "Quant"}]
    path.write_text(json.dumps({"version": 1, "data": {"questions": rows}}))
    assert [row for _, row in read_records(path)] == rows


@pytest.mark.parametrize(
    ("name", "data", "command"),
    [
        ("a.jsonl", '{"question": "Où?", "answer": "é"}\n'.encode("latin-1"), "WINDOWS-1252"),
        ("a.csv", "question,answer\nOù?,é\n".encode("latin-1"), "WINDOWS-1252"),
        ("a.json", '{"question": "a?", "answer": "b"}\n'.encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_other_encodings_are_told_with_the_command_that_helps(name, data, command, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=command):
        list(QuestionReading().rows(read_records(path)))


def test_splits_in_one_file_are_not_joined_in_silence(tmp_path):
    path = tmp_path / "quiz.json"
    parts = {"train": [{"question": "a?", "answer": "a"}],
             "test": [{"question": "b?", "answer": "b"}]}  # fmt: skip
    path.write_text(json.dumps(parts))
    with pytest.warns(UserWarning, match=r"splits train \(1\), test \(1\) are taken as one"):
        register_dataset("joined", path, [{"id": "1", "text": RIVER}], overwrite=True)
    dataset = get_dataset("joined")
    assert len(dataset.tasks("test")) == 2
    assert dataset.notes()["splits that the questions name"] == "train 1, test 1"


def _node(title: str, text: str) -> dict:
    return {"id_": title, "metadata": {"title": title}, "text": text, "class_name": "TextNode"}


CORPORA = {
    "llamaindex.jsonl": [_node(*one) for one in BOTH],
    "docs.jsonl": [{"doc_id": t, "text": x, "extra_info": {"title": t}} for t, x in BOTH],
    "haystack.jsonl": [{"id": t, "content": x, "meta": {"name": t}} for t, x in BOTH],
    "langchain.jsonl": [
        {"lc": 1, "type": "constructor", "id": ["langchain", "Document"],
         "kwargs": {"page_content": x, "metadata": {"title": t}}} for t, x in BOTH
    ],
    "elastic.jsonl": [{"_id": t, "_source": {"title": t, "text": x}} for t, x in BOTH],
    "struct.jsonl": [{"id": t, "document": {"title": t, "text": x}} for t, x in BOTH],
    "chunks.jsonl": [{"chunk_id": t, "chunk_text": x, "doc_title": t} for t, x in BOTH],
    "passages.jsonl": [
        {"pid": t, "docid": "same", "passage_title": t, "passage_text": x} for t, x in BOTH
    ],
    "paragraphs.jsonl": [{"id": t, "title": t, "text": [[x[:9], x[9:].strip()]]} for t, x in BOTH],
    "docstore.json": {
        "docstore/data": {t: {"__data__": _node(t, x), "__type__": "1"} for t, x in BOTH},
        "docstore/metadata": {"a": {"doc_hash": "x"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_of_more_kinds(name: str, tmp_path: Path) -> None:
    path, held = tmp_path / name, CORPORA[name]
    lines = held if name.endswith(".jsonl") else [held]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(read_corpus(path))
    assert [(p.title, p.text.replace("  ", " ")) for p in found] == BOTH


def answers_in(tmp_path, *records):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [(task.question, task.golden_answers) for task in read_split(path, "q")]


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"input": "Wo?", "expected": "Ulm"}, [("Wo?", ("Ulm",))]),  # Braintrust
        (
            {"input": [{"role": "user", "content": "Wo?"}], "ideal": ["Ulm", "U"]},
            [("Wo?", ("Ulm", "U"))],
        ),  # OpenAI's evals
        (
            {"question": "Wo?", "choices": "['Ulm', 'Bern']", "answer_index": 1},
            [("Wo?", ("Bern",))],
        ),  # MuSR
        (
            {
                "context": "Ulm is a town.",
                "questions": ["Wo?", "Was?"],
                "answers": [["Ulm"], "town"],
            },
            [("Wo?", ("Ulm",)), ("Was?", ("town",))],
        ),  # NewsQA
        (
            {
                "text": "A town.",
                "questions": [
                    {
                        "question": "Wo?",
                        "answer": {"type": "span", "answer_spans": [{"text": "Ulm"}]},
                    },
                    {"question": "Wie?", "answer": {"type": "value", "answer_value": "3"}},
                    {"question": "Wann?", "answer": {"type": "none"}},
                ],
            },
            [("Wo?", ("Ulm",)), ("Wie?", ("3",))],
        ),  # IIRC
    ],
)
@pytest.mark.filterwarnings("ignore:.*(unanswerable|evidence)")
def test_more_question_sets(tmp_path, record, wanted):
    assert answers_in(tmp_path, record) == wanted


def test_the_truth_comes_before_what_a_model_answered_and_the_other_is_told(tmp_path):
    record = {"question": "Wo?", "answer": "I think Bern.", "ground_truth": "Ulm"}  # Ragas
    with pytest.warns(UserWarning, match="1 questions with another answer under a second key"):
        assert answers_in(tmp_path, record) == [("Wo?", ("Ulm",))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = {"question": "Wo?", "answer": "ulm", "golden_answers": ["Ulm", "U"]}
        letter = {"question": "Wo?", "options": ["Ulm", "Bern"], "answer": "A", "answer_idx": 0}
        assert answers_in(tmp_path, same, letter)[1] == ("Wo?", ("Ulm",))


def test_a_question_mark_in_place_of_an_answer_hides_it(tmp_path):
    rows = [{"Question": "Wo?", "Final answer": "17"}, {"Question": "Wer?", "Final answer": "?"}]
    with pytest.warns(UserWarning, match="1 questions without an answer"):
        assert answers_in(tmp_path, *rows) == [("Wo?", ("17",))]


@pytest.mark.parametrize(
    "text",
    [
        '["Wo ist es?", "Ulm"]\n["Wer?", ["Ich"]]\n',
        '[["Wo ist es?", "Ulm"], ["Wer?", ["Ich"]]]',
        '["question", "answer"]\n["Wo ist es?", "Ulm"]\n["Wer?", ["Ich"]]\n',
    ],
)
@pytest.mark.filterwarnings("ignore:.*no header")
def test_rows_in_lists_are_a_table(tmp_path, text):
    path = tmp_path / "q.json"
    path.write_text(text)
    found = [(task.question, task.golden_answers) for task in read_split(path, "q")]
    assert found == [("Wo ist es?", ("Ulm",)), ("Wer?", ("Ich",))]


def test_an_object_of_named_answers_names_the_flag(tmp_path):
    record = {"question": "How many?", "answer": {"Ulm": "1", "Bern": "2"}}
    with pytest.raises(DataError, match=r"keys Ulm, Bern; .*--columns answers=answer\.KEY"):
        answers_in(tmp_path, record)
