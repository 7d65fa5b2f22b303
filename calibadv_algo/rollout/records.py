"""Trajectories as one line of JSON each, and back without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from calibadv_algo.types import Trajectory, Turn

TUPLE_KEY = "__tuple__"
ITEMS_KEY = "__items__"


def trajectory_to_json(trajectory: Trajectory) -> str:
    """Writes a trajectory as one line of JSON.

    NaN and infinities are written as Python's ``json`` writes them (``NaN``). Tuples inside
    ``info`` are objects with the one key ``__tuple__``, so that they come back as tuples;
    mappings whose keys are not all plain strings are objects with the one key ``__items__``.

    Raises:
        TypeError: if an info holds something that JSON has no form for.
    """
    record = {name: getattr(trajectory, name) for name in _names(Trajectory) if name != "turns"}
    record["turns"] = [
        {name: getattr(turn, name) for name in _names(Turn)} for turn in trajectory.turns
    ]
    plain = {key: _plain_field(key, value) for key, value in record.items() if key != "turns"}
    plain["turns"] = [
        {key: _plain_field(key, value) for key, value in turn.items()} for turn in record["turns"]
    ]
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
        turns = tuple(Turn(**_fields(Turn, turn)) for turn in record["turns"])
        return Trajectory(**_fields(Trajectory, record) | {"turns": turns})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"line must be a recorded trajectory: {error}") from error


_LISTS = frozenset({"prompt_ids", "action_ids", "logprobs", "observation_ids"})
_INFOS = frozenset({"info", "reset_info"})


def _names(kind: type[Any]) -> list[str]:
    return [each.name for each in fields(kind)]


def _fields(kind: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a type that a record has."""
    return {name: _field(name, record[name]) for name in _names(kind) if name in record}


def _plain_field(key: str, value: Any) -> Any:
    if key in _LISTS:
        return list(value)
    return _plain(value) if key in _INFOS else value


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
    return value


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
