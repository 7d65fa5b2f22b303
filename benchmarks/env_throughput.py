"""How fast the environment is on one core: alone, and against the retriever that it calls.

Run ``python benchmarks/env_throughput.py``. It prints two figures with their ratios: steps a
second of the vector environment of 64 where retrieval costs nothing (target 20,000), and, with
bm25s, searches a second as a share of what the bm25s library alone does on the same batches of
the same queries (target 0.8). The environment's own retriever, which is faster than the library
call, is measured alone too. Data are generated from a seed, everything runs on one
thread, and what is measured is processor time, so other processes do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import bm25s
import gymnasium
import numpy as np

import calibadv_env
from calibadv_env.data.base import QATask
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import indexed_text

TARGET_STEPS_PER_S = 20_000
TARGET_RETRIEVAL_RATIO = 0.8
NUM_TOPICS = 3_000
WORDS_PER_PASSAGE = 30


class ConstantRetriever:
    """Retriever of passages that were made beforehand, so that only the environment takes time."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._results = [
            [ScoredPassage(passages[(start + k) % len(passages)], 1.0 / (k + 1)) for k in range(3)]
            for start in range(512)
        ]
        self._calls = 0

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """The next lists in turn."""
        del top_k
        first = self._calls
        self._calls += len(queries)
        size = len(self._results)
        return [self._results[(first + i) % size] for i in range(len(queries))]


class NotingRetriever:
    """Notes the batches of queries that a retriever is asked."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self.batches: list[list[str]] = []

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Passes the call on."""
        self.batches.append(list(queries))
        return self._retriever.search(queries, top_k)


def make_world(rng: np.random.Generator, num_passages: int) -> tuple[list[QATask], list[Passage]]:
    """A corpus of random words, and a question about every tenth passage."""
    passages = []
    for index in range(num_passages):
        words = rng.zipf(1.3, size=WORDS_PER_PASSAGE) % NUM_TOPICS
        body = " ".join(f"word{word}" for word in words)
        passages.append(Passage(f"p{index}", f"Place {index}", f"name{index} lies near {body}."))
    tasks = [
        QATask(
            id=f"t{index}",
            question=f"What lies near place {index}?",
            golden_answers=(f"name{index}",),
            gold_passages=((f"p{index}",), (f"p{(index + 7) % num_passages}",)),
            hops=2,
        )
        for index in range(0, num_passages, 10)
    ]
    return tasks, passages


def script(rng: np.random.Generator, num_envs: int, num_steps: int) -> list[list[str]]:
    """Turns of episodes with two to four searches and an answer."""
    steps: list[list[str]] = [[] for _ in range(num_steps)]
    for _ in range(num_envs):
        left = int(rng.integers(2, 5))
        for step in steps:
            topic, place = rng.integers(NUM_TOPICS), rng.integers(1_000)
            think = f"<think>I need to find out what word{topic} has to do with it now</think>"
            if left:
                step.append(f"{think}<search>name{place} word{topic} word{topic // 2}</search>")
                left -= 1
            else:
                step.append(f"{think}<answer>name{place}</answer>")
                left = int(rng.integers(2, 5))
    return steps


def play(env: gymnasium.vector.VectorEnv, steps: Sequence[Sequence[str]]) -> float:
    """Seconds that the steps take, the resets of finished slots included."""
    env.reset(seed=0)
    started = time.process_time()
    for actions in steps:
        _, _, terminated, truncated, _ = env.step(actions)
        done = terminated | truncated
        if done.any():
            env.reset(options={"reset_mask": done})
    return time.process_time() - started


def make_library_search(passages: Sequence[Passage]) -> Callable[[list[str]], object]:
    """Retrieval with the bm25s library alone: tokenise a batch, retrieve the batch."""
    tokens = bm25s.tokenize(
        [indexed_text(passage) for passage in passages], stopwords="english", show_progress=False
    )
    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numpy")
    index.index(tokens, show_progress=False)

    def search(queries: list[str]) -> object:
        words = bm25s.tokenize(queries, stopwords="english", show_progress=False)
        return index.retrieve(words, k=3, show_progress=False)

    return search


def time_of(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=64, help="slots of the vector env")
    parser.add_argument("--num-steps", type=int, default=200, help="vector steps per measurement")
    parser.add_argument("--num-passages", type=int, default=10_000, help="size of the corpus")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; the fastest counts")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tasks, passages = make_world(rng, args.num_passages)
    calibadv_env.register_dataset("throughput", tasks, passages)
    steps = script(rng, args.num_envs, args.num_steps)
    total = args.num_envs * args.num_steps

    def make(retriever: object) -> gymnasium.vector.VectorEnv:
        return gymnasium.make_vec(
            "DeepSearch-v1",
            num_envs=args.num_envs,
            vectorization_mode="vector_entry_point",
            dataset="throughput",
            split="test",
            retriever=retriever,
        )

    free = make(ConstantRetriever(passages))
    rate = total / min(play(free, steps) for _ in range(args.repeats))
    print(
        f"without retrieval: {rate:,.0f} steps/s in a vector env of {args.num_envs}, "
        f"{rate / TARGET_STEPS_PER_S:.2f} x the target of {TARGET_STEPS_PER_S:,}"
    )

    bm25 = calibadv_env.get_dataset("throughput").retriever("bm25")
    noting = NotingRetriever(bm25)
    play(make(noting), steps)
    batches = noting.batches
    num_queries = sum(map(len, batches))
    library = make_library_search(passages)
    env = make("bm25")
    play(env, steps)
    seconds: dict[str, list[float]] = {"library": [], "retriever": [], "env": []}
    for _ in range(args.repeats):
        seconds["library"].append(time_of(lambda: [library(batch) for batch in batches]))
        seconds["retriever"].append(time_of(lambda: [bm25.search(batch, 3) for batch in batches]))
        seconds["env"].append(play(env, steps))
    rates = {name: num_queries / min(times) for name, times in seconds.items()}
    print(
        f"with bm25s over {args.num_passages:,} passages: {rates['env']:,.0f} searches/s; "
        f"the library alone {rates['library']:,.0f}, ratio {rates['env'] / rates['library']:.2f} "
        f"(target {TARGET_RETRIEVAL_RATIO}); our retriever alone {rates['retriever']:,.0f}, "
        f"ratio {rates['env'] / rates['retriever']:.2f}"
    )


if __name__ == "__main__":
    main()
