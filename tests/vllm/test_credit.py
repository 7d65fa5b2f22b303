"""`calibadv credit` with a real vLLM: continuations from the sampled tokens, through its cache."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.rollout.engines.vllm.engine import VllmEngine
from calibadv_algo.rollout.journal import intact_lines
from calibadv_algo.rollout.records import trajectory_from_record

SIZE = ("--questions", "6", "--group-size", "4", "--continuations", "4", "--estimators", "rloo")


def sampled(folder: Path) -> list[Any]:
    """Episodes of a measurement's groups."""
    records = [json.loads(line) for line in list(intact_lines(folder / "measurements.jsonl"))[1:]]
    return [trajectory_from_record(each["trajectory"]) for each in records if "trajectory" in each]


def contexts_and_turns(trajectory: Any) -> list[tuple[tuple[int, ...], Any]]:
    """Tokens before each turn, and the turn."""
    context, found = tuple(trajectory.prompt_ids), []
    for turn in trajectory.turns:
        found.append((context, turn))
        context = (*context, *turn.action_ids, *turn.observation_ids)
    return found


def test_states_are_played_on_from_their_tokens_and_through_the_prefix_cache(
    tmp_path: Path,
    kit: SimpleNamespace,
    loaded: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[int, ...]] = []
    engines: list[VllmEngine] = []
    submit = VllmEngine.submit

    def noting(self: VllmEngine, requests: Any, params: Any) -> None:
        asked.extend(tuple(each.token_ids) for each in requests)
        if self not in engines:
            engines.append(self)
        submit(self, requests, params)

    monkeypatch.setattr(VllmEngine, "submit", noting)
    flags = ["credit", "atlas-tiny", "--engine", "vllm", *SIZE, "--output", str(tmp_path)]
    assert main(flags) == 0
    [engine] = engines
    trajectories = sampled(tmp_path)
    assert len(trajectories) == 24
    pairs = [pair for each in trajectories for pair in contexts_and_turns(each)]
    counts = Counter(asked)
    states = {context for context, _ in pairs}
    (result,) = json.loads((tmp_path / "credit.json").read_text())
    assert len(states) == result["facts"]["states"]
    # The turns of the groups themselves, and at least four continuations of each state.
    played = Counter(context for context, _ in pairs)
    assert all(counts[each] >= played[each] + 4 for each in states)
    turns = [SimpleNamespace(token_ids=t.action_ids, logprobs=t.logprobs) for _, t in pairs]
    ours, theirs = kit.recomputed(loaded[0], [context for context, _ in pairs], turns, 1.0)
    assert np.abs(ours - theirs).max() < 1e-3
    share = engine.counters.num_reused / engine.counters.num_prompt
    assert share > 0.5, "continuations find their state in the prefix cache"
    capsys.readouterr()
    number = len(asked)
    assert main(flags) == 0
    assert len(asked) == number, "nothing is sampled again"
