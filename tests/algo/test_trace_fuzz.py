"""Mutated and mixed records: read, or refused with file and line, never a traceback."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.env_rules import make_rules
from calibadv_algo.cli.trace import Reading
from calibadv_algo.report.diagnosis import Source
from calibadv_algo.traces.base import TraceError
from calibadv_algo.traces.files import iterate_records
from calibadv_env.protocol.search_results import NOTHING, WHOLE, split_results

CASES = Path(__file__).parents[1] / "data" / "traces"
FILES = sorted(path for path in CASES.rglob("*.json*"))
RULES = make_rules()
JUNK: list[Any] = [
    None, True, 0, -1, 2.5, 10**400, float("nan"), "", " ", "x", "[", "{", "[1]", "['a' 'b']", [],
    [[]], [None], {}, {"role": 1}, {"role": "assistant"}, [{"role": "assistant", "content": None}],
    "\ud800",
    "</search>", "<tool_call>", "<|begin_of_query|>", "\u2028", {"name": None, "arguments": []},
    ["a", {"type": "tool_use"}], {"text": {"text": []}}, "Action: search[", "1. [a](http://b)",
]  # fmt: skip


def records() -> list[dict[str, Any]]:
    return [dict(record) for path in FILES for _, record in iterate_records(path)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a value."""
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(found for key, inner in items for found in places(inner, (*path, key)))]


def mutate(record: dict[str, Any], others: list[dict[str, Any]], rng: random.Random) -> Any:
    """A record with up to three values dropped, replaced, cut, doubled or taken from another."""
    record = json.loads(json.dumps(record))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(record)[1:] or [()])
        if not path:
            break
        holder = record
        for key in path[:-1]:
            holder = holder[key]
        kind, key = rng.randrange(5), path[-1]
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = rng.choice(JUNK)
        elif kind == 2 and isinstance(holder[key], str):
            holder[key] = holder[key][: rng.randint(0, len(holder[key]))]
        elif kind == 3 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif isinstance(record, dict):
            record |= {rng.choice([*others[0], "x"]): rng.choice(list(rng.choice(others).values()))}
    return record


def check(folder: Path, rng: random.Random, seeds: list[dict[str, Any]]) -> str:
    """Reads a file of mutated records; gives what became of it."""
    chosen = [
        mutate(rng.choice(seeds), rng.sample(seeds, 3), rng) for _ in range(rng.randint(1, 4))
    ]
    path = folder / f"log{rng.choice(['.jsonl', '.json'])}"
    if path.suffix == ".json":
        path.write_text(json.dumps(chosen))
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in chosen))
    reading = Reading(reward=rng.choice(["logged", "f1"]))
    try:
        source = Source(label="x")
        for log in reading.logs(path):
            source.add(reading.groups(log, RULES))
    except TraceError as error:
        return (
            "refused" if re.match(rf"{path}(:\d+|: holds no rollout)", str(error)) else str(error)
        )
    counted = source.understood
    assert counted.num_rollouts > 0
    assert sum(counted.results.values()) <= counted.searches.total()
    return "read"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_records_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    seeds = records()
    outcomes = [check(tmp_path, rng, seeds) for _ in range(60)]
    assert set(outcomes) <= {"read", "refused"}
    assert 10 < outcomes.count("read") < 58


@pytest.mark.parametrize("seed", range(2))
def test_any_result_is_split(seed: int) -> None:
    rng = random.Random(seed)
    texts = [json.dumps(each) for each in records()] + [str(each) for each in JUNK]
    pieces = [
        "\n",
        "\n\n",
        "1. ",
        "[2] ",
        "Doc 1(Title: ",
        "<document>",
        "](http://a)",
        "---\n",
        "{",
        "]",
    ]
    for _ in range(150):
        base = rng.choice(texts)
        start = rng.randrange(len(base) + 1)
        text = rng.choice(pieces).join([base[start : start + 200], rng.choice(pieces), base[:100]])
        result = split_results(text)
        assert (result.form == NOTHING) == (not result.passages)
        assert result.form != WHOLE or len(result.passages) >= 1
