import gzip

import pytest

from calibadv_env.common.records import read_table
from calibadv_env.data.questions.parsing import QuestionReading, parse_question
from calibadv_env.data.reading import read_corpus, read_split
from calibadv_env.data.sources.tables import TableReader
from calibadv_env.errors import DataError


def write(path, text, encoding="utf-8"):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.csv", True), ("a.TSV", True), ("a.csv.gz", True), ("a.jsonl", False), ("csv", False)],
)
def test_a_table_is_told_by_its_name(name, wanted):
    assert TableReader().reads(name) is wanted


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["q.csv", "q.csv.gz"])
def test_delimiter_compression_marks_and_blank_rows_do_not_matter(tmp_path, mark, name):
    rows = ["question,answer,note", 'Where?,"Lima, Peru",', ",,", "", "Ça va?,oui,a b"]
    text = "\ufeff" + "\r\n".join(rows) + "\r\n"
    if mark != ",":
        text = text.replace(",", mark).replace(f"Lima{mark} Peru", f"Lima{mark} Peru")
    found = list(read_table(write(tmp_path / name, text), "question"))
    assert found == [
        (2, {"question": "Where?", "answer": f"Lima{mark} Peru"}),
        (5, {"question": "Ça va?", "answer": "oui", "note": "a b"}),
    ]


def test_a_cell_may_hold_lines_quotes_nul_and_a_million_characters(tmp_path):
    long = "x" * 1_000_000
    text = f'text,title\n"two\nlines, ""quoted""\0",a\n{long},b\n'
    found = list(read_table(write(tmp_path / "d.csv", text), "text"))
    assert found[0] == (3, {"text": 'two\nlines, "quoted"\0', "title": "a"})
    assert len(found[1][1]["text"]) == 1_000_000


def test_columns_become_a_task(tmp_path):
    text = (
        "id,question,answers,documents,hops,split,level\n"
        "a1,Where is it?,Peru | Republic of Peru,d1|d2,2,train,easy\n"
        ",And this?,42,,,test,\n"
    )
    records = TableReader().records(str(write(tmp_path / "q.csv", text)))
    one, two = QuestionReading(separator="|").rows(records)
    (first, split, task), (other, second) = (one.place, one.split, one.task), (two.split, two.task)
    assert first.endswith("q.csv:2")
    assert (split, other) == ("train", "test")
    assert (task.id, task.golden_answers) == ("a1", ("Peru", "Republic of Peru"))
    assert (task.gold_passages, task.hops) == ((("d1",), ("d2",)), 2)
    assert task.metadata == {"level": "easy"}
    assert (second.golden_answers, second.gold_passages) == (("42",), ())
    assert second.id.startswith("q-")


def test_one_answer_is_taken_as_it_stands():
    for key in ("answer", "answers"):
        task = parse_question({"question": "q", key: "either | or"})
        assert task.golden_answers == ("either | or",)
    row = {"question": "q", "answers": ["a", "b"], "id": 7, "documents": ["kept"]}
    task = parse_question(row)
    assert (task.id, task.golden_answers) == ("7", ("a", "b"))
    assert task.metadata == {"documents": ["kept"]}


def test_a_bar_in_an_answer_is_told_with_the_flag_that_parts_it(tmp_path):
    path = write(tmp_path / "q.csv", "question,answers\nWho?,AC|DC\n")
    with pytest.warns(UserWarning, match=r"1 answers hold '\|' .* --answer-separator"):
        assert read_split(path, "q")[0].golden_answers == ("AC|DC",)
    parted = read_split(path, "q", reading=QuestionReading(separator="|"))
    assert parted[0].golden_answers == ("AC", "DC")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"q\.csv: there is no question in it"),
        ("Frage,answer\na,b\n", r"q\.csv:2: .*among the keys Frage, answer; --columns question="),
        ("question,answer,answer\n", r"q\.csv:1: each column must stand once.*'answer'"),
        ("question,answer\na,b,c\n", r"q\.csv:2: a row must have at most 2 cells, got 3"),
        ("question,answer\na,\nc\n", r"q\.csv:2: a row must have an answer"),
        ("question,answer\n,b\n", r"q\.csv:2: key 'question' is missing"),
        ('question,answer\na,"b\n', r"q\.csv:\d: cannot read the table"),
        ("question,answers\na,[]\n", r"q\.csv:2: golden_answers must not be empty"),
        ("question,answer\na,\"['b' c]\"\n", r"q\.csv:2: answer begins like a list"),
        ("question,answers\na,\"['b', 'c\"\n", r"q\.csv:2: answers begins like a list"),
        ("question,answer\na,\"{'text': ['b', 'c'\"\n", r"q\.csv:2: answer begins like a list"),
        ("id,question,answer\n1,a,b\n1,c,d\n", r"q\.csv:3: id '1' stands at"),
        ("question,answer\n", r"q\.csv: there is no question in it"),
    ],
)
def test_a_faulty_table_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_split(write(tmp_path / "q.csv", text), "q")


def test_another_encoding_and_a_missing_or_cut_file_are_told(tmp_path):
    with pytest.raises(DataError, match=r"not valid UTF-8.*save the table as UTF-8"):
        read_split(write(tmp_path / "q.csv", "question,answer\nÇa?,é\n", "cp1252"), "q")
    with pytest.raises(DataError, match="cannot open the file"):
        read_split(tmp_path / "none.csv", "q")
    packed = write(tmp_path / "q.csv.gz", "question,answer\n" + "a,b\n" * 5000)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read the table"):
        read_split(packed, "q")


def test_documents_become_a_corpus(tmp_path):
    path = write(tmp_path / "d.csv", "title;text;year\nNile;In Egypt.;1\n;Alone.;2\n")
    corpus = read_corpus(path)
    assert [(p.title, p.text) for p in corpus] == [("Nile", "In Egypt."), ("", "Alone.")]
    assert len({p.id for p in corpus}) == 2
    with pytest.warns(UserWarning, match="1 passages without any text were left out"):
        assert len(read_corpus(write(tmp_path / "d.csv", "title,text\na,b\nc,\n"))) == 1
    with pytest.raises(DataError, match=r"d\.csv:3: id '1' stands twice"):
        read_corpus(write(tmp_path / "d.csv", "id,text\n1,b\n1,c\n"))
    with pytest.raises(DataError, match="no document in it"):
        read_corpus(write(tmp_path / "d.csv", "text\n"))


def test_names_that_nobody_knows_are_a_header_and_sentences_and_numbers_are_none(tmp_path):
    path = write(tmp_path / "q.csv", "Frage,Antwort\nWo?,Ulm\n")
    assert list(read_table(path)) == [(2, {"Frage": "Wo?", "Antwort": "Ulm"})]
    path = write(tmp_path / "c.tsv", "7\tWo\n8\tWer\n")
    assert next(iter(read_table(path))) == (1, {"0": "7", "1": "Wo"})
