"""Logged rollouts before they become trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_env.info import Grammar
from calibadv_env.protocol.toolcalls import PlainText, ToolGrammar


class TraceError(CalibadvAlgoError):
    """A log cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How turns of a log are read, and how their tokens are counted.

    Attributes:
        grammar: Names of tools and arguments; turns without calls are read in tags.
        encode: Token ids of a text.
        tokenizer: Name of what ``encode`` goes by.
        visit_tools: Names of the tools that open a document, beside those that are recognised.
        whole_results: If true, a result in an unknown form is one passage by intention.
    """

    grammar: ToolGrammar
    encode: Callable[[str], Sequence[int]]
    tokenizer: str
    visit_tools: tuple[str, ...] = ()
    whole_results: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool.

    Attributes:
        name: Name of the tool, "" where it cannot be read.
        arguments: Its arguments: a mapping, or whatever else was written.
        id: What its result refers to, "" where there is nothing.
        result: What came back, None where that cannot be told apart from the rest.
    """

    name: str
    arguments: Any = None
    id: str = ""
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTurn:
    """One turn of a log.

    Attributes:
        action: What the policy wrote, for reading; in the tags of our grammar if in any.
        text: What it wrote as the log has it, for display and for the number of its tokens.
        observation: What came back, "" for nothing.
        calls: Its tool calls, in order.
        thought: The thought beside the calls; None to take it from ``action``.
        tail: Text behind the calls.
        action_ids: Its tokens where the log has them, else empty.
        logprobs: Their log-probabilities where the log has them, else empty.
    """

    action: str
    text: str
    observation: str = ""
    calls: tuple[Call, ...] = ()
    thought: str = ""
    tail: str = ""
    action_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEpisode:
    """One rollout of a log.

    Attributes:
        where: File and line.
        format: Name of the shape of its record.
        prompt: The text that the policy began with.
        question: The bare question.
        answers: Accepted answers, None where the log does not say.
        turns: In order.
        reward: What the log says that it earned, None where it does not say.
        step: Update in which it was sampled.
        has_step: True if the record itself says so.
        fields: Fields that may name its group, by name.
        plain_text: What the last turn is if it has neither tags nor calls.
        grammar: How turns without calls are written.
        prediction: The final answer as the log names it beside the turns, "" for none.
        taken_from: Which fields gave score and answers, by what they gave.
        answers_were_text: True if the list of answers was written as a text.
        counted_calls: Calls by the name of the tool, where the log itself counts them.
    """

    where: str
    prompt: str
    question: str
    answers: tuple[str, ...] | None
    turns: tuple[LoggedTurn, ...]
    reward: float | None
    step: int
    format: str = ""
    has_step: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    plain_text: PlainText = "malformed"
    grammar: Grammar = "tags"
    prediction: str = ""
    taken_from: Mapping[str, str] = field(default_factory=dict)
    answers_were_text: bool = False
    counted_calls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands, and what is known of it from outside.

    Attributes:
        where: File and line, for messages.
        step: Its step, where the record has none.
        group_by: A further field that may name its group.
        fields: Names of the fields for ``question``, ``answers``, ``score``, ``messages``,
            ``prompt`` or ``response``, where the user gave some.
    """

    where: str
    step: int = 0
    group_by: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
