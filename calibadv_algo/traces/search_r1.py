"""Rollouts of Search-R1 and verl: one line a rollout, with the whole response as one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from calibadv_algo.traces.base import (
    ANSWER_KEYS,
    QUESTION_KEYS,
    SCORE_KEYS,
    LoggedEpisode,
    TraceError,
    first_of,
    group_fields,
    number_of,
    question_of,
    step_of,
    texts_of,
)
from calibadv_algo.traces.tagged import split_response

PROMPT_KEYS: Final = ("prompt", "input", "question", "prompts")
RESPONSE_KEYS: Final = ("response", "output", "completion", "responses", "solution_str")


def is_search_r1(record: Mapping[str, Any]) -> bool:
    """True if a record holds a response as text."""
    return isinstance(first_of(record, RESPONSE_KEYS), str)


def read_search_r1(
    record: Mapping[str, Any], where: str, step: int, group_by: str | None = None
) -> list[LoggedEpisode]:
    """The rollout of one line.

    Args:
        record: With a prompt (``prompt`` or ``input``; text or messages), a response
            (``response``, ``output`` …), and where there are any a score, accepted answers, a
            step and fields that name the group.
        where: File and line, for messages.
        step: The step, where the record has none.
        group_by: A further field that may name the group.

    Raises:
        TraceError: if prompt or response is missing or the score is no number.
    """
    prompt, response = first_of(record, PROMPT_KEYS), first_of(record, RESPONSE_KEYS)
    if isinstance(prompt, list):
        parts = [part.get("content") for part in prompt if isinstance(part, Mapping)]
        prompt = "\n".join(part for part in parts if isinstance(part, str))
    for name, value in (("a prompt", prompt), ("a response", response)):
        if not isinstance(value, str):
            keys = PROMPT_KEYS if name == "a prompt" else RESPONSE_KEYS
            raise TraceError(f"{where}: needs {name} as text under one of {', '.join(keys)}")
    question = first_of(record, QUESTION_KEYS)
    return [
        LoggedEpisode(
            where=where,
            prompt=prompt,
            question=question if isinstance(question, str) else question_of(prompt),
            answers=texts_of(first_of(record, ANSWER_KEYS)),
            turns=split_response(response),
            reward=number_of(first_of(record, SCORE_KEYS), "the score", where),
            step=step_of(record, step),
            fields=group_fields(record, group_by),
        )
    ]
