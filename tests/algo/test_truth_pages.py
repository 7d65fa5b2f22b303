"""Measured credit of opening pages: a scripted reader with exact values, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.experiments.truth.audit import audit
from calibadv_algo.experiments.truth.candidates import Field, own_candidate
from calibadv_algo.experiments.truth.log import TruthLog
from calibadv_algo.experiments.truth.measuring import Plan, measure
from calibadv_algo.learner.pretrained import load_tokenizer
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.slots import make_slots
from calibadv_env import get_dataset
from calibadv_env.protocol.pages import page_of

pytestmark = pytest.mark.slow

ENV_ID = "calibadv_env:DeepSearch-Pages-v0"
GIVES_UP, ERRS = 0.15, 0.3
FALL = (1 - GIVES_UP) * (1 - ERRS) / (1 - (1 - GIVES_UP) * ERRS)
"""Value of a state with one gold section more to read, in units of that with one less."""


def reader(tasks: dict[str, Any]) -> Any:
    """A reader of the gold sections that gives up or opens the wrong place by chance.

    Where it opens the wrong place nothing changes for it, so with ``k`` sections to read a state
    is worth ``FALL ** k``.
    """

    def write(context: str, seed: int) -> str:
        question = re.search(r"Question: (.*)\n", context)
        assert question is not None
        task = tasks[question[1].strip()]
        opened = {each.strip() for each in re.findall(r"<open>(.*?)</open>", context)}
        left = [hop[0] for hop in task.gold_passages if hop[0] not in opened]
        if not left:
            return f"<think> found</think><answer> {task.golden_answers[0]}</answer>"
        rng = np.random.default_rng(seed)
        if rng.random() < GIVES_UP:
            return "<think> give up</think><answer> nobody knows</answer>"
        place = page_of(left[0]) if rng.random() < ERRS else left[0]
        return f"<think> read</think><open> {place}</open>"

    return write


def test_a_reader_of_pages_has_its_exact_values(tmp_path: Path) -> None:
    tasks = list(get_dataset("pages").tasks("dev"))
    chosen = [
        i
        for i, task in enumerate(tasks)
        if all(task.gold_passages) and 2 <= len(task.gold_passages) <= 3
        and not str(task.golden_answers[0]).startswith("unanswerable")
    ][:16]  # fmt: skip
    by_question = {tasks[i].question: tasks[i] for i in chosen}
    kwargs = {"dataset": "pages", "split": "dev", "prompt": "question", "max_turns": 60}
    slots = make_slots(ENV_ID, 16, {**kwargs, "call_budget": 60, "max_observation_chars": 110})
    tokenizer: Any = load_tokenizer("atlas-tiny")
    engine = ScriptedEngine(reader(by_question), tokenizer)
    params = SamplingParams(max_tokens=400, stop=("</search>", "</open>", "</find>", "</answer>"))
    log = TruthLog(tmp_path, {})
    try:
        player = Player(slots, engine, tokenizer, params)
        measured = measure(player, chosen, Plan(group_size=4, continuations=16), log)
    finally:
        log.close()
        slots.close()
    assert len(measured.groups) == len(chosen)
    names = ("grpo", "calibadv/gold", "calibadv/inverted")
    result = audit(measured.groups, Field(candidates=tuple(own_candidate(n) for n in names)))
    turns = result.turns
    assert set(turns.kind.tolist()) == {"open", "answer"}
    right = turns.is_search & (turns.gold == 1)
    wrong = turns.is_search & (turns.gold == 0)
    assert min(right.sum(), wrong.sum()) > 30
    # A right open is worth what one section less is; the beginning of a page changes nothing.
    exact = exact_advantages(measured.groups, by_question)
    searches = exact[turns.is_search]
    error = np.sqrt(np.mean(turns.error**2))
    assert np.abs(turns.truth[turns.is_search] - searches).mean() < error
    assert abs(turns.truth[wrong].mean()) < 0.06
    assert turns.truth[right].mean() == pytest.approx(exact[right].mean(), abs=0.06)
    known = {n: s.scores["correlation"].estimate for n, s in result.standings["searches"].items()}
    assert known["calibadv/gold"] > known["calibadv/inverted"]


def exact_advantages(groups: Any, tasks: dict[str, Any]) -> np.ndarray:
    """True advantages of all turns by the reader's exact values; 0 of answers."""
    found = []
    for each in groups:
        task = tasks[each.group.trajectories[0].reset_info["question"]]
        gold = [hop[0] for hop in task.gold_passages]
        for trajectory in each.group.trajectories:
            left = set(gold)
            for turn in trajectory.turns:
                before = len(left)
                left -= {p.strip() for p in re.findall(r"<open>(.*?)</open>", turn.action_text)}
                found.append(FALL ** len(left) - FALL**before)
    return np.array(found)


def test_the_command_finishes_on_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped policy can only search: it earns nothing on pages, and the command says so."""
    flags = ("--env.env-id", ENV_ID, "--env.dataset", "pages", "--env.reward", "typed")
    size = ("--questions", "4", "--group-size", "3", "--continuations", "4")
    named = ("--estimators", "calibadv/gold", "--output", str(tmp_path))
    assert main(["credit", "atlas-tiny", *flags, *size, *named]) == 0
    (result,) = json.loads((tmp_path / "credit.json").read_text())
    assert result["facts"]["questions"] == 4
    assert result["facts"]["env_id"] == ENV_ID
    assert result["num_turns"]["answers"] == 12
    assert (tmp_path / "credit.html").exists()
    assert "All searches look alike" in capsys.readouterr().out
