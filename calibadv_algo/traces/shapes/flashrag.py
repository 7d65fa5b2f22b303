"""``intermediate_data.json`` of FlashRAG: what a pipeline made of each question, in ``output``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.base import LoggedEpisode, Place
from calibadv_algo.traces.conversation import is_conversation
from calibadv_algo.traces.fields import lookup
from calibadv_algo.traces.reader import find_reader
from calibadv_algo.traces.responses import ResponseReader, rollout_text


class FlashRag(ResponseReader):
    """A question whose object ``output`` holds prompt, response, prediction and metrics."""

    name: ClassVar[str] = "flashrag"
    rank: ClassVar[int] = 1
    needs: ClassVar[str] = "output with a response, as FlashRAG writes it"
    prompts = ("output.query", "output.prompt", "output.input_prompt")
    responses = ("output.final_response", "output.response", "output.raw_pred", "output.pred")
    scores = ("output.metric_score", "output.score")
    answers = ("golden_answers",)

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True for a record with a question, accepted answers and an ``output``."""
        return isinstance(record.get("output"), Mapping) and "question" in record and (
            "golden_answers" in record or "metric_score" in record["output"]
        )  # fmt: skip

    def response_of(self, record: Mapping[str, Any], place: Place) -> Any:
        """The response: the field with the tags of a rollout, else the usual ones."""
        marked = "" if place.fields.get("response") else rollout_text(record)
        return lookup(record, marked) if marked else super().response_of(record, place)

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollout; one that ``output`` holds as messages is read as such."""
        output = record.get("output")
        if isinstance(output, Mapping) and any(map(is_conversation, output.values())):
            rest = {key: value for key, value in record.items() if key != "output"}
            flat = {**output, **rest}
            reader = find_reader(flat)
            if reader is not None and reader.name != self.name:
                return reader.episodes(flat, place)
        return super().episodes(record, place)


READERS = (FlashRag(),)
