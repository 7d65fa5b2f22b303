"""Demonstrations on the built-in pages, as `calibadv warmstart` clones them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from calibadv_algo.training.config import EnvConfig
from calibadv_env.data.base import TaskSet
from calibadv_env.data.names import PAGES
from calibadv_env.data.registry import Dataset
from calibadv_env.demonstrations import Demonstration
from calibadv_env.page_demonstrations import PageDemonstrator, ReaderConfig
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.page_actions import PAGE_TAG

NUM_SLOTS: Final = 96
"""Scripted episodes that are played side by side."""
NUM_READ: Final = 1500
"""Episodes that the tokenizer is trained on."""
MAX_TOKENS: Final = 80
"""Most tokens of a turn: names of pages and sections are long."""

READER: Final = ReaderConfig(stop_early=0.25, wrong_place=0.08, needless_search=0.08, rename=0.8)
"""How the reader errs whose episodes are cloned."""

_PIECES: Final = ("<open>", "</open>", "<find>", "</find>", "\nMore at ", "\nLinks: ")
"""What policies of passages never read or write, one token each."""


def is_of_pages(dataset: str) -> bool:
    """True for a dataset that is searched and opened, not only searched."""
    return dataset in PAGES


def pages_env(dataset: str, split: str, top_k: int, max_turns: int, max_chars: int) -> EnvConfig:
    """The environment that a policy of pages is made and scored in."""
    return EnvConfig(
        env_id="calibadv_env:DeepSearch-Pages-v0",
        dataset=dataset,
        split=split,
        prompt="question",
        reward="typed",
        top_k=top_k,
        max_turns=max_turns,
        max_observation_chars=max_chars,
    )


class Episodes:
    """Streams of demonstrations, and the texts in them."""

    def __init__(self, demonstrator: PageDemonstrator) -> None:
        self._demonstrator = demonstrator

    def __call__(self, max_hops: int | None) -> Iterator[Demonstration]:
        """Endless episodes; ``max_hops=1`` stands for the shortest questions, of two sections."""
        return self._demonstrator.stream(max_hops=None if max_hops is None else max_hops + 1)

    def texts(self) -> list[str]:
        """What is read and written in some episodes, without tags."""
        stream = self(None)
        played = [next(stream) for _ in range(NUM_READ)]
        return [PAGE_TAG.sub("", segment.text) for each in played for segment in each]


def page_episodes(dataset: Dataset, env: EnvConfig, reader: ReaderConfig, seed: int) -> Episodes:
    """Episodes of a scripted reader on the tasks of an environment's split."""
    given = {name: value for name, value in env.kwargs().items() if name != "dataset"}
    return Episodes(
        PageDemonstrator(
            DeepSearchPagesVectorEnv(NUM_SLOTS, dataset=dataset, **given),
            dataset.tasks(env.split),
            dataset.corpus(),
            config=reader,
            rng=np.random.default_rng([seed, 1]),
        )
    )


def phrases(tasks: TaskSet) -> list[str]:
    """Pieces of text that become one token: tags of pages, and ids of the sections to read."""
    sections = {hop[0].partition("#")[2] for task in tasks for hop in task.gold_passages}
    return [*_PIECES, *(f"#{section}" for section in sorted(sections) if section)]
