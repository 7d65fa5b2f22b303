"""Rollouts as lists of steps in forms of their own.

DSPy's numbered fields, rLLM, Llama Stack, pairs of observation and action (verl-agent and other
environments), and the observations of a trace of Langfuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from calibadv_algo.traces.base import LoggedEpisode, Place
from calibadv_algo.traces.conversation import is_conversation
from calibadv_algo.traces.fields import PREDICTION_KEYS, first_of, lookup
from calibadv_algo.traces.reader import TraceReader, reader_named

_ANSWERS: Final = ("finish", "submit", "answer")


class StepLists(TraceReader):
    """Steps that become a conversation, which is then read as any other."""

    name: ClassVar[str] = "step-lists"
    rank: ClassVar[int] = 4

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True for a record in one of the forms."""
        return _messages(record) is not None

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """The rollout of a record."""
        used = ["trajectory", "steps", "trajectories"]
        if isinstance(record.get("observations"), list):
            used += ["observations", "input", "output"]  # which say the same once more
        if _numbered(record) and first_of(record, PREDICTION_KEYS) is None:
            used.append("answer")  # of the policy, as nothing else is
        rest = {k: v for k, v in record.items() if k not in used}
        reader = reader_named("messages")
        return reader.episodes({**rest, "messages": _messages(record)}, place)


def _messages(record: Mapping[str, Any]) -> list[Any] | None:
    """The rollout as messages; None for a record in another form."""
    forms = (_numbered, _completions, _turn, _environment, _observed)
    return next((found for form in forms if (found := form(record))), None)


def _numbered(record: Mapping[str, Any]) -> list[Any] | None:
    """Fields of DSPy that count up: thought, tool, arguments and observation of every step."""
    fields = record.get("trajectory")
    if not isinstance(fields, Mapping) or "tool_name_0" not in fields:
        return None
    asked = next((record[k] for k in ("question", "query", "input") if record.get(k)), "")
    messages: list[Any] = [{"role": "user", "content": asked}]
    number = 0
    while (name := fields.get(f"tool_name_{number}")) is not None:
        call_id = f"call_{number}"
        thought = fields.get(f"thought_{number}") or ""
        if str(name).lower() in _ANSWERS:  # the answer stands beside the steps
            said = first_of(record, (*PREDICTION_KEYS, "answer")) or thought
            messages.append({"role": "assistant", "content": said, "reasoning": thought})
            return messages
        call = {"name": name, "arguments": fields.get(f"tool_args_{number}") or {}, "id": call_id}
        messages.append({"role": "assistant", "content": thought, "tool_calls": [call]})
        found = fields.get(f"observation_{number}")
        messages.append({"role": "tool", "tool_call_id": call_id, "content": found})
        number += 1
    return messages


def _completions(record: Mapping[str, Any]) -> list[Any] | None:
    """RLLM: every step keeps the conversation up to it, so the last one has all of it."""
    steps = record.get("steps") or lookup(record, "trajectory.steps")
    many = record.get("trajectories")
    if steps is None and isinstance(many, list) and len(many) == 1 and isinstance(many[0], Mapping):
        steps = many[0].get("steps")
    last = steps[-1] if isinstance(steps, list) and steps else None
    found = last.get("chat_completions") if isinstance(last, Mapping) else None
    return found if isinstance(found, list) and found else None


def _environment(record: Mapping[str, Any]) -> list[Any] | None:
    """Steps of an environment: what it showed, and the text that the policy acted by."""
    steps = record.get("steps") or record.get("trajectory")
    if not isinstance(steps, list) or not steps:
        return None
    messages: list[Any] = []
    for step in steps:
        seen, said = (
            (step.get("observation", step.get("obs")), step.get("action"))
            if isinstance(step, Mapping)
            else (None, None)
        )
        # The name of a tool has no blank and no tag in it.
        if not isinstance(seen, str) or not isinstance(said, str) or "<" not in said:
            return None
        messages += [{"role": "user", "content": seen}, {"role": "assistant", "content": said}]
    return messages


def _observed(record: Mapping[str, Any]) -> list[Any] | None:
    """Langfuse: the generation that was given the longest conversation, with its reply."""
    observed = record.get("observations")
    if not isinstance(observed, list):
        return None
    found: list[Any] = []
    for each in observed:
        if not isinstance(each, Mapping) or each.get("type") != "GENERATION":
            continue
        given = each.get("input")
        given = given.get("messages") if isinstance(given, Mapping) else given
        said = each.get("output")
        said = {"role": "assistant", "content": said} if isinstance(said, str) else said
        talk = [*given, said] if isinstance(given, list) else []
        if len(talk) > len(found) and is_conversation(talk):
            found = talk
    return found or None


def _turn(record: Mapping[str, Any]) -> list[Any] | None:
    """Llama Stack: steps of inference and of the execution of tools."""
    steps = record.get("steps")
    if not isinstance(steps, list) or not any(
        isinstance(s, Mapping) and s.get("step_type") == "inference" for s in steps
    ):
        return None
    messages: list[Any] = list(record.get("input_messages") or ())
    for step in steps:
        said = step.get("model_response") if isinstance(step, Mapping) else None
        if isinstance(said, Mapping):
            messages.append({"role": "assistant", **said})
        replies = step.get("tool_responses") if isinstance(step, Mapping) else None
        for reply in replies or () if isinstance(replies, list) else ():
            if isinstance(reply, Mapping):
                messages.append({"role": "tool", **reply, "tool_call_id": reply.get("call_id")})
    return messages


READERS = (StepLists(),)
