import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval import Retriever
from calibadv_env.retrieval.base import retriever_identity
from calibadv_env.retrieval.bm25.build import build_bm25_index
from calibadv_env.retrieval.bm25.index import Bm25Index
from calibadv_env.retrieval.parallel import ParallelRetriever

BM25 = get_dataset("toy").retriever("bm25")
QUERIES = [passage.text for passage in BM25.corpus.passages[:41]]


class Moody:
    """Raises at one query, and says in which process it searched."""

    def search(self, queries, top_k):
        if "broken" in queries:
            raise ZeroDivisionError("this query is broken")
        return [[(query, os.getpid())] for query in queries]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Bm25Index(build_bm25_index(BM25.corpus, tmp_path_factory.mktemp("bm25") / "index"))


@pytest.fixture
def spread():
    made = []

    def make(retriever, num_processes=3):
        made.append(ParallelRetriever(retriever, num_processes))
        return made[-1]

    yield make
    for retriever in made:
        retriever.close()


def test_it_gives_what_the_retriever_gives(index, spread):
    retriever = spread(index)
    assert isinstance(retriever, Retriever)
    expected = BM25.search(QUERIES, 5)
    for size in (0, 1, 7, 8, 12, 40, 41):
        assert retriever.search(QUERIES[:size], 5) == expected[:size]
    assert retriever.search(QUERIES[:9] * 2, 2) == BM25.search(QUERIES[:9] * 2, 2)
    assert retriever_identity(retriever) == retriever_identity(index)
    assert retriever.corpus is index.corpus


def test_the_parts_are_searched_in_processes_of_their_own(spread):
    retriever = spread(Moody())
    rows = retriever.search([str(i) for i in range(12)], 3)
    assert [row[0][0] for row in rows] == [str(i) for i in range(12)]
    pids = [row[0][1] for row in rows]
    assert pids[:4] == [os.getpid()] * 4
    assert len(set(pids)) == 3
    few = retriever.search(["a", "b", "c", "d", "e", "f", "g"], 3)
    assert {row[0][1] for row in few} == {os.getpid()}


class Slow:
    """Takes a while for each query, more in the process that made it."""

    def __init__(self, here_s, elsewhere_s):
        self.home, self.here_s, self.elsewhere_s = os.getpid(), here_s, elsewhere_s

    def search(self, queries, top_k):
        time.sleep(len(queries) * (self.here_s if os.getpid() == self.home else self.elsewhere_s))
        return [[(query, os.getpid())] for query in queries]


@pytest.mark.parametrize(("here_s", "elsewhere_s"), [(0.003, 0.001), (0.001, 0.003)])
def test_the_slower_process_gets_the_smaller_part(spread, here_s, elsewhere_s):
    retriever = spread(Slow(here_s, elsewhere_s), 2)
    queries = [str(i) for i in range(40)]
    for _ in range(20):
        rows = retriever.search(queries, 3)
        assert [row[0][0] for row in rows] == queries
    own = [row[0][1] for row in rows].count(os.getpid())
    assert (own < 18) if here_s > elsewhere_s else (own > 22)


@pytest.mark.parametrize("place", [0, 11])
def test_what_the_retriever_raises_is_raised_and_the_next_search_is_right(spread, place):
    retriever = spread(Moody())
    queries = [str(i) for i in range(12)]
    queries[place] = "broken"
    with pytest.raises((RetrieverError, ZeroDivisionError), match="this query is broken"):
        retriever.search(queries, 3)
    queries[place] = "mended"
    assert [row[0][0] for row in retriever.search(queries, 3)] == queries


def test_a_helper_that_is_killed_loses_nothing_and_is_replaced(spread):
    retriever = spread(Moody(), 2)
    queries = [str(i) for i in range(8)]
    [first, victim] = dict.fromkeys(row[0][1] for row in retriever.search(queries, 3))
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.1)
    rows = retriever.search(queries, 3)
    assert [row[0][0] for row in rows] == queries
    pids = {row[0][1] for row in retriever.search(queries, 3)}
    assert len(pids) == 2
    assert victim not in pids
    assert first in pids


def test_helpers_end_with_a_process_that_is_killed():
    code = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from test_parallel import Moody
        from calibadv_env.retrieval.parallel import ParallelRetriever
        rows = ParallelRetriever(Moody(), 2).search([str(i) for i in range(8)], 1)
        print(rows[-1][0][1], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    folder = os.path.dirname(__file__)  # noqa: PTH120
    command = [sys.executable, "-c", textwrap.dedent(code), folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    helper = int(done.stdout)
    for _ in range(100):
        try:
            state = open(f"/proc/{helper}/stat").read().rpartition(")")[2].split()[0]  # noqa
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the helper still runs")


def test_it_pickles_and_checks_its_arguments(index, spread):
    retriever = pickle.loads(pickle.dumps(spread(index, 2)))
    assert retriever.search(QUERIES, 3) == BM25.search(QUERIES, 3)
    retriever.close()
    with pytest.raises(ValueError, match="num_processes must be positive, got 0"):
        ParallelRetriever(index, 0)
    with pytest.raises(ValueError, match="must be a sequence of strings"):
        retriever.search("a string", 3)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        retriever.search(["x"], 0)
