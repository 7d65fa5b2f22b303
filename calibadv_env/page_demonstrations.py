"""A scripted reader of pages: the oracle, and what it does when it errs.

It follows a task's gold sections one by one. A page that it has been led to, by a link or by the
section before, is opened at once; any other is searched for first, by the title of its section. At
the end it gives an accepted answer. With errors it opens another section than the one it needs, or
answers too early, with a number or name that it has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np

from calibadv_env.common.checks import FRACTION, Checked
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.demonstrations import Demonstration, Segment
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.pages import page_of
from calibadv_env.retrieval.corpus import Corpus

_NOTHING: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig(Checked):
    """How the scripted reader errs; without errors it is the oracle.

    Attributes:
        stop_early: After each hop but the last: answer with what was read last.
        wrong_place: In each open: take the beginning of the page in place of the section.
        needless_search: Before an open that needs none: search all the same.
    """

    stop_early: Annotated[float, FRACTION] = 0.0
    wrong_place: Annotated[float, FRACTION] = 0.0
    needless_search: Annotated[float, FRACTION] = 0.0


ORACLE: Final = ReaderConfig()
"""Reads every gold section, then gives an accepted answer."""

IMPERFECT: Final = ReaderConfig(stop_early=0.2, wrong_place=0.15, needless_search=0.2)
"""Errors of demonstrations: they leave something to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderOutcome:
    """What became of one scripted episode.

    Attributes:
        task_id: Its task.
        reward: What it earned.
        gold_recall: Share of the hops that were read.
        num_turns: Turns that it took.
        demonstration: Its text.
    """

    task_id: str
    reward: float
    gold_recall: float
    num_turns: int
    demonstration: Demonstration


class _Reader:
    """One scripted episode."""

    def __init__(
        self, task: QATask, corpus: Corpus, config: ReaderConfig, rng: np.random.Generator
    ) -> None:
        self._gold = [hop[0] for hop in task.gold_passages if hop]
        self._answer = task.golden_answers[0]
        self._corpus = corpus
        self._config = config
        self._rng = rng
        self._known: set[str] = set()
        self._latest = _NOTHING
        self._is_early = False

    def act(self, turns_left: int) -> str:
        """The next turn."""
        if self._is_early:
            return _turn("answer", f"found {self._latest}", self._latest)
        if not self._gold or turns_left == 0:
            return _turn("answer", f"found {self._answer}", self._answer)
        section = self._gold[0]
        title = self._corpus.by_id(section).title.replace(": ", " ")
        is_known = page_of(section) in self._known
        if not is_known or self._chance(self._config.needless_search):
            self._known.add(page_of(section))
            if turns_left > len(self._gold):
                return _turn("search", f"need {title}", title)
        if self._chance(self._config.wrong_place) and turns_left > len(self._gold):
            return _turn("open", f"read {title}", page_of(section))
        self._gold.pop(0)
        self._is_early = bool(self._gold) and self._chance(self._config.stop_early)
        return _turn("open", f"read {title}", section)

    def read(self, info: dict[str, Any]) -> None:
        """Takes in what came back."""
        self._known.update(page_of(link) for link in info["links"])
        if info["opened_ids"]:
            words = info["passages"][-1][1].split("; ")[0].rpartition(": ")[2]
            self._latest = words[:60] or self._latest

    def _chance(self, probability: float) -> bool:
        return probability > 0 and bool(self._rng.random() < probability)


def play_readers(
    env: DeepSearchPagesVectorEnv,
    tasks: TaskSet,
    corpus: Corpus,
    indices: Sequence[int],
    config: ReaderConfig = ORACLE,
    seed: int = 0,
) -> list[ReaderOutcome]:
    """Plays a scripted episode of each task, as many side by side as the environment has slots.

    Args:
        env: Plays them; it has the same tasks.
        tasks: The tasks of its split.
        corpus: Its corpus.
        indices: Which tasks.
        config: How to err.
        seed: Seed of the errors.

    Returns:
        One outcome a task, in order.
    """
    rng = np.random.default_rng(seed)
    outcomes: list[ReaderOutcome] = []
    for start in range(0, len(indices), env.num_envs):
        batch = list(indices[start : start + env.num_envs])
        # The last batch may be short; what further slots play is not looked at.
        padded = batch + batch[:1] * (env.num_envs - len(batch))
        readers = [_Reader(tasks[i], corpus, config, rng) for i in padded]
        outcomes += _play(env, readers, padded)[: len(batch)]
    return outcomes


def _play(
    env: DeepSearchPagesVectorEnv, readers: Sequence[_Reader], indices: Sequence[int]
) -> list[ReaderOutcome]:
    """Plays one episode in every slot."""
    texts, reset_infos = env.reset(options={"task_index": list(indices)})
    segments = [[Segment(text, "prompt")] for text in texts]
    left = [int(each) for each in reset_infos["max_turns"]]
    outcomes: list[ReaderOutcome | None] = [None] * len(readers)
    while any(outcome is None for outcome in outcomes):
        actions: list[str | None] = [
            reader.act(left[slot]) if outcomes[slot] is None else None
            for slot, reader in enumerate(readers)
        ]
        texts, rewards, terminated, truncated, infos = env.step(actions)
        for slot, action in enumerate(actions):
            if action is None:
                continue
            segments[slot].append(Segment(action, "action"))
            left[slot] -= 1
            if terminated[slot] or truncated[slot]:
                outcomes[slot] = ReaderOutcome(
                    task_id=str(infos["task_id"][slot]),
                    reward=float(rewards[slot]),
                    gold_recall=float(infos["gold_recall"][slot]),
                    num_turns=int(infos["turn"][slot]),
                    demonstration=tuple(segments[slot]),
                )
                continue
            segments[slot].append(Segment(texts[slot], "observation"))
            readers[slot].read({key: infos[key][slot] for key in _READ_KEYS})
    return [outcome for outcome in outcomes if outcome is not None]


_READ_KEYS: Final = ("links", "opened_ids", "passages")


def _turn(kind: str, thought: str, content: str) -> str:
    return f"<think> {thought}</think><{kind}> {content}</{kind}>"
