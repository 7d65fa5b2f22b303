"""Rollouts of NeMo-Gym: a request and a response of OpenAI's Responses API, with a reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from calibadv_algo.traces.base import LoggedEpisode, Place
from calibadv_algo.traces.fields import lookup
from calibadv_algo.traces.reader import TraceReader
from calibadv_algo.traces.talks import begin_of, checked_messages, conversation


class NemoGym(TraceReader):
    """``responses_create_params`` (or ``request``) with the input, ``response`` with the output."""

    name: ClassVar[str] = "nemo-gym"
    needs: ClassVar[str] = "responses_create_params and response.output"

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True if both are there."""
        return isinstance(lookup(record, "response.output"), list) and (
            isinstance(record.get("responses_create_params"), Mapping)
            or lookup(record, "response.object") == "response"
        )

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollout of a record; none of one whose output is empty."""
        asked = record.get("responses_create_params") or {}
        given = asked.get("input") if isinstance(asked, Mapping) else None
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        head = checked_messages(given or [], f"{place.where}: input")
        tail = checked_messages(lookup(record, "response.output"), f"{place.where}: output")
        if not tail:
            return []
        begin = len(head) + begin_of(tail, f"{place.where}: output")
        return [
            conversation(record, [*head, *tail], begin, place, format=self.name, has_tools=True)
        ]


READERS = (NemoGym(),)
