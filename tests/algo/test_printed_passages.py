"""The form in which passages are printed is the environment's affair: no algorithm reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from calibadv_algo.credit.relevance import RelevanceCredit
from calibadv_algo.report.assessment import assess
from calibadv_algo.report.diagnosis import Source
from calibadv_algo.report.groups import GroupView, iterate_groups, view
from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.shaping.base import turn_rewards
from calibadv_algo.shaping.relevance import RelevanceReward
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.protocol import passages
from calibadv_env.protocol.passages import ScoredPassage

SEARCH = "<think>I look for {0}.</think><search>{0}</search>"
MARKED = "I look for {0}. <|begin_of_query|>{0}<|end_of_query|>"
ANSWER = "<think>Enough.</think><answer>{}</answer>"
QUERIES = (("river in a country", "capital"), ("currency", "born in a city"))
"""Searches of the two trajectories of a group."""


def play(prompt: str = "question") -> Group:
    """Plays two episodes of one task of the toy world, one of them to a right answer."""
    env = gymnasium.make("DeepSearch-Toy-v1", prompt=prompt)
    search = MARKED if prompt == "r1_searcher" else SEARCH
    members = []
    for number, queries in enumerate(QUERIES):
        text, reset_info = env.reset(seed=0, options={"task_index": 0})
        answer = reset_info["golden_answers"][0] if number == 0 else "nothing"
        turns = []
        for action in [search.format(query) for query in queries] + [ANSWER.format(answer)]:
            seen, reward, _, _, info = env.step(action)
            turns.append(
                Turn(
                    action_ids=(1,),
                    action_text=action,
                    logprobs=(0.0,),
                    observation_text=seen,
                    reward=float(reward),
                    info=info,
                )
            )
        members.append(
            Trajectory(
                group_id="g",
                task_id=reset_info["task_id"],
                prompt_ids=(1,),
                prompt_text=text,
                turns=tuple(turns),
                reset_info=reset_info,
            )
        )
    return Group(tuple(members))


def shown(group: GroupView) -> list[list[list[tuple[str, str, str | None]]]]:
    """Id, title and text of the passages of every turn."""
    return [
        [[(each.id, each.title, each.text) for each in turn.passages] for turn in row.turns]
        for row in group.trajectories
    ]


def seen_by_all(folder: Path) -> dict[str, Any]:
    """What credit, relevance, report and diagnosis make of passages in fresh episodes."""
    group = play()
    folder.mkdir()
    file = folder / "update-00000.jsonl"
    file.write_text("".join(trajectory_to_json(each) + "\n" for each in group.trajectories))
    source = Source(label="run")
    source.add(iterate_groups(file))
    (diagnosed,) = source.best.views(1, arm="run")
    (recorded,) = iterate_groups(file)
    assert "Doc 1(Title:" in group.trajectories[0].turns[0].observation_text or folder.name == "b"
    return {
        "credit": RelevanceCredit()(group).tolist(),
        "relevance": turn_rewards(RelevanceReward()(group)).tolist(),
        "report": shown(view(assess(recorded), arm="a", seed=0)),
        "diagnosis": shown(diagnosed),
    }


def as_table(found: Sequence[ScoredPassage]) -> str:
    rows = (f"| {each.passage.text} | {each.passage.title} |\n" for each in found)
    return "".join(["| what is known | name |\n", *rows])


def test_another_printed_form_changes_nothing_for_algorithms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen_by_all(tmp_path / "a")
    monkeypatch.setattr(passages, "format_passages", as_table)
    assert "| name |" in play().trajectories[0].turns[0].observation_text
    after = seen_by_all(tmp_path / "b")
    for reader, found in before.items():
        np.testing.assert_equal(after[reader], found, err_msg=reader)
    texts = [each for row in before["report"] for turn in row for each in turn]
    assert len(texts) == 12
    assert all(text and title for _, title, text in texts)


@pytest.mark.parametrize("prompt", ["question", "search_r1", "r1_searcher"])
def test_runs_recorded_before_the_key_are_read(tmp_path: Path, prompt: str) -> None:
    group = play(prompt)
    file = tmp_path / "update-00000.jsonl"
    records = [json.loads(trajectory_to_json(each)) for each in group.trajectories]
    for record in records:
        del record["passages"]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (old,) = iterate_groups(file)
    for before, after in zip(group.trajectories, old.trajectories, strict=True):
        for played, read in zip(before.turns, after.turns, strict=True):
            expected = played.info["passages"]
            if prompt == "r1_searcher":  # its form does not say where a title ends
                expected = tuple(("", f"{title} {text}") for title, text in expected)
            assert read.info.get("passages", ()) == expected
