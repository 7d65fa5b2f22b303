"""Queries a second of the default retriever, beside bare bm25s and rank_bm25.

Run ``python benchmarks/retrieval.py``. The corpus is the atlas with the questions of its dev
split; ``--synthetic N`` takes N passages of words drawn from a Zipf law instead. Two ratios are
printed: ``bm25`` to bare bm25s (tokenise and retrieve, same batches), and ``bm25`` to
``rank_bm25``. One thread; the best of three passes, but a single pass for ``rank_bm25``. Then the
answers are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import bm25s
import numpy as np

from calibadv_env.data.registry import get_dataset
from calibadv_env.retrieval import Corpus, Passage, Retriever, make_retriever
from calibadv_env.retrieval.corpus import indexed_text

TOP_K = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", type=int, metavar="N", help="size of a synthetic corpus")
    parser.add_argument("--num-queries", type=int, default=1024)
    parser.add_argument("--num-slow-queries", type=int, default=100, help="for rank_bm25")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    if args.synthetic:
        corpus, queries = synthetic(args.synthetic, args.num_queries)
    else:
        corpus, queries = atlas(args.num_queries)
    print(f"{len(corpus):,} passages, {len(queries):,} distinct queries, top {TOP_K}")

    start = time.perf_counter()
    fast = make_retriever("bm25", corpus)
    print(f"bm25 index        {time.perf_counter() - start:10.2f} s")
    slow = make_retriever("rank_bm25", corpus)
    bare = bare_bm25s(corpus)
    batches = [queries[i : i + args.batch] for i in range(0, len(queries), args.batch)]
    slow_batch = queries[: args.num_slow_queries]

    rate = len(queries) / best_of(3, lambda: search_all(fast, batches))
    bare_rate = len(queries) / best_of(3, lambda: [bare(batch) for batch in batches])
    slow_rate = len(slow_batch) / best_of(1, lambda: search_all(slow, [slow_batch]))
    print(f"bm25              {rate:10.0f} queries/s, batches of {args.batch}")
    print(f"bare bm25s        {bare_rate:10.0f} queries/s, batches of {args.batch}")
    print(f"rank_bm25         {slow_rate:10.1f} queries/s")
    print(f"bm25 / bare bm25s {rate / bare_rate:10.2f}  (wanted: at least 0.9)")
    print(f"bm25 / rank_bm25  {rate / slow_rate:10.0f}  (wanted: over 100)")
    same, scores = same_top(fast, bare, batches)
    print(f"same top {TOP_K} as bare bm25s, but for ties: {same:.1%}, same scores: {scores:.1%}")
    print(f"same best passage as rank_bm25: {agreement(fast, slow, slow_batch):.0%}")


def atlas(num_queries: int) -> tuple[Corpus, list[str]]:
    dataset = get_dataset("atlas")
    questions = dict.fromkeys(task.question for task in dataset.tasks("dev"))
    return dataset.corpus(), list(questions)[:num_queries]


def synthetic(num_passages: int, num_queries: int) -> tuple[Corpus, list[str]]:
    rng = np.random.default_rng(0)
    probabilities = 1 / np.arange(1, 50_001)
    probabilities /= probabilities.sum()
    rows = rng.choice(50_000, size=(num_passages, 40), p=probabilities)
    texts = [" ".join(f"w{word}" for word in row) for row in rows]
    corpus = Corpus([Passage(str(i), f"title{i}", text) for i, text in enumerate(texts)])
    chosen = rng.integers(num_passages, size=num_queries)
    queries = [" ".join(f"w{word}" for word in rng.choice(rows[i], 8)) for i in chosen]
    return corpus, list(dict.fromkeys(queries))


def bare_bm25s(corpus: Corpus) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numpy")
    words = bm25s.tokenize([indexed_text(passage) for passage in corpus], show_progress=False)
    index.index(words, show_progress=False)

    def retrieve(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens = bm25s.tokenize(batch, show_progress=False)
        passages, scores = index.retrieve(tokens, k=TOP_K, show_progress=False)
        return passages, scores

    return retrieve


def search_all(retriever: Retriever, batches: Sequence[Sequence[str]]) -> None:
    for batch in batches:
        retriever.search(batch, TOP_K)


def best_of(num_passes: int, run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(num_passes):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def same_top(
    retriever: Retriever,
    bare: Callable[[list[str]], tuple[np.ndarray, np.ndarray]],
    batches: Sequence[list[str]],
) -> tuple[float, float]:
    """Shares of the queries with the same passages, and with the same scores.

    Passages that tie for the last place are left out: bm25s gives any of them, we the first.
    """
    same_passages, same_scores = [], []
    positions = {passage.id: i for i, passage in enumerate(retriever.corpus.passages)}
    for batch in batches:
        for row, found, scores in zip(retriever.search(batch, TOP_K), *bare(batch), strict=True):
            last = row[-1].score
            own = {positions[hit.passage.id] for hit in row if hit.score > last}
            same_passages.append(own == set(found[scores > np.float32(last)].tolist()))
            same_scores.append([hit.score for hit in row] == scores.tolist())
    return float(np.mean(same_passages)), float(np.mean(same_scores))


def agreement(one: Retriever, other: Retriever, queries: Sequence[str]) -> float:
    pairs = zip(one.search(queries, 1), other.search(queries, 1), strict=True)
    return float(np.mean([mine[0].passage == theirs[0].passage for mine, theirs in pairs]))


if __name__ == "__main__":
    main()
