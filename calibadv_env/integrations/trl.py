"""The environments as TRL's ``environment_factory`` wants them: methods that a model calls.

TRL calls ``reset`` with a row of the data set, shows the model every public method as a tool and
hands the environments to the reward functions. The last message of the model is its answer. For
policies that write tags and call no tools there is ``calibadv_algo.integrations.trl``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium

from calibadv_env.errors import RetrieverError
from calibadv_env.integrations.common import is_of_pages

INSTRUCTION: Final = (
    "Answer the question. Where you lack knowledge, search for it, as often as you like. When you "
    "know enough, reply with the answer alone, short and without an explanation.\n\nQuestion: "
)
"""Instruction before the question if the data set's prompts are to be this."""

PAGE_INSTRUCTION: Final = (
    "Answer the question from a collection of pages. Search for sections, open pages or sections "
    "of them, and find words in the page that is open, as often as you like. When you know enough, "
    "reply with the answer alone: a number with its unit, several names with commas between them, "
    "and unanswerable if the pages do not say.\n\nQuestion: "
)
"""The same for environments of pages."""

_NO_SEARCH: Final = "No searches are left. Reply with the answer."
_FORBIDDEN: Final = ("<", ">")
_INFORMATION: Final = ("<information>", "</information>")


@dataclass(frozen=True, slots=True)
class ToolStep:
    """Outcome of one call.

    Attributes:
        action: The environment's input.
        observation: Its reply.
        reward: Its reward.
        info: Its facts, see ``calibadv_env.info.StepInfo``.
    """

    action: str
    observation: str
    reward: float
    info: Mapping[str, Any]


class SearchTools:
    """One episode at a time, as an object with a tool ``search``."""

    def __init__(self, env: gymnasium.Env[str, str]) -> None:
        self._env = env
        self._steps: list[ToolStep] = []
        self._failure: RetrieverError | None = None
        self._is_over = True

    def reset(self, task_index: int | None = None, seed: int | None = None, **_: Any) -> str:
        """Starts an episode.

        Args:
            task_index: Column of the data set that names the task; None draws one.
            seed: Column that seeds the draw.
            **_: The other columns.

        Returns:
            The question, which TRL appends to the prompt.
        """
        options = None if task_index is None else {"task_index": int(task_index)}
        info = self._env.reset(seed=seed, options=options)[1]
        self._steps = []
        self._failure = None
        self._is_over = False
        return str(info["question"])

    def search(self, query: str) -> str:
        """Searches an encyclopedia and returns the best passages.

        Args:
            query: What to search for, a few words.

        Returns:
            The passages, best first.
        """
        return self._call("search", query, "query")

    def _call(self, tag: str, argument: Any, name: str) -> str:
        """What the environment shows of a call, without the tags round it."""
        if self._is_over:
            return _NO_SEARCH
        if not isinstance(argument, str):
            raise ValueError(f"{name} must be a text, got {type(argument).__name__}")
        try:
            step = self._step(tag, argument)
        except RetrieverError as error:
            # TRL catches what a tool raises, so the episode is marked as lost instead.
            self._failure, self._is_over = error, True
            return _NO_SEARCH
        text = step.observation
        for tag in _INFORMATION:
            text = text.replace(tag, "")
        return text.strip() or _NO_SEARCH

    def _answer(self, text: str) -> float | None:
        """Ends the episode with an answer and says what it earned; None if it was lost."""
        if self._failure is not None:
            return None
        if not self._is_over:
            self._step("answer", text)
        return float(sum(step.reward for step in self._steps))

    def _step(self, tag: str, content: str) -> ToolStep:
        """One action; angle brackets are taken out, so that no text can end the action early."""
        for bracket in _FORBIDDEN:
            content = content.replace(bracket, " ")
        action = f"<think>\n</think>\n<{tag}> {content.strip()} </{tag}>"
        observation, reward, terminated, truncated, info = self._env.step(action)
        step = ToolStep(action, observation, float(reward), info)
        self._steps.append(step)
        self._is_over = bool(terminated or truncated)
        return step


class PageTools(SearchTools):
    """One episode at a time on pages: the tools are ``search``, ``open`` and ``find``."""

    def search(self, query: str) -> str:
        """Lists sections of pages that match.

        Args:
            query: What to search for, a few words.

        Returns:
            The sections, best first, each as page#section with its title and a piece of its text.
        """
        return self._call("search", query, "query")

    def open(self, page: str) -> str:
        """Reads a page, or a section of one.

        Args:
            page: Its name, or page#section, as it was shown.

        Returns:
            The text, the pages that it links to, and where it goes on.
        """
        return self._call("open", page, "page")

    def find(self, words: str) -> str:
        """Finds sentences in the page that was opened last.

        Args:
            words: What to look for.

        Returns:
            The sentences that hold most of the words, with their sections.
        """
        return self._call("find", words, "words")


def environment_factory(
    env_id: str = "calibadv_env:DeepSearch-Atlas-v1", **env_kwargs: Any
) -> Callable[[], SearchTools]:
    """The argument ``environment_factory`` of ``GRPOTrainer``, which makes one environment a call.

    The arguments are those of ``gymnasium.make``. An environment of pages gets three tools.
    """

    def make() -> SearchTools:
        env = gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
        return (PageTools if is_of_pages(env) else SearchTools)(env)

    return make


def answer_reward(
    completions: Sequence[Any], environments: Sequence[SearchTools], **_: Any
) -> list[float | None]:
    """A reward function: the environment grades the last message of each completion.

    Args:
        completions: Messages, the model's and the tools'; the last one is the answer. What it
            holds between ``<answer>`` and ``</answer>`` counts alone, if there is such a part.
        environments: As TRL hands them over, one a completion.
        **_: Other columns.

    Returns:
        One reward a completion, 0 where the turns were spent before; None where the retriever
        failed, which TRL leaves out of the comparison.
    """
    return [
        environment._answer(_final_text(messages))
        for messages, environment in zip(completions, environments, strict=True)
    ]


def _final_text(messages: Any) -> str:
    """The answer in a completion."""
    last = messages[-1] if messages else {}
    content = last.get("content") if last.get("role") == "assistant" else ""
    text = content if isinstance(content, str) else ""
    _, opened, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0] if opened else text
