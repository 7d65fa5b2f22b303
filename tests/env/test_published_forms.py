"""Question sets whose records are not yet one question with its answers."""

import json
import warnings

import pytest

from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import read_split
from calibadv_env.errors import DataError


def answers_of(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [list(task.golden_answers) for task in read_split(source, "quiz/test")]


def notes_of(source):
    reading = QuestionReading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_split(source, "quiz/test", "", reading)
    return reading.notes()


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


WEBQSP = {
    "QuestionId": "WebQTest-0",
    "RawQuestion": "what do they speak?",
    "Parses": [
        {"Answers": [{"AnswerArgument": "m.0", "EntityName": "Jamaican English"}]},
        {"Answers": [{"AnswerArgument": "1939", "EntityName": None}]},
    ],
}
RESULTS = {"results": {"bindings": [
    {"uri": {"type": "uri", "value": "http://dbpedia.org/resource/Battle_of_Hastings"}},
    {"uri": {"type": "literal", "value": "42"}},
]}}  # fmt: skip
QALD = {
    "id": "1",
    "question": [
        {"language": "de", "string": "Welche Schlacht?"},
        {"language": "en", "string": "Which battle?"},
    ],
    "query": {"sparql": "SELECT"},
    "answers": [RESULTS],
}
QALD_ASK = {
    "id": "2",
    "question": [{"language": "en", "string": "Is it so?"}],
    "answers": [{"boolean": True}],
}
PAIRS = [
    {"question": "First?", "short_answers": ["May 24, 2017"]},
    {"question": "Second?", "short_answers": ["September 20, 2017"]},
]
ASQA = {"ambiguous_question": "When?", "qa_pairs": PAIRS, "annotations": [{"long_answer": "Long."}]}
ALCE = {"question": "When?", "qa_pairs": PAIRS, "answer": "A long answer of several sentences."}
DROP = {
    "passage": "A passage.",
    "qa_pairs": [
        {
            "question": "How many?",
            "query_id": "f37",
            "answer": {"number": "3", "date": {}, "spans": []},
            "validated_answers": [{"number": "", "date": {}, "spans": ["three"]}],
        },
        {"question": "Who?", "query_id": "f38", "answer": {"number": "", "spans": ["A", "B"]}},
        {
            "question": "When?",
            "query_id": "f39",
            "answer": {"date": {"day": "4", "month": "May", "year": "1919"}, "spans": []},
        },
    ],
}
COQA = {
    "id": "3z",
    "story": "A story.",
    "questions": [{"input_text": "When?", "turn_id": 1}, {"input_text": "Why?", "turn_id": 2}],
    "answers": [{"input_text": "In 1475", "turn_id": 1}, {"input_text": "research", "turn_id": 2}],
}
QASPER = {
    "title": "A paper",
    "qas": [{
        "question": "Which data?",
        "question_id": "a",
        "answers": [
            {"answer": {"extractive_spans": ["SQuAD"], "yes_no": None, "free_form_answer": ""}},
            {"answer": {"extractive_spans": [], "yes_no": None, "free_form_answer": "two sets"}},
        ],
    }],
}  # fmt: skip
CMRC = {
    "context_text": "尤金袋鼠分布在南部岛屿。",
    "title": "尤金袋鼠",
    "qas": [{"query_id": "T_0", "query_text": "分布在哪些地区？", "answers": ["南部岛屿", "南部"]}],
}
CHAT = {"messages": [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Where is the Nile?"},
    {"role": "assistant", "content": "Egypt"},
]}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (WEBQSP, [["Jamaican English", "1939"]]),
        (QALD, [["Battle of Hastings", "42"]]),
        (QALD_ASK, [["yes"]]),
        (ASQA, [["May 24, 2017", "September 20, 2017"]]),
        (ALCE, [["May 24, 2017", "September 20, 2017"]]),
        (DROP, [["3", "three"], ["A", "B"], ["4 May 1919"]]),
        ({"question": "Who?", "answers_spans": {"spans": ["Bo"], "types": ["span"]}}, [["Bo"]]),
        (COQA, [["In 1475"], ["research"]]),
        (QASPER, [["SQuAD", "two sets"]]),
        (CMRC, [["南部岛屿", "南部"]]),
        (CHAT, [["Egypt"]]),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
         [["A"]]),
        ({"prompt": "Where?", "completion": " Egypt"}, [["Egypt"]]),
        ({"instruction": "When?", "context": "A text.", "response": "In 2000"}, [["In 2000"]]),
        ({"utterance": "who?", "targetValue": '(list (description "A B") (description C))'},
         [["A B", "C"]]),
        ({"query": "how long", "queries": {"en": "how long", "de": "wie lange"},
          "answers": {"de": [{"text": "11 Jahre"}],
                      "en": [{"text": "11 years", "aliases": ["11 yrs"]}]}},
         [["11 years", "11 yrs"]]),
        ({"id": 1, "question": "How many?", "answer_0": "52", "answer_1": "fifty-two",
          "answer_2": ""}, [["52", "fifty-two"]]),
        ({"problem": "Let x.", "solution": r"So \boxed{\frac{1}{2}}."}, [[r"\frac{1}{2}"]]),
        ({"question": "How many?", "answer": "48/2 = 24.\n#### 72"}, [["72"]]),
        ({"inputs": {"question": "Q?"}, "outputs": {"answer": "A"}}, [["A"]]),
        ({"responses_create_params": {"input": [{"role": "user", "content": "Q?"}]},
          "expected_answer": "A"}, [["A"]]),
        ({"id": "7", "question_stem": "The sun is", "choices": {"text": ["a", "b"],
          "label": ["A", "B"]}, "answerKey": "B"}, [["b"]]),
        ({"question": "Do?", "context": {"contexts": ["a b"]}, "long_answer": "Results.",
          "final_decision": "yes"}, [["yes"]]),
        ({"body": "Is it?", "exact_answer": ["yes"], "ideal_answer": ["It is."], "id": "5"},
         [["yes"]]),
        ({"Question": "who?", "Answer": [{"AnswerType": "Entity", "WikidataQid": "Q1",
          "WikidataLabel": "Steffi", "AnswerArgument": None}]}, [["Steffi"]]),
        ({"user_input": "Q?", "reference": "R", "response": "what a model said"}, [["R"]]),
        ({"q": "Q?", "a": "A"}, [["A"]]),
    ],
)  # fmt: skip
def test_a_published_form_gives_its_answers(record, wanted):
    assert answers_of([record]) == wanted


