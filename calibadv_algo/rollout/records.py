"""Trajectories as one line of JSON each, and back without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeGuard

import numpy as np

from calibadv_algo.errors import EnvironmentFaultError
from calibadv_algo.types import Trajectory, Turn
from calibadv_env.info import PassageText

TUPLE_KEY = "__tuple__"
ITEMS_KEY = "__items__"
PASSAGES_KEY = "passages"
"""Key of the record that holds what the turns' infos have under the same name."""


def trajectory_to_json(trajectory: Trajectory) -> str:
    """Writes a trajectory as one line of JSON.

    NaN and infinities are written as Python's ``json`` writes them (``NaN``). Tuples inside
    ``info`` are objects with the one key ``__tuple__``, so that they come back as tuples;
    mappings whose keys are not all plain strings are objects with the one key ``__items__``.

    The passages of the infos stand apart, under ``passages``: for every turn a title and a text a
    passage, each as ``[start, end]`` in the observation, or as it is where it does not stand there.
    So no text is written twice.

    Raises:
        TypeError: if an info holds something that JSON has no form for.
    """
    names = [name for name in _names(Trajectory) if name != "turns"]
    plain = {name: _plain_field(name, getattr(trajectory, name)) for name in names}
    spans = [_spans_of(turn) for turn in trajectory.turns]
    plain["turns"] = [
        _plain_turn(turn, without_passages=found is not None)
        for turn, found in zip(trajectory.turns, spans, strict=True)
    ]
    if any(found is not None for found in spans):
        plain[PASSAGES_KEY] = spans
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def trajectory_from_json(line: str) -> Trajectory:
    """Reads what :func:`trajectory_to_json` wrote: an equal trajectory.

    Fields that somebody added to the record, as the trainer adds the advantages, are left out.

    Raises:
        ValueError: if the line is no JSON or fields are missing.
    """
    return trajectory_from_record(json.loads(line))


def trajectory_from_record(record: Any) -> Trajectory:
    """Makes a trajectory of the parsed line; see :func:`trajectory_from_json`.

    Raises:
        ValueError: if fields are missing or of another kind.
    """
    try:
        spans = record.get(PASSAGES_KEY) or [None] * len(record["turns"])
        pairs = zip(record["turns"], spans, strict=True)
        turns = tuple(_restored_turn(turn, found) for turn, found in pairs)
        return Trajectory(**_fields(Trajectory, record) | {"turns": turns})
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"line must be a recorded trajectory: {error}") from error


_LISTS = frozenset({"prompt_ids", "action_ids", "logprobs", "observation_ids", "context_ids"})
_INFOS = frozenset({"info", "reset_info"})


def _names(kind: type[Any]) -> list[str]:
    return [each.name for each in fields(kind)]


def _fields(kind: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a type that a record has."""
    return {name: _field(name, record[name]) for name in _names(kind) if name in record}


def _plain_turn(turn: Turn, *, without_passages: bool) -> dict[str, Any]:
    if without_passages:
        info = {key: value for key, value in turn.info.items() if key != PASSAGES_KEY}
        turn = replace(turn, info=info)
    names = [name for name in _names(Turn) if name != "context_ids" or turn.context_ids]
    return {name: _plain_field(name, getattr(turn, name)) for name in names}


def _restored_turn(record: Mapping[str, Any], spans: Sequence[Any] | None) -> Turn:
    values = _fields(Turn, record)
    if spans is not None:
        values["info"][PASSAGES_KEY] = _from_spans(spans, record["observation_text"])
    return Turn(**values)


def _are_passages(value: Any) -> TypeGuard[tuple[PassageText, ...]]:
    """Tells if a value is a tuple of titles and texts, which spans bring back exactly."""
    return isinstance(value, tuple) and all(
        type(pair) is tuple and [type(each) for each in pair] == [str, str] for pair in value
    )


def _spans_of(turn: Turn) -> list[list[list[int] | str]] | None:
    """Places of the passages in the observation; None where a turn has none in that form."""
    passages = turn.info.get(PASSAGES_KEY)
    if not _are_passages(passages):
        return None
    spans: list[list[list[int] | str]] = []
    position = 0
    for pair in passages:
        spans.append([])
        for part in pair:
            start = turn.observation_text.find(part, position) if part else -1
            if start >= 0:
                position = start + len(part)
            spans[-1].append([start, position] if start >= 0 else part)
    return spans


def _from_spans(spans: Sequence[Any], text: str) -> tuple[tuple[str, ...], ...]:
    """The inverse of :func:`_spans_of`."""
    return tuple(
        tuple(part if isinstance(part, str) else text[part[0] : part[1]] for part in pair)
        for pair in spans
    )


def _plain_field(key: str, value: Any) -> Any:
    if key in _LISTS:
        return list(value)
    if key not in _INFOS:
        return value
    try:
        return _plain(value)
    except TypeError as error:
        raise EnvironmentFaultError(_unfit(value)) from error


def _unfit(info: Mapping[Any, Any]) -> str:
    """Says which key of an info cannot be kept."""
    for key, value in info.items():
        try:
            _plain(value)
        except TypeError as error:
            return (
                f"the environment's info {key!r} holds {error}, which no file of trajectories can "
                "keep: give text, numbers, None, lists, tuples, mappings or numpy arrays, or "
                "leave the key out"
            )
    return f"the environment's info has keys that no file can keep: {list(info)!r:.200}"


def _field(key: str, value: Any) -> Any:
    if key in _LISTS:
        return tuple(value)
    return _restored(value) if key in _INFOS else value


def _plain(value: Any) -> Any:
    """A value of an info in JSON's types."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return {TUPLE_KEY: [_plain(each) for each in value]}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        is_plain = all(isinstance(key, str) for key in value)
        if is_plain and not {TUPLE_KEY, ITEMS_KEY} & set(value):
            return {key: _plain(each) for key, each in value.items()}
        return {ITEMS_KEY: [[_plain(key), _plain(each)] for key, each in value.items()]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} ({value!r:.60})")


def _restored(value: Any) -> Any:
    """The inverse of :func:`_plain` for what is neither a numpy array nor a numpy scalar."""
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {TUPLE_KEY}:
        return tuple(_restored(each) for each in value[TUPLE_KEY])
    if set(value) == {ITEMS_KEY}:
        return {_restored(key): _restored(each) for key, each in value[ITEMS_KEY]}
    return {key: _restored(each) for key, each in value.items()}
