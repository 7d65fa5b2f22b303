import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import Evidence, gold_hops, sentences_stating, with_evidence
from calibadv_env.data.gold import (
    GoldFinder,
    GoldTally,
    Match,
    evidence_of,
    shingles,
    title_key,
    with_gold,
)
from calibadv_env.protocol.passages import Passage

TASK = QATask(id="t", question="q", golden_answers=("a",), metadata={"type": "bridge"})


def find(evidence, *passages):
    finder = GoldFinder([evidence])
    for passage in passages:
        finder.add(passage)
    return finder.find(evidence)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("AT&amp;T", "at&t"),
        ('"Weird Al" Yankovic', "Weird Al Yankovic"),
        ("New_York  City", "New York city"),
        ("Caf\u00e9", "Cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_spellings_of_one_title_agree(a, b):
    assert title_key(a) == title_key(b)


@pytest.mark.parametrize(("a", "b"), [("Mercury", "Mercury (planet)"), ("Sao", "S\u00e3o")])
def test_different_titles_stay_different(a, b):
    assert title_key(a) != title_key(b)


def test_the_only_passage_of_a_title_is_gold_only_with_a_sentence():
    evidence = Evidence(title="Nile", sentences=("It is long.",))
    assert find(evidence, Passage("1", "Nile", "other words")) == Match((), "no_sentence")
    assert find(evidence, Passage("1", "Nile", "It is long.")) == Match(("1",), "sentence")


def test_documents_are_gold_by_their_ids_and_of_a_cut_one_the_pieces_with_a_sentence():
    evidence = Evidence(title="", ids=("d7", "d8"))
    found = find(evidence, Passage("d7", "", "x"), Passage("d9", "", "y"))
    assert found == Match(("d7",), "title")
    cut = [Passage("d7#1", "N", "It is blue."), Passage("d7#2", "N", "It is very long.")]
    stated = Evidence(title="N", sentences=("It is very long.",), ids=("d7",))
    assert find(stated, *cut) == Match(("d7#2",), "sentence")
    assert find(Evidence(title="N", ids=("d7",)), *cut) == Match(("d7#1", "d7#2"), "title")


def test_a_bare_number_is_no_id_of_a_document_of_another_title():
    evidence = Evidence(title="Nile", ids=("12",))
    assert find(evidence, Passage("12", "Congo", "x")) == Match((), "no_title")
    assert find(evidence, Passage("12", "nile", "x")) == Match(("12",), "title")


def test_any_of_several_titles_will_do():
    evidence = Evidence(title="Nile", titles=("White Nile",))
    assert find(evidence, Passage("1", "White Nile", "x")) == Match(("1",), "title")


def test_of_several_passages_those_with_a_sentence_are_gold_in_corpus_order():
    evidence = Evidence(title="Nile", sentences=("It flows through Egypt to the sea.",))
    passages = [
        Passage("1", "Nile", "The Nile is a river."),
        Passage("2", '"nile"', "Long ago. It flows through EGYPT, to the sea. More."),
        Passage("3", "Cairo", "It flows through Egypt to the sea."),
        Passage("4", "Nile", "it flows through egypt to sea"),
    ]
    assert find(evidence, *passages) == Match(("2", "4"), "sentence")


def test_a_sentence_cut_in_two_counts_where_half_of_it_stands():
    sentence = "one two three four five six seven eight nine ten"
    evidence = Evidence(title="N", sentences=(sentence,))
    first = Passage("1", "N", "before one two three four five six")
    second = Passage("2", "N", "seven eight nine ten after")
    assert find(evidence, first, second) == Match(("1",), "sentence")


def test_missing_titles_and_missing_sentences_are_told_apart():
    evidence = Evidence(title="Nile", sentences=("It flows through Egypt.",))
    others = [Passage(str(i), "Nile", "nothing of this kind") for i in range(2)]
    assert find(evidence, *others) == Match((), "no_sentence")
    assert find(evidence, Passage("1", "Congo", "It flows through Egypt.")) == Match((), "no_title")


def test_without_sentences_all_passages_of_the_title_are_gold():
    passages = [Passage(str(i), "Nile", f"text {i}") for i in range(3)]
    assert find(Evidence(title="Nile"), *passages) == Match(("0", "1", "2"), "title")


def test_two_tasks_that_want_different_sentences_of_one_article_do_not_mix():
    a = Evidence(title="N", sentences=("alpha beta gamma",))
    b = Evidence(title="n", sentences=("delta epsilon zeta",))
    finder = GoldFinder([a, b])
    finder.add(Passage("1", "N", "alpha beta gamma"))
    finder.add(Passage("2", "N", "delta epsilon zeta"))
    assert finder.find(a).passages == ("1",)
    assert finder.find(b).passages == ("2",)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_sentence_stands_in_itself(sentence):
    evidence = Evidence(title="N", sentences=(sentence,))
    match = find(evidence, Passage("1", "N", sentence), Passage("2", "N", "qqqq wwww eeee"))
    assert match.passages == (("1",) if shingles(sentence) else ())


def test_gold_keeps_the_hops_that_are_missing_in_the_metadata():
    evidence = [Evidence(title="A", sentences=("x",)), Evidence(title="B")]
    task = with_evidence(TASK, evidence)
    assert evidence_of(task) == tuple(evidence)
    assert gold_hops(task) == ()
    gold = with_gold(task, [Match((), "no_title"), Match(("p", "q"), "title")])
    assert gold.gold_passages == (("p", "q"),)
    assert gold.hops == 2
    assert gold_hops(gold) == ((), ("p", "q"))
    assert gold.metadata["type"] == "bridge"
    assert with_gold(TASK, []) is TASK
    assert with_evidence(TASK, []) is TASK


def test_the_tally_counts_every_task_and_every_hop_once():
    tally = GoldTally()
    tally.add([])
    tally.add([Match(("p",), "title"), Match(("q",), "sentence")])
    tally.add([Match(("p",), "title"), Match((), "no_title")])
    tally.add([Match((), "no_sentence")])
    counts = tally.counts()
    assert (counts.tasks, counts.tasks_with_evidence) == (4, 3)
    assert (counts.tasks_complete, counts.tasks_partial, counts.tasks_missing) == (1, 1, 1)
    assert counts.evidence == 5
    assert counts.by_outcome == {"title": 2, "sentence": 1, "no_sentence": 1, "no_title": 1}


def test_sentences_that_state_the_answer_are_chosen_and_else_all():
    paragraph = "Ada was born in 1815. She died in London! Her father was a poet."
    assert sentences_stating(paragraph, "london") == ("She died in London!",)
    assert len(sentences_stating(paragraph, "Paris")) == 3
    assert len(sentences_stating(paragraph, "")) == 3
