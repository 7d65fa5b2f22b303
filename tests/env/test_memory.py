import pickle

import pytest

from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage, Retriever

CORPUS = Corpus([Passage(name, "", name) for name in "abcde"])


def ids(found):
    return [item.passage.id for item in found]


def test_known_queries_find_what_was_noted_and_others_nothing():
    retriever = MemoryRetriever(CORPUS, {"q": ["d", "b"], "none": []})
    known, unknown, none = retriever.search(["q", "other", "none"], 4)
    assert ids(known) == ["d", "b"]
    assert [item.score for item in known] == [1.0, 0.5]
    assert unknown == none == []


def test_without_answers_it_stands_for_a_search_that_takes_no_time():
    [found] = MemoryRetriever(CORPUS).search(["q"], 3)
    assert [(item.passage.id, item.score) for item in found] == [("a", 0), ("b", 0), ("c", 0)]


def test_top_k_cuts_and_the_corpus_limits():
    retriever = MemoryRetriever(CORPUS, {"q": ["e", "d"]})
    assert ids(retriever.search(["q"], 1)[0]) == ["e"]
    assert ids(retriever.search(["q"], 99)[0]) == ["e", "d"]


def test_it_is_a_retriever_and_pickles():
    retriever = MemoryRetriever(CORPUS, {"q": ["c"]})
    assert isinstance(retriever, Retriever)
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.search(["q"], 2) == retriever.search(["q"], 2)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="'q' must be in the corpus, got 'z'"):
        MemoryRetriever(CORPUS, {"q": ["z"]})
    with pytest.raises(ValueError, match="distinct"):
        MemoryRetriever(CORPUS, {"q": ["a", "a"]})
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        MemoryRetriever(CORPUS).search(["q"], 0)
