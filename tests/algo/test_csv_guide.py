"""Runs the commands of docs/your_dataset.md, as they stand there, on real tables."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from calibadv_env import get_dataset

GUIDE = (Path(__file__).parents[2] / "docs" / "your_dataset.md").read_text(encoding="utf-8")
RELATIONS = ("capital", "currency", "independence from")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


def commands():
    """The command lines of the guide, in order."""
    text = "".join(blocks("bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """60 questions on countries, and every fact of these countries as a document."""
    folder = tmp_path_factory.mktemp("guide")
    atlas = get_dataset("atlas")
    tasks = [
        task
        for split in atlas.splits
        for task in atlas.tasks(split)
        if all(hop[0].startswith("country:") for hop in task.gold_passages)
    ]
    single = [task for task in tasks if task.hops == 1]
    single = [task for task in single if task.metadata["chain"][0]["relation"] in RELATIONS]
    chosen = single[:40] + [task for task in tasks if task.hops == 2][:20]
    first = [[hop[0] for hop in task.gold_passages] for task in chosen]
    rows = [
        (task.question, "|".join(task.golden_answers), "|".join(documents))
        for task, documents in zip(chosen, first, strict=True)
    ]
    countries = {one.split(":")[1] for documents in first for one in documents}
    facts = [
        (passage.id, passage.title, passage.text)
        for passage in atlas.corpus()
        if passage.id.startswith("country:") and passage.id.split(":")[1] in countries
    ]
    write(folder / "questions.csv", ("question", "answers", "documents"), rows)
    write(folder / "documents.csv", ("id", "title", "text"), facts)
    return folder


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def test_the_tables_of_the_guide_are_the_beginnings_of_those_that_are_used(tables):
    shown = blocks("csv")
    assert len(shown) == 2
    for text, name in zip(shown, ("questions.csv", "documents.csv"), strict=True):
        assert (tables / name).read_text().startswith(text)
    assert f"{len((tables / 'documents.csv').read_text().splitlines()) - 1} documents" in GUIDE


def test_every_step_is_in_the_guide():
    names = [(line[0], line[1]) for line in commands()]
    for step in ("data", "index", "eval", "train"):
        assert ("calibadv", step) in names
    assert all(name == "calibadv" for name, _ in names)


@pytest.mark.slow
def test_the_commands_of_the_guide_lead_to_a_trained_policy(tables, tmp_path):
    environment = {
        **os.environ,
        "CALIBADV_DATA": str(tmp_path / "data"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "COLUMNS": "120",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    printed = []
    for line in commands():
        done = subprocess.run(
            [sys.executable, "-m", "calibadv_algo.cli.main", *line[1:]],
            cwd=tables,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    assert "60 questions name theirs" in printed[0]
    facts = json.loads((tmp_path / "data" / "countries" / "prepared.json").read_text())
    assert {split: one["tasks"] for split, one in facts["splits"].items()} == {
        "train": 48,
        "dev": 6,
        "test": 6,
    }
    assert re.search(r"an answer stands in the corpus.*1\.000 of 6", printed[2])
    evaluated = [text for line, text in zip(commands(), printed, strict=True) if line[1] == "eval"]
    scores = [re.search(r"\bf1 \D*([\d.]+)", text).group(1) for text in evaluated]
    assert len(scores) == 3
    assert scores[0] == scores[1], "an index on disk finds the same"
    policy = tables / "runs" / "countries" / "checkpoints" / "update_000004" / "policy"
    assert (policy / "config.json").is_file()
    records = (tables / "runs" / "countries" / "test.jsonl").read_text().splitlines()
    assert len(records) == 6
    assert {"em", "f1"} <= set(json.loads(records[0]))
