"""Traces of verifiers: ``results.jsonl`` of vf-eval, and ``traces.jsonl`` of its version 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from calibadv_algo.traces.base import LoggedEpisode, LoggedTurn, Place, TraceError
from calibadv_algo.traces.conversation import Message, plain_text_of, turns_of, turns_of_message
from calibadv_algo.traces.fields import (
    ANSWER_KEYS,
    QUESTION_KEYS,
    first_of,
    group_fields,
    number_of,
    question_of,
    step_of,
    texts_of,
)
from calibadv_algo.traces.reader import TraceReader
from calibadv_algo.traces.shapes.search_r1 import SearchR1
from calibadv_algo.traces.tagged import grammar_of
from calibadv_algo.traces.talks import begin_of, checked_messages, conversation


class Verifiers(TraceReader):
    """A result with ``prompt``, ``completion``, ``reward``, ``example_id``; or one of version 1.

    That is an episode with ``traces``, or one trace with ``nodes`` and ``rewards``. The message
    graph of a trace is read along the path to its last message; tokens and log-probabilities are
    taken from it where it has them.
    """

    name: ClassVar[str] = "verifiers"
    needs: ClassVar[str] = "what vf-eval writes"

    def reads(self, record: Mapping[str, Any]) -> bool:
        """True for a result of vf-eval, an episode of version 1, or one of its traces."""
        is_result = "completion" in record and "prompt" in record and "example_id" in record
        return is_result or is_episode(record) or is_trace(record)

    def episodes(self, record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
        """Rollouts of one line; none of a rollout that failed before the policy wrote anything.

        Raises:
            TraceError: if a part is missing or of another kind.
        """
        if is_episode(record):
            group = _text_at(record, "group", "id")
            run = record.get("run")
            work = run.get("work") if isinstance(run, Mapping) else None
            inner = replace(
                place, step=step_of(work if isinstance(work, Mapping) else {}, place.step)
            )
            traces = [trace for trace in record["traces"] if _is_trained(trace)]
            return [each for trace in traces for each in _read_trace(trace, inner, group)]
        if is_trace(record):
            return _read_trace(record, place, None)
        return _read_result(record, place)


def is_episode(record: Mapping[str, Any]) -> bool:
    """True for an episode of version 1: a task and the traces of its agents."""
    return isinstance(record.get("traces"), list) and isinstance(record.get("task"), Mapping)


def is_trace(record: Mapping[str, Any]) -> bool:
    """True for a single trace of version 1."""
    return isinstance(record.get("nodes"), list) and isinstance(record.get("task"), Mapping)


def _read_result(record: Mapping[str, Any], place: Place) -> list[LoggedEpisode]:
    prompt, completion = record.get("prompt"), record.get("completion")
    record = {**record, "score": record.get("reward")}  # a metric may be called score
    if record.get("error") and not completion:
        return []
    if isinstance(completion, str):
        # Of another record's fields none may be taken for the response.
        text = {key: value for key, value in record.items() if key not in ("response", "output")}
        return [replace(each, format=Verifiers.name) for each in SearchR1().episodes(text, place)]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    head = checked_messages(prompt, f"{place.where}: prompt")
    tail = checked_messages(completion, f"{place.where}: completion")
    if not any(message.role == "assistant" for message in tail):
        raise TraceError(f"{place.where}: completion needs an assistant message")
    has_tools = bool(record.get("tool_defs") or record.get("tools"))
    begin = len(head) + begin_of(tail, f"{place.where}: completion")
    messages = [*head, *tail]
    return [
        conversation(record, messages, begin, place, format=Verifiers.name, has_tools=has_tools)
    ]


def _is_trained(trace: Any) -> bool:
    """True for a trace of the policy; other agents of an episode may be judges or users."""
    agent = trace.get("agent") if isinstance(trace, Mapping) else None
    return not isinstance(agent, Mapping) or agent.get("trainable", True) is not False


def _read_trace(trace: Any, place: Place, group: str | None) -> list[LoggedEpisode]:
    where = place.where
    if not isinstance(trace, Mapping) or not is_trace(trace):
        raise TraceError(f"{where}: a trace needs a task and nodes")
    nodes = _path(trace["nodes"], where)
    begin = next((i for i, node in enumerate(nodes) if node.get("sampled")), None)
    if begin is None:
        return []
    each = [checked_messages([node.get("message")], where) for node in nodes]
    turns = _turns(nodes[begin:], each[begin:])
    data = trace["task"].get("data") or {}
    data = data if isinstance(data, Mapping) else {}
    prompt = "\n".join(message.text for messages in each[:begin] for message in messages)
    question = first_of(data, QUESTION_KEYS)
    fields = group_fields(data) | ({} if group is None else {"group_id": group})
    name = _text_at(trace, "task", "key") or _text_at(trace, "task", "hash")
    if name is not None or data.get("idx") is not None:
        fields |= {"example_id": name or str(data["idx"])}
    read, grammar = grammar_of(turns)
    return [
        LoggedEpisode(
            format=Verifiers.name,
            where=where,
            prompt=prompt,
            question=question if isinstance(question, str) else question_of(prompt),
            answers=texts_of(first_of(data, ANSWER_KEYS)),
            turns=read,
            grammar=grammar,
            reward=_total(trace.get("rewards"), where),
            step=place.step,
            has_step=True,
            fields=fields,
            plain_text=plain_text_of(turns, has_tools=bool(trace.get("tools"))),
        )
    ]


def _turns(nodes: list[Mapping[str, Any]], messages: list[list[Message]]) -> tuple[LoggedTurn, ...]:
    """Turns of the nodes from the first that was sampled, with the tokens where they have them."""
    tokens: dict[int, Mapping[str, Any]] = {}
    said: list[Message] = []
    number = 0
    for node, of_node in zip(nodes, messages, strict=True):
        if not node.get("sampled"):
            said += [
                replace(each, role="user") if each.role == "assistant" else each for each in of_node
            ]
            continue
        said += [replace(each, role="assistant") for each in of_node]
        made = sum(len(turns_of_message(each)) for each in of_node)
        if made == 1:
            tokens[number] = node
        number += made
    turns = turns_of(said)
    return tuple(
        _with_tokens(turn, tokens[number]) if number in tokens else turn
        for number, turn in enumerate(turns)
    )


def _path(nodes: list[Any], where: str) -> list[Mapping[str, Any]]:
    """The nodes from the root to the last one."""
    path: list[Mapping[str, Any]] = []
    number: Any = len(nodes) - 1 if nodes else None
    while number is not None:
        if (
            not isinstance(number, int)
            or isinstance(number, bool)
            or not 0 <= number < len(nodes)
            or len(path) > len(nodes)
        ):
            raise TraceError(f"{where}: parent {number!r} is not an earlier node")
        node = nodes[number]
        if not isinstance(node, Mapping):
            raise TraceError(f"{where}: node {number} must be an object")
        path.append(node)
        number = node.get("parent")
    return path[::-1]


def _with_tokens(turn: LoggedTurn, node: Mapping[str, Any]) -> LoggedTurn:
    """A turn with the tokens of its node, where they are whole."""
    ids, mask = node.get("token_ids") or [], node.get("mask") or []
    if not isinstance(ids, list) or not isinstance(mask, list):
        return turn
    if len(ids) != len(mask) or not any(mask):
        return turn
    sampled = tuple(token for token, is_sampled in zip(ids, mask, strict=True) if is_sampled)
    logged = node.get("logprobs")
    logprobs = tuple(logged) if isinstance(logged, list) and len(logged) == len(sampled) else ()
    is_sound = all(isinstance(token, int) for token in sampled) and all(
        isinstance(each, int | float) for each in logprobs
    )
    return replace(turn, action_ids=sampled, logprobs=logprobs) if is_sound else turn


def _total(rewards: Any, where: str) -> float | None:
    """The weighted sum of a trace's rewards; None where none was given."""
    if not isinstance(rewards, Mapping):
        return None
    values = []
    for name, reward in rewards.items():
        if isinstance(reward, Mapping):
            score = number_of(reward.get("score"), f"the reward {name}", where)
            weight = number_of(reward.get("weight", 1.0), f"the weight of {name}", where)
            values += [] if score is None else [score * (1.0 if weight is None else weight)]
    return sum(values) if values else None


def _text_at(record: Mapping[str, Any], *names: str) -> str | None:
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else None


READERS = (Verifiers(),)
