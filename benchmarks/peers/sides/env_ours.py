"""Our environment with all its facts; retrieval costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium

import calibadv_env
from benchmarks.peers.sides.actions import NUM_QUESTIONS, PASSAGES, answer, episode, question
from benchmarks.peers.worker import Turns
from calibadv_env.data.base import QATask
from calibadv_env.protocol.passages import Passage, ScoredPassage


class _Constant:
    """Retriever of passages that were made beforehand."""

    def __init__(self) -> None:
        passages = [Passage(f"p{number}", *each) for number, each in enumerate(PASSAGES)]
        self.passages = passages
        self._lists = [
            [ScoredPassage(passages[(start + k) % len(passages)], 1.0 - 0.1 * k) for k in range(3)]
            for start in range(len(passages))
        ]
        self._calls = 0

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """The next lists in turn."""
        del top_k
        first = self._calls
        self._calls += len(queries)
        return [self._lists[(first + k) % len(self._lists)] for k in range(len(queries))]


def run(options: dict[str, Any], turns: Turns) -> None:
    """Plays episodes one by one, or in so many slots."""
    retriever = _Constant()
    tasks = [
        QATask(
            id=f"t{number}",
            question=question(number),
            golden_answers=(answer(number),),
            gold_passages=((f"p{number % 30}",),),
            hops=1,
        )
        for number in range(NUM_QUESTIONS)
    ]
    dataset = calibadv_env.register_dataset("peers", {"train": tasks}, corpus=retriever.passages)
    del dataset
    episodes = [episode(n, options["searches"]) for n in range(options["episodes"])]
    kwargs = {"dataset": "peers", "retriever": retriever, "max_turns": options["searches"] + 1}
    if options.get("slots"):
        work = _vector(episodes, options["slots"], kwargs)
    else:
        work = _single(episodes, kwargs)
    turns.repeat({"": work})


def _single(episodes: list[list[str]], kwargs: dict[str, Any]) -> Any:
    env = gymnasium.make("DeepSearch-v1", **kwargs)

    def work() -> int:
        steps = 0
        for number, actions in enumerate(episodes):
            env.reset(options={"task_index": number % NUM_QUESTIONS})
            for action in actions:
                done = env.step(action)[2]
                steps += 1
            assert done
        return steps

    return work


def _vector(episodes: list[list[str]], slots: int, kwargs: dict[str, Any]) -> Any:
    env = gymnasium.make_vec(
        "DeepSearch-v1", num_envs=slots, vectorization_mode="vector_entry_point", **kwargs
    )

    def work() -> int:
        steps = 0
        for begin in range(0, len(episodes), slots):
            chosen = episodes[begin : begin + slots]
            indices = [(begin + k) % NUM_QUESTIONS for k in range(slots)]
            env.reset(options={"task_index": indices})
            for actions in zip(*chosen, strict=True):
                terminated = env.step(list(actions))[2]
                steps += slots
            assert terminated.all()
        return steps

    return work
