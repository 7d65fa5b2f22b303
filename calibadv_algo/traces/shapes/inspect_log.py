"""Logs of Inspect: one file with the samples of an evaluation, each with messages and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.fields import number_of
from calibadv_algo.traces.reader import TraceReader
from calibadv_algo.traces.talks import begin_of, checked_messages, conversation

_LETTERS: Final = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Marks of Inspect's scorers: correct, partly, incorrect, no answer."""


class InspectLog(TraceReader):
    """A whole log with ``samples``, or one sample of it."""

    name: ClassVar[str] = "inspect"
    needs: ClassVar[str] = "samples with messages and scores, as Inspect logs them"

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True for a log or for a sample."""
        samples = record.get("samples")
        if isinstance(samples, list) and isinstance(record.get("eval"), Mapping):
            return True
        is_talk = isinstance(record.get("messages"), list) and "epoch" in record
        return is_talk and isinstance(record.get("scores"), Mapping) and "target" in record

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollouts of all samples; the epochs of one sample are one group."""
        samples = record.get("samples")
        if not isinstance(samples, list):
            return _sample(record, place)
        found = []
        for number, sample in enumerate(samples, start=1):
            inner = replace(place, where=f"{place.where}, sample {number}")
            if not isinstance(sample, Mapping):
                raise TraceError(f"{inner.where}: must be an object, got {type(sample).__name__}")
            found += _sample(sample, inner)
        return found


def _sample(sample: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
    messages = checked_messages(sample.get("messages"), place.where)
    if not any(message.role == "assistant" for message in messages):
        return []
    name, score = _score(sample.get("scores"), place)
    asked = sample.get("input")
    record = {key: value for key, value in sample.items() if key not in ("scores", "score")}
    if isinstance(asked, str):
        record["question"] = record.get("question", asked)
    begin = begin_of(messages, place.where)
    episode = conversation(record, messages, begin, place, format=InspectLog.name, has_tools=True)
    taken = {**episode.taken_from, **({"score": f"scores.{name}"} if name else {})}
    return [
        replace(episode, reward=score, taken_from=taken, fields={**_id(sample), **episode.fields})
    ]


def _id(sample: Mapping[str, Any]) -> dict[str, str]:
    name = sample.get("id")
    return {"sample_id": str(name)} if isinstance(name, str | int) else {}


def _score(scores: Any, place: Place) -> tuple[str, float | None]:
    """The first scorer that gave a number or a mark, or the one that was asked for."""
    if not isinstance(scores, Mapping):
        return "", None
    wanted = (place.fields.get("score") or "").removeprefix("scores.").removesuffix(".value")
    for name in [wanted] if wanted else list(scores):
        score = scores.get(name)
        value = score.get("value") if isinstance(score, Mapping) else score
        if value is not None:
            if isinstance(value, str) and value in _LETTERS:
                return name, _LETTERS[value]
            return name, number_of(value, f"the score {name}", place.where)
    return "", None


READERS = (InspectLog(),)