def test_the_english_question_is_taken_and_told():
    (task,) = read_split([QALD], "quiz/test")
    assert task.question == "Which battle?"
    notes = notes_of([QALD])
    assert notes["questions in several languages, of which one is taken"] == "1"
    assert notes["questions whose answer is a list, of which each item is taken as right"] == "1"


def test_questions_of_a_conversation_are_told():
    assert notes_of([COQA])["questions of a conversation, which may refer to those before them"]


def test_what_an_assistant_said_is_warned_about():
    with pytest.warns(UserWarning, match="what a model or an assistant said"):
        read_split([CHAT], "quiz/test")


def test_a_log_of_tool_calls_is_no_set_of_questions():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "search"}}]}
    result = {"role": "tool", "content": "A passage."}
    log = {"messages": [*CHAT["messages"][:2], call, result, CHAT["messages"][2]]}
    with pytest.raises(ValueError, match="calibadv trace import"):
        read_split([log], "quiz/test")


def test_questions_without_an_answer_are_left_out(tmp_path):
    rows = [
        {"query": "how", "answers": {"en": [{"type": "unanswerable", "text": None}]}},
        {"query": "why", "answers": {"en": [{"type": "entity", "text": "B"}]}},
        {"question": "Q?", "answers": [{"text": "CANNOTANSWER", "answer_start": 3}]},
    ]
    path = written(tmp_path, "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert answers_of(path) == [["B"]]
    assert notes_of(path)["unanswerable questions left out"] == "2"
    lone = written(tmp_path, "n.json", json.dumps(rows[2:]))
    with pytest.raises(DataError, match="1 unanswerable questions left out"):
        answers_of(lone)


def test_words_for_a_missing_value_are_told(tmp_path):
    path = written(tmp_path, "q.csv", "question,answer\nWhere?,NA\nWho?,None\nWhat?,Egypt\n")
    assert notes_of(path)[
        "answers that are a word for a missing value (null, None, NaN, N/A), taken as text"
    ] == "2"  # fmt: skip


def test_questions_that_stand_twice_with_other_answers_are_told(tmp_path):
    path = written(tmp_path, "q.csv", "question,answer\nWhere?,Here\nWhere?,There\nWho?,Bo\n")
    assert notes_of(path)["questions that stand more than once with other answers"] == "1"


# ---- Whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("asqa.json", json.dumps({"train": {"-1": ASQA}, "dev": {"-5": ALCE}}),
         [["May 24, 2017", "September 20, 2017"]] * 2),
        ("map.json", json.dumps({"Where is it?": "Egypt", "Who?": ["Bob", "Bobby"]}),
         [["Egypt"], ["Bob", "Bobby"]]),
        ("lists.json", json.dumps({"questions": ["a?", "b?"], "answers": ["x", "y"]}),
         [["x"], ["y"]]),
        ("example.jsonl", json.dumps({"inputs": {"question": "Q?"}, "outputs": {"answer": "A"}}),
         [["A"]]),
        ("mrqa.jsonl", '{"header": {"dataset": "SQuAD"}}\n'
         '{"context": "A text.", "qas": [{"qid": "1", "question": "Q?", "answers": ["A"]}]}\n',
         [["A"]]),
        ("excel.csv", "sep=;\r\nquestion;answer\r\nWo?;Da, dort\r\n", [["Da, dort"]]),
        ("fresh.csv", "WARNING: do not train on this,,\n,,\nid,question,answer_0\n0,How?,52\n",
         [["52"]]),
        ("pairs.txt", "Where is it?\tEgypt\nwho is he\tBob\n", [["Egypt"], ["Bob"]]),
        ("mmlu.csv", '"Find it, then?",0,4,2,6,B\nWhat is x,1,2,3,4,A\n', [["4"], ["1"]]),
        ("qa.csv", "Q,A\nWo?,Da\n", [["Da"]]),
    ],
)  # fmt: skip
def test_a_file_in_a_form_of_its_own_loads(tmp_path, name, text, wanted):
    assert answers_of(written(tmp_path, name, text)) == wanted


def test_columns_hold_for_the_only_line_of_a_file(tmp_path):
    path = written(tmp_path, "q.jsonl", '{"frage": "Wo?", "antwort": "Da"}\n')
    reading = QuestionReading(columns={"question": "frage", "answers": "antwort"})
    (task,) = read_split(path, "quiz/test", "", reading)
    assert (task.question, task.golden_answers) == ("Wo?", ("Da",))


def test_remarks_above_a_header_do_not_move_the_lines_that_errors_name(tmp_path):
    path = written(tmp_path, "q.csv", "A remark,,\n\nid,question,answer\n1,Wo?,Da\n2,,Er\n")
    with pytest.raises(DataError, match=r"q\.csv:5: "):
        answers_of(path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("q.yaml", b"- question: Wo?\n  answer: Da\n", "neither JSON, nor a table"),
        ("q.csv", "question\tanswer\nWo?\tDa\n".encode("utf-16-le"), "UTF-16 without"),
        ("q.pkl", b"\x80\x05\x95\x00", "pickle"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, what):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        answers_of(path)
