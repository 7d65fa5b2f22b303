"""Traces of verifiers: ``results.jsonl`` of vf-eval, and ``traces.jsonl`` of its version 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from calibadv_algo.traces.base import (
    ANSWER_KEYS,
    QUESTION_KEYS,
    LoggedEpisode,
    LoggedTurn,
    TraceError,
    first_of,
    group_fields,
    number_of,
    question_of,
    step_of,
    texts_of,
)
from calibadv_algo.traces.messages import (
    checked_messages,
    content_of,
    conversation,
    plain_text_of,
    turns_of_message,
)
from calibadv_algo.traces.search_r1 import read_search_r1


def is_verifiers(record: Mapping[str, Any]) -> bool:
    """True for a result of vf-eval, an episode of version 1, or one of its traces."""
    is_result = "completion" in record and "prompt" in record and "example_id" in record
    return is_result or is_episode(record) or is_trace(record)


def is_episode(record: Mapping[str, Any]) -> bool:
    """True for an episode of version 1: a task and the traces of its agents."""
    return isinstance(record.get("traces"), list) and isinstance(record.get("task"), Mapping)


def is_trace(record: Mapping[str, Any]) -> bool:
    """True for a single trace of version 1."""
    return isinstance(record.get("nodes"), list) and isinstance(record.get("task"), Mapping)


def read_verifiers(
    record: Mapping[str, Any], where: str, step: int, group_by: str | None = None
) -> list[LoggedEpisode]:
    """Rollouts of one line; none of a rollout that failed before the policy wrote anything.

    Args:
        record: A result with ``prompt``, ``completion``, ``reward`` and ``example_id``; or an
            episode with ``traces``; or one trace with ``nodes`` and ``rewards``. The message
            graph of a trace is read along the path to its last message; tokens and
            log-probabilities are taken from it where it has them.
        where: File and line, for messages.
        step: The step, where the record has none.
        group_by: A further field that may name the group.

    Raises:
        TraceError: if a part is missing or of another kind.
    """
    if is_episode(record):
        group = _text_at(record, "group", "id")
        work = (record.get("run") or {}).get("work") or {}
        number = step_of(work, step)
        traces = [trace for trace in record["traces"] if _is_trained(trace)]
        return [each for trace in traces for each in _read_trace(trace, where, number, group)]
    if is_trace(record):
        return _read_trace(record, where, step, None)
    return _read_result(record, where, step, group_by)


def _read_result(
    record: Mapping[str, Any], where: str, step: int, group_by: str | None
) -> list[LoggedEpisode]:
    prompt, completion = record.get("prompt"), record.get("completion")
    record = {**record, "score": record.get("reward")}  # a metric may be called score
    if record.get("error") and not completion:
        return []
    if isinstance(completion, str):
        return read_search_r1(record, where, step, group_by)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    head = checked_messages(prompt, f"{where}: prompt")
    tail = checked_messages(completion, f"{where}: completion")
    if not any(message["role"] == "assistant" for message in tail):
        raise TraceError(f"{where}: completion needs an assistant message")
    has_tools = bool(record.get("tool_defs") or record.get("tools"))
    return [
        conversation(record, [*head, *tail], len(head), where, step, group_by, has_tools=has_tools)
    ]


def _is_trained(trace: Any) -> bool:
    """True for a trace of the policy; other agents of an episode may be judges or users."""
    agent = trace.get("agent") if isinstance(trace, Mapping) else None
    return not isinstance(agent, Mapping) or agent.get("trainable", True) is not False


def _read_trace(trace: Any, where: str, step: int, group: str | None) -> list[LoggedEpisode]:
    if not isinstance(trace, Mapping) or not is_trace(trace):
        raise TraceError(f"{where}: a trace needs a task and nodes")
    nodes = _path(trace["nodes"], where)
    begin = next((i for i, node in enumerate(nodes) if node.get("sampled")), None)
    if begin is None:
        return []
    messages = checked_messages([node.get("message") for node in nodes], where)
    turns: list[LoggedTurn] = []
    for node, message in zip(nodes[begin:], messages[begin:], strict=True):
        if node.get("sampled"):
            turns += _sampled(node, message)
        elif content_of(message):
            joined = f"{turns[-1].observation}\n{content_of(message)}".lstrip()
            turns[-1] = replace(turns[-1], observation=joined)
    data = trace["task"].get("data") or {}
    prompt = "\n".join(content_of(message) for message in messages[:begin])
    question = first_of(data, QUESTION_KEYS)
    fields = group_fields(data) | ({} if group is None else {"group_id": group})
    name = _text_at(trace, "task", "key") or _text_at(trace, "task", "hash")
    if name is not None or data.get("idx") is not None:
        fields |= {"example_id": name or str(data["idx"])}
    return [
        LoggedEpisode(
            where=where,
            prompt=prompt,
            question=question if isinstance(question, str) else question_of(prompt),
            answers=texts_of(first_of(data, ANSWER_KEYS)),
            turns=tuple(turns),
            reward=_total(trace.get("rewards"), where),
            step=step,
            fields=fields,
            plain_text=plain_text_of(turns, has_tools=bool(trace.get("tools"))),
        )
    ]


def _path(nodes: list[Any], where: str) -> list[Mapping[str, Any]]:
    """The nodes from the root to the last one."""
    path: list[Mapping[str, Any]] = []
    number: Any = len(nodes) - 1 if nodes else None
    while number is not None:
        if not isinstance(number, int) or not 0 <= number < len(nodes) or len(path) > len(nodes):
            raise TraceError(f"{where}: parent {number!r} is not an earlier node")
        node = nodes[number]
        if not isinstance(node, Mapping):
            raise TraceError(f"{where}: node {number} must be an object")
        path.append(node)
        number = node.get("parent")
    return path[::-1]


def _sampled(node: Mapping[str, Any], message: Mapping[str, Any]) -> tuple[LoggedTurn, ...]:
    turns = turns_of_message(message)
    ids, mask = node.get("token_ids") or [], node.get("mask") or []
    if len(turns) != 1 or len(ids) != len(mask) or not any(mask):
        return turns
    sampled = tuple(token for token, is_sampled in zip(ids, mask, strict=True) if is_sampled)
    logprobs = tuple(node.get("logprobs") or ())
    if len(logprobs) != len(sampled):
        logprobs = ()
    return (replace(turns[0], action_ids=sampled, logprobs=logprobs),)


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
