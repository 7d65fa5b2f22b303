"""``intermediate_data.json`` of FlashRAG: what a pipeline made of each question, in ``output``.

Pipelines in which the policy searches keep its text. The others, sequential and iterative ones,
search by themselves and keep what they found and what was answered, which is read as searches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.base import Call, LoggedEpisode, Place
from calibadv_algo.traces.conversation import Message, is_conversation
from calibadv_algo.traces.fields import first_of, lookup
from calibadv_algo.traces.reader import find_reader
from calibadv_algo.traces.responses import ResponseReader, rollout_text
from calibadv_algo.traces.talks import conversation


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
        searched = [] if rollout_text(record) else _searched(record)
        if searched:
            return [
                conversation(
                    record, searched, 1, place, format=self.name, has_tools=True,
                    score_keys=self.scores, answer_keys=self.answers,
                )
            ]  # fmt: skip
        return super().episodes(record, place)


def _searched(record: Mapping[str, Any]) -> list[Message]:
    """The searches of a pipeline and its answer as messages; [] where it keeps no results.

    The query of an iteration is the question, with the answer of the one before behind it.
    """
    output, question = record.get("output"), record.get("question")
    if not isinstance(output, Mapping) or not isinstance(question, str):
        return []
    numbers = [n for n in range(len(output)) if f"retrieval_result_iter_{n}" in output]
    ends = [f"_iter_{number}" for number in numbers] or [""]
    messages = [Message(role="user", text=question)]
    before = ""
    for end in ends:
        found = output.get(f"retrieval_result{end}")
        if not isinstance(found, list):
            continue
        asked = output.get(f"input_query{end}")
        query = asked if isinstance(asked, str) else f"{question} {before}".strip()
        call = Call(name="search", arguments={"query": query}, id=end or "search")
        text = json.dumps(found, ensure_ascii=False, default=str)
        messages += [
            Message(role="assistant", calls=(call,)),
            Message(role="tool", text=text, call_id=call.id),
        ]
        answered = output.get(f"pred{end}")
        before = answered if isinstance(answered, str) else ""
    said = first_of(output, ("pred", "raw_pred", "response"))
    if isinstance(said, str) and said.strip():
        messages.append(Message(role="assistant", text=said))
    return messages if any(message.calls for message in messages) else []


READERS = (FlashRag(),)
