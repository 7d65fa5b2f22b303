"""Many episodes on pages at a time: the shell of :mod:`calibadv_env.vector` round other rules."""

from __future__ import annotations

from typing import ClassVar

from calibadv_env.data.registry import Dataset
from calibadv_env.dynamics import InvalidAction
from calibadv_env.env import RenderMode, World
from calibadv_env.graders.base import Grader
from calibadv_env.pages.dynamics import PagesConfig
from calibadv_env.pages.env import PagesWorld
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.retrieval.base import Retriever
from calibadv_env.rewards import CoverEm
from calibadv_env.vector import DeepSearchVectorEnv


class DeepSearchPagesVectorEnv(DeepSearchVectorEnv):
    """``num_envs`` episodes of :class:`calibadv_env.pages.env.DeepSearchPagesEnv` in one process.

    Slots are those of :class:`calibadv_env.vector.DeepSearchVectorEnv`. The calls of one kind of a
    step go to the pages together.

    :class:`calibadv_env.pages.env.DeepSearchPagesEnv` says more about each argument.

    Args:
        num_envs: Number of slots, at least 1.
        dataset: Name of a dataset, or a ``Dataset``.
        split: Name of its split, or "eval" for the one to evaluate on.
        retriever: Searches the sections; or an object that also opens and finds.
        top_k: Sections that a search lists.
        max_turns: Turns with calls in an episode, at most.
        max_calls: Calls a turn, at most.
        call_budget: Calls an episode, at most.
        char_budget: Characters of results an episode, at most.
        reward: What an answer earns: "typed", a metric, or a grader.
        format_gate: Whether an ill-formed response earns nothing.
        invalid_action: "end" or "continue" after a malformed action.
        prompt: Name of the instruction, or a template that holds ``{question}``.
        prepend_think: Whether observations end with ``<think>``; actions then come without it.
        max_observation_chars: Most characters of results in an observation.
        cover_em: What the reward "cover_em" pays: "words" or "substring".
        normalizer: Normal form of answers: "squad", "unicode" or "auto".
        render_mode: "ansi" for a transcript, or None.

    Raises:
        ValueError: if an argument is out of its range or names nothing that exists.
    """

    world_class: ClassVar[type[World]] = PagesWorld

    def __init__(
        self,
        num_envs: int = 1,
        *,
        dataset: str | Dataset = "pages",
        split: str = "train",
        retriever: str | Retriever = "bm25",
        top_k: int = 5,
        max_turns: int = 12,
        max_calls: int = 1,
        call_budget: int = 50,
        char_budget: int = 50_000,
        reward: str | Grader = "typed",
        format_gate: bool = True,
        invalid_action: InvalidAction = "end",
        prompt: str = "pages",
        prepend_think: bool = False,
        max_observation_chars: int = 1000,
        cover_em: CoverEm = "words",
        normalizer: Normalizer = "unicode",
        render_mode: RenderMode | None = None,
    ) -> None:
        config = PagesConfig(
            max_turns=max_turns,
            top_k=top_k,
            max_calls=max_calls,
            call_budget=call_budget,
            char_budget=char_budget,
            reward=reward,
            format_gate=format_gate,
            invalid_action=invalid_action,
            prompt=prompt,
            prepend_think=prepend_think,
            max_observation_chars=max_observation_chars,
            cover_em=cover_em,
            normalizer=normalizer,
        )
        self._start(num_envs, (dataset, split, retriever, config), render_mode)
