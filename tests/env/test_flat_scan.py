import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.retrieval.dense import flat_scan
from calibadv_env.retrieval.dense.flat_scan import FlatScan


def slowly(vectors, query, limit):
    """One sum in double precision a passage, then a stable sort."""
    scores = [float(np.float32(np.sum(vector.astype(np.float64) * query))) for vector in vectors]
    order = sorted(range(len(vectors)), key=lambda i: (-scores[i], i))[:limit]
    return [(i, scores[i]) for i in order]


def near_duplicates(seed, count, dimension):
    """Vectors so close that single precision cannot tell them apart, and some that are equal."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(dimension)
    vectors = base + 1e-7 * rng.standard_normal((count, dimension))
    vectors[count // 2 :] = rng.standard_normal((count - count // 2, dimension))
    vectors[::5] = vectors[0]
    return vectors.astype(np.float32), (base + 0.1 * rng.standard_normal(dimension)).astype("f4")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 90),
    block=st.sampled_from([1, 7, 64, 1000]),
    limit=st.integers(1, 90),
)
def test_it_is_exact_where_single_precision_is_not(seed, count, block, limit):
    vectors, query = near_duplicates(seed, count, 24)
    limit = min(limit, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_scan, "_ROWS_PER_BLOCK", block)
        found = FlatScan(vectors).search(query[None, :], limit)
    assert found == [slowly(vectors, query, limit)]


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 200])
def test_the_batch_does_not_matter(size):
    rng = np.random.default_rng(size)
    vectors, _ = near_duplicates(3, 300, 384)
    queries = (vectors[rng.integers(300, size=size)] + 0.01).astype(np.float32)
    scan = FlatScan(vectors)
    alone = [scan.search(query[None, :], 10)[0] for query in queries]
    assert scan.search(queries, 10) == alone
    assert scan.search(np.empty((0, 384), np.float32), 10) == []


def test_vectors_of_zeros_are_found_in_order():
    scan = FlatScan(np.zeros((5, 4), np.float32))
    assert scan.search(np.ones((1, 4), np.float32), 3) == [[(0, 0.0), (1, 0.0), (2, 0.0)]]


def test_vectors_that_stand_askew_in_memory_are_the_same_vectors():
    vectors, query = near_duplicates(4, 60, 8)
    raw = np.empty(vectors.nbytes + 1, np.uint8)
    raw[1:] = vectors.reshape(-1).view(np.uint8)
    askew = np.ndarray(vectors.shape, np.float32, buffer=raw, offset=1)
    assert not askew.flags.aligned
    assert FlatScan(askew).search(query[None], 9) == FlatScan(vectors).search(query[None], 9)
