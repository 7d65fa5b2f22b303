import math
import pickle
import random
import re

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.retrieval import Corpus, Passage
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.corpus import indexed_text


def make_corpus(num_passages=120, num_words=40, seed=3):
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(num_words)] + ["the", "of", "Élan", "x"]
    return Corpus(
        [
            Passage(f"p{i}", rng.choice(["", "Title"]), " ".join(rng.choices(words, k=9)))
            for i in range(num_passages)
        ]
    )


CORPUS = make_corpus()
RETRIEVER = Bm25Retriever(CORPUS)
LIBRARY = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numpy")
LIBRARY.index(
    bm25s.tokenize([indexed_text(p) for p in CORPUS], stopwords="english", show_progress=False),
    create_empty_token=False,
    show_progress=False,
)
QUERIES = st.lists(
    st.lists(
        st.sampled_from([f"word{i}" for i in range(45)] + ["the", "Title", "élan", "", "?!"]),
        max_size=5,
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


def lucene_scores(corpus, query, k1=1.2, b=0.75):
    """The formula, word by word, in double precision."""
    stop = set(bm25s.stopwords.STOPWORDS_EN)

    def split(text):
        return [w for w in re.findall(r"\b\w\w+\b", text.lower()) if w not in stop]

    bodies = [split(indexed_text(passage)) for passage in corpus]
    mean = sum(map(len, bodies)) / len(bodies)
    scores = []
    for body in bodies:
        score = 0.0
        for word in split(query):
            df = sum(word in other for other in bodies)
            idf = math.log(1 + (len(bodies) - df + 0.5) / (df + 0.5))
            tf = body.count(word)
            score += idf * tf / (tf + k1 * (1 - b + b * len(body) / mean))
        scores.append(score)
    return scores


def test_scores_are_the_formula():
    query = "Title word3, word3 of WORD7 élan unknown"
    expected = lucene_scores(CORPUS, query)
    [found] = RETRIEVER.search([query], len(CORPUS))
    for item in found:
        assert item.score == pytest.approx(expected[CORPUS.index_of(item.passage.id)], abs=1e-5)
    assert found[0].score == pytest.approx(max(expected), abs=1e-5)


def test_parameters_reach_the_formula():
    found = Bm25Retriever(CORPUS, k1=0.5, b=0.2).search(["word1 word2"], 5)[0]
    expected = lucene_scores(CORPUS, "word1 word2", 0.5, 0.2)
    assert [item.score for item in found] == pytest.approx(
        sorted(expected, reverse=True)[:5], abs=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(queries=QUERIES, top_k=st.integers(1, 200))
def test_scores_are_those_of_the_library_and_ties_stand_in_corpus_order(queries, top_k):
    count = min(top_k, len(CORPUS))
    words = bm25s.tokenize(queries, show_progress=False)
    raw = LIBRARY.retrieve(words, k=count, show_progress=False)
    for found, scores in zip(RETRIEVER.search(queries, top_k), raw.scores, strict=True):
        assert [item.score for item in found] == [score for score in scores.tolist() if score]
        keys = [(-item.score, CORPUS.index_of(item.passage.id)) for item in found]
        assert keys == sorted(set(keys))


@settings(max_examples=40, deadline=None)
@given(queries=QUERIES, top_k=st.integers(1, 20))
def test_the_batch_does_not_matter(queries, top_k):
    together = RETRIEVER.search(queries, top_k)
    assert together == [RETRIEVER.search([query], top_k)[0] for query in queries]


@pytest.mark.parametrize("query", ["", " ", "the of and", "zzz qqq", "?", "a", "日本", "\ud800"])
def test_a_query_without_a_known_word_finds_nothing(query):
    for top_k in (3, 30):
        assert RETRIEVER.search([query], top_k) == [[]]


def test_equal_passages_stand_in_corpus_order():
    corpus = Corpus([Passage(f"p{i}", "", "same words here") for i in range(50)])
    for top_k in (3, 20):
        [found] = Bm25Retriever(corpus).search(["same words"], top_k)
        assert [item.passage.id for item in found] == [f"p{i}" for i in range(top_k)]


def test_a_small_corpus_gives_all_that_matches():
    corpus = Corpus([Passage("a", "", "alpha"), Passage("b", "", "beta")])
    one, both = Bm25Retriever(corpus).search(["beta", "beta alpha"], 10)
    assert [item.passage.id for item in one] == ["b"]
    assert [item.passage.id for item in both] == ["a", "b"]


def test_a_corpus_without_words_can_be_searched():
    corpus = Corpus([Passage("a", "", "?"), Passage("b", "", "the")])
    assert Bm25Retriever(corpus).search(["the"], 5) == [[]]


def test_answers_do_not_share_their_lists():
    first, second = RETRIEVER.search(["word1", "word1"], 3)
    first.clear()
    assert len(second) == 3
    assert len(RETRIEVER.search(["word1"], 3)[0]) == 3


def test_it_pickles():
    copy = pickle.loads(pickle.dumps(RETRIEVER))
    assert copy.search(["word5 word6"], 5) == RETRIEVER.search(["word5 word6"], 5)


def test_an_empty_batch_is_an_empty_answer():
    assert RETRIEVER.search([], 3) == []


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        RETRIEVER.search(["x"], 0)
    with pytest.raises(ValueError, match="sequence of strings"):
        RETRIEVER.search("word1", 3)
    with pytest.raises(ValueError, match="k1 must not be negative, got -1"):
        Bm25Retriever(CORPUS, k1=-1)
    with pytest.raises(ValueError, match="k1 must not be negative, got nan"):
        Bm25Retriever(CORPUS, k1=math.nan)
    with pytest.raises(ValueError, match=r"b must be in \[0, 1\], got 2"):
        Bm25Retriever(CORPUS, b=2)
