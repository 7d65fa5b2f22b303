"""A scripted reader of pages: the oracle, and what it does when it errs.

It follows a task's gold sections one by one. A page that it has been led to, by its name in the
question, by a link or by the section before, is opened at once; any other is searched for first: by
what the question says of it, else by the title of its section. Where a section is cut before what
it is read for, it reads on. At the end it gives an accepted answer. With errors it opens another
section than the one it needs, or answers too early, with a number or name that it has read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np

from calibadv_env.common.checks import FRACTION, Checked
from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.demonstrations import Demonstration, Segment
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.answers import contains_words
from calibadv_env.protocol.pages import page_of
from calibadv_env.retrieval.corpus import Corpus

_NOTHING: Final = "unknown"
_MORE: Final = re.compile(r"\nMore at (\S+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig(Checked):
    """How the scripted reader errs; without errors it is the oracle.

    Attributes:
        stop_early: After each hop but the last: answer with what was read last.
        wrong_place: In each open: take the beginning of the page in place of the section.
        needless_search: Before an open that needs none: search all the same.
        rename: For each page of an episode: give it another page's name throughout, so that who
            learns from the episode learns to copy, not what stands where.
    """

    stop_early: Annotated[float, FRACTION] = 0.0
    wrong_place: Annotated[float, FRACTION] = 0.0
    needless_search: Annotated[float, FRACTION] = 0.0
    rename: Annotated[float, FRACTION] = 0.0


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
        is_led: Whether every section that it went to had been named to it, or stood among the hits
            of a search in the question's own words.
        demonstration: Its text.
    """

    task_id: str
    reward: float
    gold_recall: float
    num_turns: int
    is_led: bool
    demonstration: Demonstration


class _Reader:
    """One scripted episode."""

    def __init__(
        self, task: QATask, corpus: Corpus, config: ReaderConfig, rng: np.random.Generator
    ) -> None:
        self._question = task.question
        self._gold = [hop[0] for hop in task.gold_passages if hop]
        self._answer = task.golden_answers[0]
        self._sought = task.golden_answers[-1]
        self._corpus = corpus
        self._config = config
        self._rng = rng
        self._known = {page for page in map(page_of, self._gold) if self._is_named(page)}
        self._latest = _NOTHING
        self._last = ""
        self._more = ""
        self._is_early = False
        self._is_lost = False
        self.is_led = True
        """False once it has gone to a section that nothing it was shown had led it to."""

    def act(self, turns_left: int) -> str:
        """The next turn."""
        if self._is_early:
            return _turn("answer", f"found {self._latest}", self._latest)
        if self._more and turns_left > len(self._gold):
            return _turn("open", "read on", self._more)
        if not self._gold or turns_left == 0:
            return _turn("answer", f"found {self._answer}", self._answer)
        section = self._gold[0]
        page, title = page_of(section), self._title(section)
        is_known = page in self._known
        if not is_known or self._chance(self._config.needless_search):
            self._known.add(page)
            if turns_left > len(self._gold):
                words = self._described(section) or title
                self._is_lost = not is_known
                self.is_led = self.is_led and (is_known or words != title)
                return _turn("search", f"need {words}", words)
        if self._chance(self._config.wrong_place) and turns_left > len(self._gold):
            return _turn("open", f"read {title}", page)
        self._last = self._gold.pop(0)
        self._is_early = bool(self._gold) and self._chance(self._config.stop_early)
        return _turn("open", f"read {title}", section)

    def read(self, info: dict[str, Any]) -> None:
        """Takes in what came back."""
        self._known.update(page_of(link) for link in info["links"])
        if info["action"] == "search" and self._is_lost:
            self.is_led = self.is_led and self._gold[0] in info["passage_ids"]
            self._is_lost = False
        self._more = ""
        if info["opened_ids"]:
            shown = info["passages"][-1][1]
            words = shown.split("; ")[0].rpartition(": ")[2]
            self._latest = words[:60] or self._latest
            place = _MORE.search(info["results"][-1])
            if place is not None and not self._has_read(shown, info["links"]):
                self._more = place[1]

    def _has_read(self, shown: str, links: Sequence[str]) -> bool:
        """True if a section that was opened has shown what it was opened for."""
        if self._gold:
            page = page_of(self._gold[0])
            return page in self._known or page in map(page_of, links)
        return self._sought in shown or self._sought not in self._corpus.by_id(self._last).text

    def _title(self, section: str) -> str:
        return self._corpus.by_id(section).title.replace(": ", " ")

    def _is_named(self, page: str) -> bool:
        """True if the question names a page."""
        if page not in self._corpus:
            return False
        title = self._corpus.by_id(page).title.removesuffix(" (organization)")
        return contains_words(self._question, title)

    def _described(self, section: str) -> str:
        """Field and value by which the question describes the page of a section; "" for none."""
        passage = self._corpus.by_id(section)
        field = passage.title.partition(": ")[2]
        for part in passage.text.split("; "):
            value = part.rpartition(": ")[2]
            if value and contains_words(self._question, value):
                return f"{field} {value}"
        return ""

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
                    is_led=readers[slot].is_led,
                    demonstration=tuple(segments[slot]),
                )
                continue
            segments[slot].append(Segment(texts[slot], "observation"))
            readers[slot].read({key: infos[key][slot] for key in _READ_KEYS})
    return [outcome for outcome in outcomes if outcome is not None]


