"""Judges that look back on finished episodes and call each search good or bad (CriticSearch).

A judge sees more than the policy did: the whole episode and the accepted answers. Its labels are
credit: :class:`JudgeCredit` makes a correctness matrix of them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Float

from calibadv_algo.credit.base import SCORED_BAD, CreditRule, search_mask
from calibadv_algo.credit.facts import fact
from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.chat import ChatClient
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.common.http import CallError, HttpSettings, require_http

Label = bool | None
"""Verdict on a turn: good, bad, or None where there is none."""

INSTRUCTION: Final = (
    "You review, after the fact, how an agent searched for the answer to a question. You know the "
    "accepted answers; the agent did not. Judge every search turn. A search is good if, given "
    "what the agent knew by then, its query was sensible and its results brought it nearer to "
    "the answer. It is bad if it repeats an earlier one, misses the point, or finds nothing of "
    "use. Judge each search for itself: a wrong final answer does not make it bad.\n\n"
    "Reply with one line for each search turn and nothing else, in this form:\n"
    "Turn 1: good\n"
    "Turn 2: bad\n"
)
"""Instruction for a language model. Own wording: the published prompt could not be found."""

_VERDICT: Final = re.compile(r"\bturn\s*\**\s*(\d+)\s*\**\s*[:=\-]\s*\**\s*(good|bad)\b", re.I)


class JudgeError(CalibadvAlgoError):
    """A judge could not be reached, or answered something that is no completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Checked, ABC):
    """Base of judges, which label the turns of finished episodes."""

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the turns' ``info`` must hold."""
        return frozenset()

    @abstractmethod
    def judge(self, trajectories: Sequence[Trajectory]) -> list[list[Label]]:
        """One label a turn for every trajectory; those of turns that do not search are not read.

        Raises:
            JudgeError: if the judge failed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedJudge(Judge):
    """A judge without a model, for tests and for tasks that name their evidence.

    Attributes:
        rule: Calls a search good if it is the first to find a gold passage (``gold``), or if
            its passages hold an accepted answer (``answer``).
    """

    rule: Literal["gold", "answer"] = "gold"

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The fact that the rule looks at."""
        return frozenset({"gold_new" if self.rule == "gold" else "answer_in_passages"})

    def judge(self, trajectories: Sequence[Trajectory]) -> list[list[Label]]:
        """Labels by the rule."""
        (key,) = self.required_info_keys
        labels: list[list[Label]] = []
        for trajectory in trajectories:
            labels.append([bool(fact(turn, key, "ScriptedJudge")) for turn in trajectory.turns])
        return labels


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmJudge(Judge):
    """A language model behind any server with OpenAI's route ``/chat/completions``.

    Every trajectory is one request; equal ones are asked once. A reply without a verdict on a
    turn leaves that turn without a label.

    Attributes:
        base_url: Such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        api_key_variable: Name of the environment variable that holds the key. It is read at each
            call and never stored; without the variable none is sent.
        temperature: Sampling temperature.
        max_tokens: Most tokens of a reply.
        timeout_s: Longest wait for one reply.
        max_retries: Repetitions after the first failure.
        backoff_s: Seconds before the first repetition; doubled for each further one, up to 8, and
            shortened by up to half at random.
        max_concurrency: Most requests at one time.
        on_failure: Effect of a judge that cannot be reached: it ends the run, or its trajectory
            goes without labels.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    model: str = "default"
    api_key_variable: str = "OPENAI_API_KEY"
    temperature: Annotated[float, NOT_NEGATIVE] = 0.0
    max_tokens: Annotated[int, POSITIVE] = 512
    timeout_s: Annotated[float, POSITIVE] = 120.0
    max_retries: Annotated[int, NOT_NEGATIVE] = 3
    backoff_s: Annotated[float, NOT_NEGATIVE] = 1.0
    max_concurrency: Annotated[int, POSITIVE] = 16
    on_failure: Literal["raise", "exclude"] = "raise"

    def __post_init__(self) -> None:
        """Checks ranges, choices and the address."""
        Judge.__post_init__(self)
        require_http(base_url=self.base_url)

    def judge(self, trajectories: Sequence[Trajectory]) -> list[list[Label]]:
        """Labels by the language model.

        Raises:
            JudgeError: if the server could not be reached or did not send a completion.
            ImportError: if httpx is not installed.
        """
        replies = self.replies([transcript(each) for each in trajectories], INSTRUCTION)
        return [
            read_verdicts(reply, len(each.turns))
            for reply, each in zip(replies, trajectories, strict=True)
        ]

    def replies(self, texts: Sequence[str], instruction: str) -> list[str]:
        """One reply for every text behind an instruction; equal texts are asked about once.

        Raises:
            JudgeError: if the server could not be reached or did not send a completion.
            ImportError: if httpx is not installed.
        """
        distinct = list(dict.fromkeys(texts))
        with self._chat() as chat:
            found = chat.map(lambda text: self._ask(chat, instruction + "\n" + text), distinct)
        by_text = dict(zip(distinct, found, strict=True))
        return [by_text[text] for text in texts]

    def _chat(self) -> ChatClient:
        return ChatClient(
            self.base_url,
            self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            key_variable=self.api_key_variable,
            settings=HttpSettings(
                timeout_s=self.timeout_s,
                max_retries=self.max_retries,
                backoff_s=self.backoff_s,
                max_concurrency=self.max_concurrency,
            ),
        )

    def _ask(self, chat: ChatClient, text: str) -> str:
        """One reply, "" where a failure excludes."""
        try:
            return chat.answer(text)
        except CallError as error:
            if self.on_failure == "exclude":
                return ""
            raise JudgeError(f"no verdict: {error}") from error.__cause__


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCredit(CreditRule):
    """Correctness by a judge: 1 for a good search, ``SCORED_BAD`` for a bad one.

    **Source:** CriticSearch: a critic that sees the whole episode and the gold answer labels
    every turn after the fact, and the labels become dense rewards. Its prompt and its numbers
    could not be found in a stored text; the wording and the two values are ours.

    Attributes:
        judge: Source of the labels.
    """

    judge: Judge = field(default_factory=ScriptedJudge)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """The kind of every action, and what the judge needs."""
        return frozenset({"action"}) | self.judge.required_info_keys

    def __call__(self, group: Group) -> Float[np.ndarray, "group turn"]:
        """Correctness of every search, NaN where the judge gave no label.

        Raises:
            JudgeError: if the judge failed, or gave something that is no label.
        """
        is_search = search_mask(group, "JudgeCredit")
        correctness = np.full(is_search.shape, np.nan)
        for row, labels in enumerate(self.judge.judge(group.trajectories)):
            for column, label in enumerate(labels):
                if label not in (True, False, None):
                    raise JudgeError(
                        f"a label must be True, False or None, got {label!r} at turn {column + 1} "
                        f"of task {group.trajectories[row].task_id!r}"
                    )
                if is_search[row, column] and label is not None:
                    correctness[row, column] = 1.0 if label else SCORED_BAD
        return correctness


def transcript(trajectory: Trajectory, *, has_answers: bool = True) -> str:
    """An episode as a judge reads it: question, accepted answers, turns numbered from 1.

    Where ``reset`` reported no question the prompt stands for it. Without ``has_answers`` the
    accepted answers are left out.
    """
    info = trajectory.reset_info
    golden = " | ".join(str(answer) for answer in info.get("golden_answers", ()))
    parts = [f"Question: {info.get('question', trajectory.prompt_text)}"]
    if golden and has_answers:
        parts.append(f"Accepted answers: {golden}")
    for number, turn in enumerate(trajectory.turns, start=1):
        parts.append(f"Turn {number}, agent:\n{turn.action_text.strip()}")
        if turn.observation_text.strip():
            parts.append(f"Turn {number}, results:\n{turn.observation_text.strip()}")
    return "\n\n".join(parts) + "\n"


def read_verdicts(reply: str, num_turns: int) -> list[Label]:
    """One label a turn from a reply: the last verdict on it, None where there is none.

    Verdicts are lines such as ``Turn 3: good``; other text is passed over.
    """
    labels: list[Label] = [None] * num_turns
    for match in _VERDICT.finditer(reply):
        # A number of hundreds of digits is no turn, and int() would refuse it.
        if len(match[1]) < 10 and 1 <= int(match[1]) <= num_turns:
            labels[int(match[1]) - 1] = match[2].lower() == "good"
    return labels
