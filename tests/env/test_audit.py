from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import chain_queries
from calibadv_env.data.preparing.audit import (
    AnswerScan,
    Coverage,
    hops_hit,
    measure_coverage,
    one_search_figures,
    telling_answers,
    unreachable_tasks,
)
from calibadv_env.protocol.answers import contains_words, normalize_answer
from calibadv_env.retrieval import Corpus, MemoryRetriever, Passage, ScoredPassage

CORPUS = Corpus(
    [
        Passage("n", "Nile", "The Nile is in Egypt."),
        Passage("c", "Cairo", "Cairo is the capital of Egypt."),
        Passage("o", "Oslo", "Oslo is a city."),
    ]
)


def task(task_id, question, *answers, gold=(), **metadata):
    return QATask(
        id=task_id,
        question=question,
        golden_answers=answers,
        gold_passages=gold,
        metadata=metadata,
    )


def evidence(*pieces):
    return [{"title": title, "sentences": [], "passages": list(ids)} for title, ids in pieces]


def found_in(passages, answers):
    scan = AnswerScan(answers)
    for passage in passages:
        scan.add(passage)
    return scan.found


def test_answers_are_found_as_whole_words_in_title_and_text():
    passages = [Passage("1", "Kuala Lumpur", "The city, of Malaysia! has 1.8 million.")]
    answers = {"kuala lumpur", "city of malaysia", "18 million", "lumpur city", "mala", "million x"}
    assert found_in(passages, answers) == {"kuala lumpur", "city of malaysia", "18 million"}


def test_an_answer_may_end_a_passage_and_may_be_found_late():
    passages = [Passage("1", "", "new york"), Passage("2", "", "york new york city hall")]
    answers = {"new york", "new york city", "york", "hall", "new york city hall of"}
    assert found_in(passages, answers) == {"new york", "new york city", "york", "hall"}


WORDS = st.lists(st.sampled_from(["ab", "cd", "the", "e.f", "Gh"]), min_size=1, max_size=6)
TEXTS = WORDS.map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4), st.lists(TEXTS, max_size=6))
def test_the_scan_agrees_with_looking_for_each_answer_in_each_passage(texts, answers):
    passages = [Passage(str(i), title, text) for i, (title, text) in enumerate(texts)]
    wanted = {normalize_answer(answer) for answer in answers} - {""}
    slow = {
        answer
        for answer in wanted
        for p in passages
        if contains_words(f"{p.title} | {p.text}".replace("|", "qqq"), answer)
    }
    assert found_in(passages, wanted) == slow


def test_yes_no_and_nothing_tell_nothing():
    assert telling_answers(task("t", "q", "Yes", "no!", "the")) == frozenset()
    assert telling_answers(task("t", "q", "yes", "The Nile")) == {("squad", "nile")}


def test_a_chain_of_facts_gives_a_query_a_fact():
    chain = [{"subject": "Ada", "relation": "born"}, {"subject": "Oslo", "relation": "country"}]
    one = task("t", "q", "a", gold=(("n",), ("c",)), chain=chain)
    assert chain_queries(one) == ("Ada born", "Oslo country")
    assert chain_queries(task("t", "q", "a", gold=(("n",),), chain=chain)) == ()


def test_steps_are_resolved_with_the_right_answers():
    steps = [
        {"question": "The town >> paper", "answer": "Post"},
        {"question": "who owns #1 ?", "answer": "Bob"},
        {"question": "#2 and #1 and #9", "answer": "x"},
    ]
    pieces = evidence(("A", ["n"]), ("B", ["c"]), ("C", []))
    one = task("t", "q", "a", question_decomposition=steps, evidence=pieces)
    assert chain_queries(one) == ("The town paper", "who owns Post ?", "Bob and Post and #9")


def test_else_the_titles_are_the_queries_and_else_there_is_no_chain():
    assert chain_queries(task("t", "q", "a", evidence=evidence(("A", ["n"]), ("B", [])))) == (
        "A",
        "B",
    )
    assert chain_queries(task("t", "q", "a", gold=(("n",),))) == ()
    unsearched = [{"title": "A", "sentences": []}]
    assert chain_queries(task("t", "q", "a", evidence=unsearched)) == ()


def test_hops_that_the_corpus_lacks_are_never_hit():
    one = task("t", "q", "a", gold=(("n",),), evidence=evidence(("A", ["n"]), ("B", [])))
    assert hops_hit(one, [ScoredPassage(CORPUS.passages[0], 1.0)]) == [True, False]


TASKS = [
    task("1", "Where is the Nile?", "Egypt", gold=(("n",),), evidence=evidence(("Nile", ["n"]))),
    task(
        "2",
        "Capital of the land of the Nile?",
        "Cairo",
        gold=(("n",), ("c",)),
        evidence=evidence(("Nile", ["n"]), ("Egypt", ["c"])),
    ),
    task(
        "3",
        "Is Lima bigger than Oslo?",
        "no",
        gold=(("o",),),
        evidence=evidence(("Oslo", ["o"]), ("Lima", [])),
    ),
    task("4", "Who wrote it?", "Ada Lovelace"),
]
ANSWERS = {
    "Where is the Nile?": ["n"],
    "Capital of the land of the Nile?": ["n"],
    "Is Lima bigger than Oslo?": ["o"],
    "Who wrote it?": ["o"],
    "Nile": ["n"],
    "Egypt": ["c"],
    "Oslo": ["o"],
    "Lima": ["n"],
}


def test_coverage_on_a_world_worked_by_hand():
    retriever = MemoryRetriever(CORPUS, ANSWERS)
    assert measure_coverage(TASKS, CORPUS, retriever, top_k=1) == Coverage(
        num_tasks=4,
        num_telling=3,
        num_with_gold=3,
        num_with_chain=3,
        num_telling_with_chain=2,
        answer_in_corpus=2 / 3,
        gold_in_corpus=2 / 3,
        one_search_answer=1 / 3,
        one_search_gold=1 / 3,
        chain_answer=1.0,
        chain_gold=2 / 3,
    )


def test_without_a_retriever_only_the_corpus_is_looked_at():
    coverage = measure_coverage(TASKS, CORPUS, None)
    assert coverage.answer_in_corpus == 2 / 3
    assert coverage.one_search_answer is None
    assert coverage.chain_gold is None


def test_shares_of_nothing_are_undefined():
    coverage = measure_coverage([TASKS[3]], CORPUS, MemoryRetriever(CORPUS, ANSWERS))
    assert coverage.gold_in_corpus is None
    assert coverage.chain_gold is None
    assert coverage.answer_in_corpus == 0.0


def test_many_tasks_go_to_the_retriever_in_batches():
    class Counting:
        def __init__(self):
            self.sizes = []

        def search(self, queries, top_k):
            self.sizes.append(len(queries))
            return [[] for _ in queries]

    retriever = Counting()
    tasks = [task(str(i), f"q {i}", "a") for i in range(600)]
    assert measure_coverage(tasks, CORPUS, retriever).num_tasks == 600
    assert retriever.sizes == [256, 256, 88]


def test_tasks_that_a_perfect_searcher_cannot_follow():
    retriever = MemoryRetriever(CORPUS, ANSWERS)
    assert [t.id for t in unreachable_tasks(TASKS, retriever, top_k=1)] == ["3", "4"]


def test_one_search_figures_on_tasks_worked_by_hand():
    figures = one_search_figures(TASKS[:2], MemoryRetriever(CORPUS, ANSWERS), top_k=1)
    assert (figures.first_hop, figures.all_hops, figures.answer) == (1.0, 0.5, 0.5)
