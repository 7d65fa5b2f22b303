"""Tables without a header: what their columns are is guessed by the look of the rows, and told."""

import pytest

from calibadv_env.data.loading import Options
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import read_corpus, read_split
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage


def written(tmp_path, text, name="t.tsv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "passages", "taken"),
    [
        (
            "1\tThe Quant is a river.\tQuant\n2\tBern is a city.\tBern\n",
            [("1", "Quant", "The Quant is a river."), ("2", "Bern", "Bern is a city.")],
            "column 1 is the text, column 0 is the id, column 2 is the title",
        ),
        (
            '1\t"The Quant is a river."\tQuant\n2\t"Bern is a city."\tBern\n',
            [("1", "Quant", "The Quant is a river."), ("2", "Bern", "Bern is a city.")],
            "column 1 is the text",
        ),
        (
            "p-1\tQuant\tThe Quant is a river of Arn.\np-2\tBern\tBern.\n",
            [("p-1", "Quant", "The Quant is a river of Arn."), ("p-2", "Bern", "Bern.")],
            "column 2 is the text, column 0 is the id, column 1 is the title",
        ),
        (
            "Quant River\tThe Quant is a river of Arn.\nBern\tBern is a city.\n",
            [
                (None, "Quant River", "The Quant is a river of Arn."),
                (None, "Bern", "Bern is a city."),
            ],
            "column 1 is the text, column 0 is the title",
        ),
        (
            "D1\thttp://example.org/a/long/address/of/it\tQuant\tA river.\n"
            "D2\thttp://example.org/b\tBern\tA city.\n",
            [("D1", "Quant", "A river."), ("D2", "Bern", "A city.")],
            "column 3 is the text, column 0 is the id, column 2 is the title",
        ),
    ],
)
def test_columns_of_passages(tmp_path, rows, passages, taken):
    with pytest.warns(UserWarning, match=rf"t\.tsv: no header, .*{taken}.*--corpus-columns"):
        found = list(read_corpus(written(tmp_path, rows)))
    assert [(p.title, p.text) for p in found] == [(title, text) for _, title, text in passages]
    assert all(wanted in (None, p.id) for p, (wanted, *_) in zip(found, passages, strict=True))


def test_columns_that_are_named_are_no_guess(tmp_path):
    path = written(tmp_path, "1\tQuant\tThe Quant is a river.\n")
    columns = {"id": "2", "text": "1"}
    assert list(Options(corpus_columns=columns).corpus(path)) == [
        Passage("The Quant is a river.", "", "Quant")
    ]


@pytest.mark.parametrize(
    ("rows", "task", "taken"),
    [
        (
            "7\tWo ist Ulm?\tHier\n8\tWer?\tIch\n",
            ("7", "Wo ist Ulm?", ("Hier",)),
            "column 1 is the question, column 2 is the answers, column 0 is the id",
        ),
        (
            "Hier\tWo ist Ulm?\nIch\tWer?\n",
            (None, "Wo ist Ulm?", ("Hier",)),
            "column 1 is the question, column 0 is the answers",
        ),
        (
            "wo ist ulm\t['Hier', 'Da']\nwer\t['Ich']\n",
            (None, "wo ist ulm", ("Hier", "Da")),
            "column 0 is the question, column 1 is the answers",
        ),
    ],
)
def test_columns_of_questions(tmp_path, rows, task, taken):
    with pytest.warns(UserWarning, match=rf"t\.tsv: no header, .*{taken}; --columns"):
        first = read_split(written(tmp_path, rows), "q")[0]
    assert (first.question, first.golden_answers) == task[1:]
    assert task[0] in (None, first.id)


def test_a_guess_holds_for_its_own_file_alone(tmp_path):
    reading = QuestionReading()
    path = written(tmp_path, "7\tWo ist Ulm?\tHier\n8\tWer?\tIch\n")
    with pytest.warns(UserWarning, match="no header"):
        read_split(path, "q", reading=reading)
    other = written(tmp_path, '{"question": "Was?", "answer": "Das"}\n', "o.jsonl")
    assert read_split(other, "q", reading=reading)[0].golden_answers == ("Das",)


def test_more_columns_than_can_be_told_apart_are_refused_with_the_numbers(tmp_path):
    path = written(tmp_path, "1\tWo ist Ulm?\tHier\tleicht\n2\tWer?\tIch\tschwer\n")
    with pytest.raises(
        DataError, match=r"t\.tsv:1: .*numbers from 0, such as --columns question=1"
    ):
        read_split(path, "q")
    columns = {"question": "1", "answers": "2"}
    tasks = read_split(path, "q", reading=QuestionReading(columns=columns))
    assert [task.golden_answers for task in tasks] == [("Hier",), ("Ich",)]


def test_each_file_of_a_folder_has_a_guess_of_its_own(tmp_path):
    written(tmp_path, "1\tQuant\tThe Quant is a river of Arn.\n", "a.tsv")
    written(tmp_path, "2\tBern is a city of many bears.\tBern\n", "b.tsv")
    with pytest.warns(UserWarning, match="no header") as told:
        found = list(read_corpus(tmp_path))
    assert [(p.id, p.title, p.text) for p in found] == [
        ("1", "Quant", "The Quant is a river of Arn."),
        ("2", "Bern", "Bern is a city of many bears."),
    ]
    told = [str(one.message) for one in told]
    assert len([text for text in told if "a.tsv: no header" in text and "2 is the text" in text])
    assert len([text for text in told if "b.tsv: no header" in text and "1 is the text" in text])


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", "Ulm is a city."), ("a.jsonl", '{"id": "u", "title": "a", "text": "Ulm is old."}')],
)
def test_a_table_without_a_header_may_stand_behind_another_file(tmp_path, name, text):
    written(tmp_path, text, name)
    written(tmp_path, "2\tBern is a city of many bears.\tBern\n", "b.tsv")
    with pytest.warns(UserWarning, match=r"b\.tsv: no header, .*column 1 is the text"):
        found = list(read_corpus(tmp_path))
    assert [(p.title, p.id) for p in found][1] == ("Bern", "2")