_READ_KEYS: Final = ("action", "links", "opened_ids", "passage_ids", "passages", "results")


class PageDemonstrator:
    """Plays scripted episodes on pages for ever, to be learned from.

    Left out are episodes in which the reader went where nothing had led it: who clones them would
    learn to guess.

    Args:
        env: Plays them.
        tasks: The tasks of its split.
        corpus: Its corpus.
        config: How to err, and how often to rename pages.
        rng: Source of all randomness.
    """

    def __init__(
        self,
        env: DeepSearchPagesVectorEnv,
        tasks: TaskSet,
        corpus: Corpus,
        *,
        config: ReaderConfig,
        rng: np.random.Generator,
    ) -> None:
        self._env = env
        self._tasks = tasks
        self._corpus = corpus
        self._config = config
        self._rng = rng
        self._names = page_names(corpus)
        self.num_played = 0
        self.num_left_out = 0

    def stream(self, *, max_hops: int | None = None) -> Iterator[Demonstration]:
        """Episodes of tasks of at most so many hops; None for all.

        Raises:
            ValueError: if no task is that short.
        """
        allowed = [i for i, task in enumerate(self._tasks) if not max_hops or task.hops <= max_hops]
        if not allowed:
            raise ValueError(f"max_hops must leave at least one task, got {max_hops}")
        while True:
            picks = [allowed[i] for i in self._rng.integers(len(allowed), size=self._env.num_envs)]
            seed = int(self._rng.integers(2**31))
            for each in play_readers(
                self._env, self._tasks, self._corpus, picks, self._config, seed
            ):
                self.num_played += 1
                if each.is_led:
                    yield renamed(each.demonstration, self._names, self._config.rename, self._rng)
                else:
                    self.num_left_out += 1


def page_names(corpus: Corpus) -> Mapping[str, str]:
    """Name -> id of every page that has several sections."""
    sizes = Counter(page_of(passage.id) for passage in corpus)
    pages = [page for page, size in sizes.items() if size > 1 and page in corpus]
    return {corpus.by_id(page).title: page for page in pages}


def renamed(
    demonstration: Demonstration,
    names: Mapping[str, str],
    probability: float,
    rng: np.random.Generator,
) -> Demonstration:
    """An episode in which pages bear the names and ids of others, the same throughout.

    Args:
        demonstration: The episode.
        names: Name -> id of pages.
        probability: For each page, that it gets another name.
        rng: Source of all randomness.
    """
    if not probability:
        return demonstration
    ids = {id_: name for name, id_ in names.items()}
    either = sorted({*names, *ids}, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, either))})(?![\w-])")
    text = "".join(segment.text for segment in demonstration)
    present = {names.get(found, found) for found in pattern.findall(text)}
    chosen = [page for page in sorted(present) if rng.random() < probability]
    free = [page for page in ids if page not in present]
    picked = rng.choice(len(free), size=min(len(chosen), len(free)), replace=False)
    new = {page: free[int(pick)] for page, pick in zip(chosen, picked, strict=False)}

    def other(match: re.Match[str]) -> str:
        word = match.group()
        page = names.get(word, word)
        if page not in new:
            return word
        return ids[new[page]] if word in names else new[page]

    return tuple(Segment(pattern.sub(other, each.text), each.kind) for each in demonstration)


def _turn(kind: str, thought: str, content: str) -> str:
    return f"<think> {thought}</think><{kind}> {content}</{kind}>"
