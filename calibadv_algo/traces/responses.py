"""Base of the shapes that hold a whole response as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.conversation import is_conversation, read_messages
from calibadv_algo.traces.fields import (
    QUESTION_KEYS,
    facts_of,
    first_of,
    lookup,
    question_in,
    question_of,
)
from calibadv_algo.traces.reader import TraceReader
from calibadv_algo.traces.tagged import grammar_of, split_response

ROLLOUT: Final = re.compile(
    r"</search>|</tool_call>|<\|end_of_query\|>|<\|end_search_query\|>|</answer>|"
    r"\nAction(?: \d+)?:|</use_mcp_tool>"
)
"""Marks by which a text can be told for a rollout."""

_ASSISTANT: Final = re.compile(
    r"<\|im_start\|>assistant\n?|<\|start_header_id\|>assistant<\|end_header_id\|>\s*"
)


class ResponseReader(TraceReader):
    """A prompt and the response to it as one text.

    Attributes:
        prompts: Fields of the prompt (text, messages or parts), the first that is there.
        responses: Fields of the response.
        scores: Fields of the score that are looked for before the usual ones.
        answers: Fields of the accepted answers, likewise.
    """

    prompts: ClassVar[Sequence[str]]
    responses: ClassVar[Sequence[str]]
    scores: ClassVar[Sequence[str]] = ()
    answers: ClassVar[Sequence[str]] = ()

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True if a field of the response holds a text."""
        return isinstance(first_of(record, self.responses), str)

    def response_of(self, record: Mapping[str, Any], place: Place) -> Any:
        """The response."""
        given = place.fields.get("response")
        return first_of(record, (given,) if given else self.responses)

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollout of a record.

        Raises:
            TraceError: if prompt or response is missing or the score is no number.
        """
        given = place.fields.get("prompt")
        prompt = first_of(record, (given,) if given else (*self.prompts, *QUESTION_KEYS))
        prompt, response = prompt_text(prompt), self.response_of(record, place)
        if prompt is None and isinstance(response, str):
            prompt, response = _parted(response)
        for name, value, keys in (
            ("a prompt", prompt, self.prompts),
            ("a response", response, self.responses),
        ):
            if not isinstance(value, str):
                raise TraceError(
                    f"{place.where}: needs {name} as text under one of {', '.join(keys)}"
                )
        facts = facts_of(record, place, score_keys=self.scores, answer_keys=self.answers)
        turns, grammar = grammar_of(split_response(response))
        return [
            LoggedEpisode(
                format=self.name,
                prompt=prompt,
                question=question_in(record, place) or question_of(prompt),
                turns=turns,
                grammar=grammar,
                plain_text="answer" if any(turn.calls for turn in turns) else "malformed",
                **facts,
            )
        ]


def _parted(text: str) -> tuple[str | None, str]:
    """Prompt and response of a whole sequence, which the first mark of the assistant parts."""
    found = _ASSISTANT.search(text)
    if found is None or ROLLOUT.search(text, found.end()) is None:
        return None, text
    return text[: found.start()], text[found.end() :]


def prompt_text(prompt: Any) -> Any:
    """A prompt of messages or parts as text; anything else as it is."""
    if is_conversation(prompt):
        return "\n".join(message.text for message in read_messages(prompt)[0])
    if isinstance(prompt, list):
        parts = [part.get("content") if isinstance(part, Mapping) else part for part in prompt]
        return "\n".join(part for part in parts if isinstance(part, str))
    return prompt


def rollout_text(record: Mapping[str, Any]) -> str:
    """Name of the longest field that can be told for a rollout, at most one object deep; or ""."""
    found: list[tuple[int, str]] = []
    for key, value in record.items():
        inner = value if isinstance(value, Mapping) else {}
        for name, text in (
            (key, value),
            *((f"{key}.{each}", text) for each, text in inner.items()),
        ):
            if isinstance(text, str) and ROLLOUT.search(text) and lookup(record, name) == text:
                found.append((len(text), name))
    return max(found)[1] if found else ""
