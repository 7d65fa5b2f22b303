"""Files of mixed and broken shapes: a right answer or an error with its place, no traceback."""

import csv
import gzip
import json
import os
import random
import re
import warnings

import pytest

from calibadv_env.data.evidence import gold_entities, gold_queries, gold_texts
from calibadv_env.data.gold import find_gold
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import read_corpus, read_rows, read_split
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval import Corpus

CORPUS = Corpus([Passage("p", "Ulm", "Ulm is a city."), Passage("3", "", "x")])
NUM_RECORDS = int(os.environ.get("FUZZED_RECORDS", "1500"))
QUESTIONS = ("question", "Question", "query", "problem", "Prompt", "input", "question_text")
ANSWERS = ("golden_answers", "answers", "answer", "possible_answers", "Answer", "target")
ODD = (
    None,
    True,
    3,
    2.5,
    float("nan"),
    "",
    " ",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "[",
    "['x",
    "{'a'",
)
ODD_KEYS = (
    *("context", "paragraphs", "supporting_facts", "question_decomposition", "evidence", "output"),
    *(
        "metadata",
        "evidences",
        "gold_passages",
        "hops",
        "documents",
        "gold_docs",
        "split",
        "choices",
    ),
    *("extra_info", "reward_model", "annotations", "wiki_links", "is_impossible", "decomposition"),
)
TEXTS = ("Ulm", "the Quant", "São Tomé", "AT&T", "O'Neil", 'a "b" c', "1,5", "x\ny", "北京", "–5")


def odd_value(rng, depth=0):
    kind = rng.randrange(6)
    if kind < 3 or depth > 2:
        return rng.choice((*ODD, *TEXTS))
    if kind == 3:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = (*ODD_KEYS, "title", "text", "sentences", "idx", "is_supporting", "provenance", "value")
    return {rng.choice(keys): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def sound_answers(rng):
    """Accepted answers, and a value in which some dataset writes them down."""
    texts = rng.sample(TEXTS, rng.randrange(1, 4))
    if rng.random() < 0.2:
        return ["7"], 7
    if len(texts) == 1 and rng.random() < 0.5:
        return texts, texts[0]
    forms = (
        texts,
        {"text": texts},
        {"value": texts[0], "aliases": texts[1:]},
        [{"answer": text} for text in texts],
        str(texts),
        json.dumps(texts),
    )
    return texts, rng.choice(forms)


def a_record(rng, number):
    """A record, and its question and answers if it is a sound one."""
    question = f"What is {rng.choice(TEXTS)} {number}?"
    answers, value = sound_answers(rng)
    record = {rng.choice(QUESTIONS): question, rng.choice(ANSWERS): value}
    if rng.random() < 0.5:
        record[rng.choice(("id", "_id", "qid"))] = rng.choice((str(number), number))
    is_sound = True
    if rng.random() < 0.25:
        for _ in range(rng.randrange(1, 4)):
            record[rng.choice((*ODD_KEYS, *record))] = odd_value(rng)
        is_sound = False
    return record, (question, answers) if is_sound else None


def write(rng, path, records):
    """Writes records in a form by chance; gives the path."""
    form = rng.choice(("jsonl", "json", "data", "csv", "tsv", "ids"))
    columns = list(dict.fromkeys(key for record in records for key in record))
    if form in ("csv", "tsv"):
        path = path.with_suffix(f".{form}")
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, delimiter="," if form == "csv" else "\t")
            writer.writeheader()
            writer.writerows(records)
    else:
        path = path.with_suffix(".jsonl" if form == "jsonl" else ".json")
        whole = {"json": records, "data": {"data": records}, "ids": dict(enumerate(records))}
        lines = "\n".join(map(json.dumps, records))
        path.write_text(
            lines if form == "jsonl" else json.dumps(whole[form], indent=rng.choice((None, 1)))
        )
    data = path.read_bytes()
    is_broken = rng.random() < 0.15
    if is_broken:
        data = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.choice(b'\x00\xff"[]{},\n\t:x')
        data = bytes(data[: rng.randrange(1, len(data) + 1)]) if rng.random() < 0.5 else bytes(data)
    if rng.random() < 0.2:
        data = gzip.compress(data)
        data = data[: len(data) - 9] if rng.random() < 0.2 else data
        is_broken = True
    path.write_bytes(data)
    return path, is_broken


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_a_file_of_any_shape_is_right_or_an_error_with_its_place(tmp_path, seed):
    rng = random.Random(seed)
    done = num_read = 0
    faults = []
    while done < NUM_RECORDS // 4:
        pairs = [a_record(rng, done + i) for i in range(rng.randrange(1, 9))]
        done += len(pairs)
        records = [record for record, _ in pairs]
        path, is_broken = write(rng, tmp_path / "f", records)
        reading = QuestionReading(wants_paragraphs=True)
        place = re.compile(rf"^{re.escape(str(path))}(:| )")
        try:
            tasks = read_split(path, "f", reading=reading)
        except DataError as error:
            faults.append((place.match(str(error)), str(error)))
            continue
        num_read += 1
        gold, _ = find_gold(tasks, CORPUS)
        for task in gold:
            assert len(gold_queries(task)) >= 0
            assert all(isinstance(name, str) for name in gold_entities(task))
            if all(one in CORPUS for hop in task.gold_passages for one in hop):
                assert len(gold_texts(task, CORPUS.by_id)) >= len(task.gold_passages)
        found = {task.question: list(task.golden_answers) for task in tasks}
        for sound in (sound for _, sound in pairs if sound and not is_broken):
            question, answers = sound
            assert found[question] == answers, (path.suffix, records)
    assert num_read > done // 40
    assert len(faults) > done // 400
    assert [text for has_place, text in faults if not has_place] == []


@pytest.mark.filterwarnings("ignore")
def test_documents_of_any_shape_are_right_or_an_error_with_their_place(tmp_path):
    rng = random.Random(7)
    faults = []
    for number in range(NUM_RECORDS // 10):
        records = []
        for i in range(rng.randrange(1, 6)):
            record = {rng.choice(("text", "contents", "page_content")): f"{rng.choice(TEXTS)} {i}"}
            if rng.random() < 0.5:
                record[rng.choice(("id", "_id", "docid", "title", "metadata"))] = odd_value(rng)
            records.append(record)
        path, _ = write(rng, tmp_path / f"c{number}", records)
        try:
            corpus = read_corpus(path)
        except DataError as error:
            faults.append((str(path), str(error)))
            continue
        assert all(passage.text.strip() and passage.id for passage in corpus)
    assert [text for path, text in faults if not text.startswith(path)] == []


def test_odd_records_in_a_list_are_told_with_their_position():
    rng = random.Random(3)
    faults = []
    for _ in range(NUM_RECORDS // 5):
        record = {rng.choice((*QUESTIONS, *ANSWERS, *ODD_KEYS)): odd_value(rng) for _ in range(4)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_split([record], "quiz/test")
            except ValueError as error:
                faults.append(str(error))
    assert faults
    assert [text for text in faults if not text.startswith("quiz/test[0]")] == []


def test_a_split_by_its_reader_is_what_rows_give(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,answer,split\nq,a,train\n")
    assert [(row.split, row.place) for row in read_rows(path)] == [("train", f"{path}:2")]
