"""What stands behind docs/pages.md: the audit of the built-in pages, and the environment's speed.

python benchmarks/pages.py                 # audit of the test split
python benchmarks/pages.py --split train
python benchmarks/pages.py --speed         # steps a second without the pages' own time
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import mean

import gymnasium
import numpy as np
from env_throughput import TARGET_STEPS_PER_S, ConstantRetriever, make_world, play, script

import calibadv_env
from calibadv_env import get_dataset
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.dynamics import TaskFacts
from calibadv_env.graders.base import Episode
from calibadv_env.graders.typed import Typed
from calibadv_env.page_demonstrations import IMPERFECT, ORACLE, play_readers
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.pages import Found, Opened, Shown
from calibadv_env.protocol.passages import Passage, ScoredPassage

NUM_SLOTS = 64


def kinds_of(tasks: Sequence[QATask]) -> list[str]:
    return [str(task.metadata["kind"]) for task in tasks]


def print_row(name: str, kinds: Sequence[str], values: Sequence[float]) -> None:
    rows = defaultdict(list)
    for kind, value in zip(kinds, values, strict=True):
        rows[kind].append(value)
    parts = " | ".join(f"{kind} {mean(each):.3f}" for kind, each in sorted(rows.items()))
    print(f"{name} | {mean(values):.3f} | {parts}")


def closed_book(train: Sequence[QATask], tasks: Sequence[QATask]) -> list[float]:
    """Rewards of the best constant answer for each kind of question and of answer."""

    def key(task: QATask) -> tuple[str, str]:
        return str(task.metadata["kind"]), str(task.metadata["answer_kind"])

    def grade(task: QATask, answer: str) -> float:
        facts = TaskFacts.of(task, index=0, num_tasks=1)
        return Typed()(facts, answer, Episode())

    groups = defaultdict(list)
    for task in train:
        groups[key(task)].append(task)
    best = {}
    for name, group in groups.items():
        answers = [a for a, _ in Counter(t.golden_answers[0] for t in group).most_common(8)]
        best[name] = max(answers, key=lambda a, g=group: sum(grade(t, a) for t in g[:300]))
    return [grade(task, best[key(task)]) for task in tasks]


def one_search(split: str, tasks: TaskSet) -> list[float]:
    """Where the answer stands in what a search for the question shows: an upper bound of RAG."""
    env = DeepSearchPagesVectorEnv(NUM_SLOTS, split=split)
    found: list[float] = []
    for start in range(0, len(tasks), NUM_SLOTS):
        indices = [min(start + i, len(tasks) - 1) for i in range(NUM_SLOTS)]
        env.reset(options={"task_index": indices})
        actions = [f"<think>t</think><search>{tasks[i].question}</search>" for i in indices]
        *_, infos = env.step(actions)
        for slot, index in enumerate(indices[: len(tasks) - start]):
            meta = tasks[index].metadata
            is_read_off = not meta["is_computed"] and meta["kind"] != "unanswerable"
            found.append(float(infos["answer_in_passages"][slot] and is_read_off))
    return found


def audit(split: str) -> None:
    data = get_dataset("pages")
    tasks, corpus = data.tasks(split), data.corpus()
    kinds = kinds_of(tasks)
    print(f"{len(corpus)} sections; {split}: {len(tasks)} questions, {dict(Counter(kinds))}")
    for name, config in (("scripted oracle", ORACLE), ("scripted, with errors", IMPERFECT)):
        env = DeepSearchPagesVectorEnv(NUM_SLOTS, split=split)
        outcomes = play_readers(env, tasks, corpus, range(len(tasks)), config)
        print_row(name, kinds, [each.reward for each in outcomes])
        print(f"  turns {mean(each.num_turns for each in outcomes):.1f}")
    print_row("one search, answer shown", kinds, one_search(split, tasks))
    print_row("best constant answer", kinds, closed_book(list(data.tasks("train")), tasks))


class InstantPages:
    """Pages that answer everything alike at once: what is left is the environment's own time."""

    def __init__(self) -> None:
        passage = Passage("norway#area", "Norway: Area", "total: 323,802 sq km; " * 20)
        shown = Shown(passage.id, passage.title, passage.text)
        self._hits = [ScoredPassage(passage, 1.0)] * 5
        self._opened = Opened("norway", (shown,), "norway#coastline")
        self._found = Found("norway", (shown,))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """The same hits for every query."""
        return [self._hits for _ in queries]

    def open(self, places: Sequence[str], max_chars: int = 1000) -> list[Opened]:
        """The same section for every place."""
        return [self._opened for _ in places]

    def find(self, requests: Sequence[tuple[str, str]], max_chars: int = 1000) -> list[Found]:
        """The same sentence for every request."""
        return [self._found for _ in requests]


def page_script(rng: np.random.Generator, num_envs: int, num_steps: int) -> list[list[str]]:
    """Turns of episodes as the oracle plays them: five or six calls of all kinds, an answer."""
    steps: list[list[str]] = [[] for _ in range(num_steps)]
    for _ in range(num_envs):
        left = int(rng.integers(3, 9))
        for step in steps:
            number = int(rng.integers(10_000))
            think = f"<think>I read section {number} for the land area of its page</think>"
            kind = ("search", "open", "open", "find")[number % 4]
            words = f"norway#area@{number}" if kind == "open" else f"area of Norway {number}"
            step.append(
                f"{think}<{kind if left else 'answer'}>{words}</{kind if left else 'answer'}>"
            )
            left = left - 1 if left else int(rng.integers(3, 9))
    return steps


def speed() -> None:
    """Steps a second with pages that answer at once, beside the environment of passages."""
    rng = np.random.default_rng(0)
    tasks, passages = make_world(rng, 10_000)
    calibadv_env.register_dataset("throughput", tasks, passages)
    plain = gymnasium.make_vec(
        "calibadv_env:DeepSearch-v1",
        NUM_SLOTS,
        dataset="throughput",
        retriever=ConstantRetriever(passages),
    )
    pages = DeepSearchPagesVectorEnv(NUM_SLOTS, retriever=InstantPages(), max_observation_chars=400)
    steps, page_steps = script(rng, NUM_SLOTS, 50), page_script(rng, NUM_SLOTS, 50)
    times = [(play(plain, steps), play(pages, page_steps)) for _ in range(8)]
    passages_s, pages_s = (NUM_SLOTS * 50 / min(column) for column in zip(*times, strict=True))
    print(
        f"pages: {pages_s:,.0f} steps a second, {pages_s / TARGET_STEPS_PER_S:.2f} x the target of "
        f"{TARGET_STEPS_PER_S:,}; passages: {passages_s:,.0f}, ratio {pages_s / passages_s:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    speed() if options.speed else audit(options.split)


if __name__ == "__main__":
    main()
