"""A searcher that knows each question's chain: the most that searching can bring in a world.

It asks for one fact a turn in the words of the chain, asks again in other words where a search
misses, and answers rightly once every hop was found. Where the chain breaks off, as in a question
that the corpus does not answer, or where its turns run out, it says that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibadv_env.data.base import QATask
from calibadv_env.data.evidence import chain_of, gold_hops
from calibadv_env.demonstrations import answer_action
from calibadv_env.vector import DeepSearchVectorEnv

WORDINGS: Final = ("{subject} {relation}", "{relation} of {subject}", "{subject} its {relation}")
"""Queries for a fact, in the order in which they are tried."""
NOT_KNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class OracleEpisode:
    """What became of a question.

    Attributes:
        reward: Its return.
        f1: F1 of the answer.
        num_searches: Searches carried out.
        num_hits: Those that found the hop that they were for.
        is_first_hit: Whether the first search did; False where none was made.
    """

    reward: float
    f1: float
    num_searches: int
    num_hits: int
    is_first_hit: bool


class _Oracle:
    """One episode: what to ask next."""

    def __init__(self, task: QATask) -> None:
        self._chain = chain_of(task, "subject", "relation")
        self._golds = gold_hops(task)
        self._answer = task.golden_answers[0]
        self._is_whole = len(self._chain) == task.hops == len(self._golds)
        self._hop = 0
        self._tries = 0
        self._question = task.question
        self.has_searched = False
        self.hits: list[bool] = []

    def act(self, searches_left: int) -> str:
        if self._hop == len(self._chain):
            if self._is_whole:
                return answer_action(self._answer)
            # An episode without any search is ill-formed, so the question itself is asked once.
            return answer_action(NOT_KNOWN) if self.has_searched else _search(self._question)
        if not searches_left or self._tries == len(WORDINGS):
            return answer_action(NOT_KNOWN)
        hop = self._chain[self._hop]
        query = WORDINGS[self._tries].format(subject=hop["subject"], relation=hop["relation"])
        return _search(query)

    def read(self, passage_ids: Sequence[str]) -> None:
        self.has_searched = True
        if self._hop == len(self._golds):
            return
        is_hit = not set(passage_ids).isdisjoint(self._golds[self._hop])
        self.hits.append(is_hit)
        self._hop += is_hit
        self._tries = 0 if is_hit else self._tries + 1


def _search(query: str) -> str:
    return f"<think> need {query}</think><search> {query}</search>"


def play_oracle(
    env: DeepSearchVectorEnv, tasks: Sequence[QATask], indices: Sequence[int]
) -> list[OracleEpisode]:
    """Plays questions of an environment.

    Args:
        env: The environment, whose tasks are these; its prompt's grammar has tags.
        tasks: Its split.
        indices: Which to play.

    Returns:
        One episode each, in order.
    """
    episodes: list[OracleEpisode] = []
    for first in range(0, len(indices), env.num_envs):
        chunk = list(indices[first : first + env.num_envs])
        filled = chunk + [chunk[-1]] * (env.num_envs - len(chunk))
        episodes += _play(env, [tasks[i] for i in filled], filled)[: len(chunk)]
    return episodes


def _play(
    env: DeepSearchVectorEnv, tasks: Sequence[QATask], indices: Sequence[int]
) -> list[OracleEpisode]:
    _, reset_info = env.reset(options={"task_index": list(indices)})
    budget = int(reset_info["max_turns"][0])
    oracles = [_Oracle(task) for task in tasks]
    outcomes: dict[int, tuple[float, float, int]] = {}
    is_running = np.ones(len(tasks), dtype=bool)
    turn = 0
    while is_running.any():
        actions = [
            oracle.act(budget - turn) if running else ""
            for oracle, running in zip(oracles, is_running, strict=True)
        ]
        _, rewards, terminated, truncated, infos = env.step(actions)
        turn += 1
        is_over = terminated | truncated
        for slot in np.flatnonzero(is_running):
            if is_over[slot]:
                outcomes[int(slot)] = (
                    float(rewards[slot]),
                    float(infos["f1"][slot]),
                    int(infos["num_searches"][slot]),
                )
            else:
                oracles[slot].read(infos["passage_ids"][slot])
        is_running &= ~is_over
    return [
        OracleEpisode(*outcomes[slot], sum(oracle.hits), bool(oracle.hits and oracle.hits[0]))
        for slot, oracle in enumerate(oracles)
    ]
