"""Logs with a round over the questions in every file, whose records name the round a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.traces.grouping import read_logs

QUESTIONS = {"Where is A?": "B", "Where is C?": "D", "Where is E?": "F"}


def record(step: int, question: str, score: float) -> str:
    said = (
        f"<think>x</think><search>{question}</search>",
        f"<think>y</think><answer>{QUESTIONS.get(question, 'G')}</answer>",
    )
    found = '<information>Doc 1(Title: "T") text</information>'
    talk = [("user", question), ("assistant", said[0]), ("user", found), ("assistant", said[1])]
    messages = [{"role": role, "content": content} for role, content in talk]
    return json.dumps({"step": step, "question": question, "score": score, "messages": messages})


def rounds(folder: Path, steps: list[int], questions: list[list[str]]) -> Path:
    folder.mkdir()
    for step, asked in zip(steps, questions, strict=True):
        rows = [record(step, each, float((step + i) % 2)) for i, each in enumerate(asked)]
        (folder / f"run_{step:03}.jsonl").write_text("\n".join(rows))
    return folder


def sizes(source: Path) -> list[int]:
    return [len(each) for log in read_logs(source) for each in log.groups.values()]


@pytest.mark.parametrize("first", [0, 1])
def test_rounds_are_joined_and_that_is_said(
    tmp_path: Path, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rounds(tmp_path / "runs", [first, first + 1, first + 2], [list(QUESTIONS)] * 3)
    assert sizes(folder) == [3, 3, 3]
    assert main(["diagnose", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "their steps are taken for rounds over the same questions" in said
    whole = tmp_path / "all.jsonl"
    whole.write_text("\n".join(path.read_text() for path in sorted(folder.iterdir())))
    assert sizes(whole) == [3, 3, 3]


def test_a_round_may_lack_a_question(tmp_path: Path) -> None:
    asked = [list(QUESTIONS), list(QUESTIONS)[:2]]
    assert sorted(sizes(rounds(tmp_path / "runs", [0, 1], asked))) == [1, 2, 2]


@pytest.mark.parametrize(
    ("steps", "questions"),
    [
        ([0, 100, 200], [list(QUESTIONS)] * 3),  # evaluations between updates
        ([1, 2, 3], [[question] for question in QUESTIONS]),  # updates with other questions
        ([1, 2], [["Where is A?"], ["Where is A?", "G?", "H?", "I?"]]),
    ],
)
def test_updates_are_not_joined(
    tmp_path: Path, steps: list[int], questions: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rounds(tmp_path / "runs", steps, questions)
    assert set(sizes(folder)) == {1}
    whole = tmp_path / "all.jsonl"
    whole.write_text("\n".join(path.read_text() for path in sorted(folder.iterdir())))
    assert main(["trace", "import", str(whole), "--output", str(tmp_path / "out.jsonl")]) == 0
    said = capsys.readouterr().out
    assert f"rollouts of different steps ({len(steps)}) are not compared" in said
