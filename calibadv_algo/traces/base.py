"""Logged rollouts before they become trajectories, and the finding of fields in a log."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_env.protocol.toolcalls import PlainText, ToolGrammar

TraceFormat = Literal["search-r1", "messages", "verifiers"]
"""Formats of logs that can be read."""

SCORE_KEYS: Final = ("score", "reward", "scores", "rewards")
ANSWER_KEYS: Final = (
    "golden_answers",
    "ground_truth",
    "gts",
    "answers",
    "target",
    "reward_model.ground_truth",
    "extra_info.golden_answers",
    "info.golden_answers",
    "info.answers",
    "answer",
)
STEP_KEYS: Final = ("step", "global_step", "global_steps", "training_step", "update")
GROUP_KEYS: Final = (
    "uid",
    "group_id",
    "group_uid",
    "prompt_id",
    "example_id",
    "question_id",
    "index",
    "extra_info.index",
)
"""Fields that say which rollouts belong together, the most telling first."""

QUESTION_KEYS: Final = ("question", "extra_info.question", "info.question", "query")


class TraceError(CalibadvAlgoError):
    """A log cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How turns of a log are read, and how their tokens are counted.

    Attributes:
        grammar: Names of tools and arguments; turns without calls are read in tags.
        encode: Token ids of a text.
        tokenizer: Name of what ``encode`` goes by.
    """

    grammar: ToolGrammar
    encode: Callable[[str], Sequence[int]]
    tokenizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTurn:
    """One turn of a log.

    Attributes:
        action: What the policy wrote: text, or an assistant message with tool calls.
        text: The same as text, for display and for the number of its tokens.
        observation: What came back, "" for nothing.
        action_ids: Its tokens where the log has them, else empty.
        logprobs: Their log-probabilities where the log has them, else empty.
    """

    action: str | Mapping[str, Any]
    text: str
    observation: str = ""
    action_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEpisode:
    """One rollout of a log.

    Attributes:
        where: File and line.
        prompt: The text that the policy began with.
        question: The bare question.
        answers: Accepted answers, None where the log does not say.
        turns: In order.
        reward: What the log says that it earned, None where it does not say.
        step: Update in which it was sampled.
        fields: Fields that may name its group, by name.
        plain_text: What the last turn is if it has neither tags nor calls.
    """

    where: str
    prompt: str
    question: str
    answers: tuple[str, ...] | None
    turns: tuple[LoggedTurn, ...]
    reward: float | None
    step: int
    fields: Mapping[str, str] = field(default_factory=dict)
    plain_text: PlainText = "malformed"


def lookup(record: Mapping[str, Any], name: str) -> Any:
    """A field of a record by its dotted name; None where there is none."""
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def first_of(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of several fields that is there and not None."""
    return next((value for name in names if (value := lookup(record, name)) is not None), None)


def texts_of(value: Any) -> tuple[str, ...] | None:
    """Accepted answers in any of the forms in which they are logged; None if there are none."""
    if isinstance(value, Mapping):
        names = ("target", "golden_answers", "ground_truth", "answers", "answer", "value")
        return texts_of(first_of(value, names))
    if isinstance(value, str):
        return (value,) if value.strip() else None
    if isinstance(value, Sequence):
        parts = [text for each in value for text in texts_of(each) or ()]
        return tuple(dict.fromkeys(parts)) or None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (str(value),) if is_number else None


def number_of(value: Any, name: str, where: str) -> float | None:
    """A score as a number; None for None.

    Raises:
        TraceError: if it is something else, or not finite.
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise TraceError(f"{where}: {name} must be a finite number, got {value!r:.60}")


def group_fields(record: Mapping[str, Any], extra: str | None = None) -> dict[str, str]:
    """The fields of a record that may name its group."""
    names = (*GROUP_KEYS, extra) if extra else GROUP_KEYS
    found = {name: lookup(record, name) for name in names}
    return {name: str(value) for name, value in found.items() if isinstance(value, str | int)}


def question_of(prompt: str) -> str:
    """The question in an instruction: what follows the last "Question:", else all of it."""
    head, marker, tail = prompt.rpartition("Question:")
    return (tail.split("\n")[0] if marker else prompt or head).strip()


def step_of(record: Mapping[str, Any], default: int) -> int:
    """The update in which a record was made."""
    value = first_of(record, STEP_KEYS)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
