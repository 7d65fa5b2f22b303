import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from calibadv_env.data.registry import get_dataset
from calibadv_env.data.toy import load_dataset

TOY = get_dataset("toy")
TASKS = {split: TOY.tasks(split) for split in TOY.splits}
ALL = [task for tasks in TASKS.values() for task in tasks]
ROOT = Path(__file__).resolve().parents[2]

PRINT_HASH = """
import hashlib
from calibadv_env.data.toy import load_dataset
toy = load_dataset()
tasks = repr([list(toy.tasks(split)) for split in toy.splits])
print(toy.corpus().sha256, hashlib.sha256(tasks.encode()).hexdigest())
"""


def test_sizes():
    assert len(TOY.corpus()) == 224
    assert {split: len(tasks) for split, tasks in TASKS.items()} == {
        "train": 380,
        "dev": 114,
        "test": 114,
    }
    assert set(Counter(task.hops for task in ALL)) == {1, 2, 3}
    assert len({task.id for task in ALL}) == len(ALL)


def test_it_does_not_depend_on_the_hash_seed():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PRINT_HASH],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().split()[0] == TOY.corpus().sha256


def test_the_content_is_pinned():
    assert load_dataset().corpus().sha256 == (
        "6159ace11e07b28582b075f621a36fa5d521dbf4342ecd3f38c28ad378d1cb33"
    )


def test_every_hop_is_stated_by_its_gold_passage_and_leads_to_the_next():
    for task in ALL:
        chain = task.metadata["chain"]
        assert len(chain) == len(task.gold_passages) == task.hops
        for fact, (passage_id,) in zip(chain, task.gold_passages, strict=True):
            words = TOY.corpus().by_id(passage_id).text.rstrip(".").split()
            assert fact["subject"] in words
            assert fact["object"] in words
        for fact, following in pairwise(chain):
            assert fact["object"] == following["subject"]
        assert task.golden_answers == (chain[-1]["object"],)
        assert chain[0]["subject"] in task.question
        assert task.golden_answers[0] not in task.question


def test_a_subject_and_relation_have_one_object():
    facts = {}
    for task in ALL:
        for fact in task.metadata["chain"]:
            key = (fact["subject"], fact["relation"])
            assert facts.setdefault(key, fact["object"]) == fact["object"]
    assert len({task.question for task in ALL}) == len(ALL)


def test_splits_share_no_passage_and_no_name():
    seen = {}
    for split, tasks in TASKS.items():
        for task in tasks:
            names = [passage_id for hop in task.gold_passages for passage_id in hop]
            for fact in task.metadata["chain"]:
                names.append(fact["subject"])
                if fact["relation"] != "job":
                    names.append(fact["object"])
            for name in names:
                assert seen.setdefault(name, split) == split


def test_one_search_finds_the_first_hop_but_not_the_chain():
    bridges = [task for task in ALL if task.hops > 1]
    results = TOY.retriever("bm25").search([task.question for task in bridges], 3)
    first = chain = 0
    for task, found in zip(bridges, results, strict=True):
        ids = {item.passage.id for item in found}
        first += task.gold_passages[0][0] in ids
        chain += all(hop[0] in ids for hop in task.gold_passages)
    assert first / len(bridges) > 0.95
    assert chain / len(bridges) < 0.1


def test_one_search_answers_a_one_hop_question():
    single = [task for task in ALL if task.hops == 1]
    results = TOY.retriever("bm25").search([task.question for task in single], 3)
    for task, found in zip(single, results, strict=True):
        assert task.gold_passages[0][0] in {item.passage.id for item in found}


def test_the_vocabulary_is_small():
    texts = [task.question for task in ALL] + [passage.text for passage in TOY.corpus()]
    words = {word.strip("?.").lower() for text in texts for word in text.split()}
    assert len(words) < 250
