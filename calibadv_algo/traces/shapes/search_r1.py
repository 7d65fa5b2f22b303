"""Rollouts of Search-R1 and verl: one line a rollout, with the whole response as one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.base import Place
from calibadv_algo.traces.fields import QUESTION_KEYS, first_of
from calibadv_algo.traces.responses import ResponseReader, rollout_text


class SearchR1(ResponseReader):
    """A prompt and a response under the usual names, or a rollout in tags under another name."""

    name: ClassVar[str] = "search-r1"
    rank: ClassVar[int] = 8
    needs: ClassVar[str] = "prompt and response"
    prompts = ("prompt", "input", "question", "prompts", "instruction")
    responses = (
        "response", "output", "completion", "responses", "solution_str", "generated_text",
        "generation", "full_response", "model_output", "text",
    )  # fmt: skip

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True if a response is a text, or any field holds the tags of a rollout."""
        marked = rollout_text(record)
        # A text deeper down may be the rollout of a record within this one, if this has no prompt.
        has_prompt = first_of(record, (*self.prompts, *QUESTION_KEYS)) is not None
        return super().reads(record) or (bool(marked) and ("." not in marked or has_prompt))

    def response_of(self, record: Mapping[str, Any], place: Place) -> Any:
        """The response under one of the names; the text with the tags where there is none."""
        found = super().response_of(record, place)
        marked = "" if isinstance(found, str) else rollout_text(record)
        return (
            super().response_of(record, Place(where="", fields={"response": marked}))
            if marked
            else found
        )


READERS = (SearchR1(),)
