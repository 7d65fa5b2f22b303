"""Logs of more systems: a message on every line, events, blocks, steps of environments, traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.main import main
from calibadv_algo.cli.trace import Reading

PASSAGES = [
    {"title": "T1", "text": "Doc about A. It is B."},
    {"title": "T2", "text": "Doc about C. It is D."},
]
DOCS = json.dumps(PASSAGES)
TAGGED = '<information>Doc 1(Title: "T1") It is B.\nDoc 2(Title: "T2") It is D.\n</information>'
CALL = {"id": "c", "type": "function", "function": {"name": "search", "arguments": '{"query":"A"}'}}
ASKED = {"role": "user", "content": "What is A?"}


def messages(answer: str) -> list[dict[str, Any]]:
    return [
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": DOCS},
        {"role": "assistant", "content": f"It is {answer}."},
    ]


def bare(answer: str, score: float) -> list[dict[str, Any]]:
    return [*messages(answer), {"score": score, "golden_answers": ["B"]}]


def codex(answer: str, score: float) -> list[dict[str, Any]]:
    said = [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What is A?"}],
        },
        {"type": "function_call", "name": "search", "arguments": '{"query":"A"}', "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": DOCS},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": f"It is {answer}."}],
        },
    ]
    lines = [{"timestamp": "t", "type": "response_item", "payload": each} for each in said]
    return [{"type": "session_meta", "payload": {"id": answer}}, *lines, {"score": score}]


def claude_code(answer: str, score: float) -> list[dict[str, Any]]:
    def line(message: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"type": message["role"], "message": message, "uuid": "u", **more}

    call = {"type": "tool_use", "id": "tu", "name": "WebSearch", "input": {"query": "A"}}
    result = {"type": "tool_result", "tool_use_id": "tu", "content": DOCS}
    return [
        {"type": "summary", "summary": "s"},
        line(ASKED),
        line(
            {"role": "assistant", "id": "m1", "content": [{"type": "thinking", "thinking": "hm"}]}
        ),
        line({"role": "assistant", "content": "I am another."}, isSidechain=True),
        line({"role": "assistant", "id": "m1", "content": [call]}),
        line({"role": "user", "content": [result]}),
        line(
            {
                "role": "assistant",
                "id": "m2",
                "content": [{"type": "text", "text": f"It is {answer}."}],
            }
        ),
        {"score": score},
    ]


def openhands(answer: str, score: float) -> dict[str, Any]:
    searched = {"name": "tavily_search", "arguments": {"query": "A"}, "thought": "I search"}
    history = [
        {"source": "user", "action": "message", "args": {"content": "What is A?"}},
        {"source": "agent", "action": "call_tool_mcp", "args": searched},
        {"source": "environment", "observation": "mcp", "content": DOCS},
        {"source": "environment", "observation": "agent_state_changed", "content": ""},
        {"source": "agent", "action": "finish", "args": {"final_thought": f"It is {answer}."}},
    ]
    return {"instance_id": "i", "history": history, "test_result": {"result": bool(score)}}


def llamaindex(answer: str, score: float) -> dict[str, Any]:
    def blocks(text: str) -> list[dict[str, str]]:
        return [{"block_type": "text", "text": text}]

    said = [
        {"role": "user", "additional_kwargs": {}, "blocks": blocks("What is A?")},
        {"role": "assistant", "additional_kwargs": {"tool_calls": [CALL]}, "blocks": []},
        {"role": "tool", "additional_kwargs": {"tool_call_id": "c"}, "blocks": blocks(DOCS)},
        {"role": "assistant", "additional_kwargs": {}, "blocks": blocks(f"It is {answer}.")},
    ]
    return {"messages": said, "score": score}


def environment(answer: str, score: float) -> dict[str, Any]:
    steps = [
        {"observation": "What is A?", "action": "<think>a</think><search>A</search>"},
        {"observation": TAGGED, "action": f"<think>b</think><answer>It is {answer}.</answer>"},
    ]
    return {"uid": "g", "episode_reward": score, "steps": steps}


def langfuse(answer: str, score: float) -> dict[str, Any]:
    *given, said = messages(answer)
    observations = [
        {"type": "GENERATION", "input": given[:1], "output": given[1]},
        {"type": "SPAN", "name": "search", "input": {"query": "A"}, "output": PASSAGES},
        {"type": "GENERATION", "input": given, "output": said},
    ]
    outer = {"input": {"question": "What is A?"}, "output": said["content"]}
    return {"id": answer, **outer, "observations": observations,
            "scores": [{"name": "correct", "value": score}]}  # fmt: skip


def langsmith(answer: str, score: float) -> dict[str, Any]:
    outputs = {"messages": messages(answer), "output": f"It is {answer}."}
    stats = {"correctness": {"n": 1, "avg": score}}
    return {"inputs": {"input": "What is A?"}, "outputs": outputs, "feedback_stats": stats}


@pytest.mark.parametrize("form", [bare, codex, claude_code])
def test_a_message_on_every_line_is_one_rollout_a_file(form: Any, tmp_path: Path) -> None:
    for name, answer, score in (("r1", "B", 1.0), ("r2", "C", 0.0)):
        lines = "\n".join(map(json.dumps, form(answer, score)))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    check(tmp_path)


@pytest.mark.parametrize(
    "form",
    [openhands, llamaindex, environment, langfuse, langsmith],
    ids=lambda form: form.__name__,
)
def test_records_of_more_systems(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(form(*each)) for each in (("B", 1.0), ("C", 0.0))))
    check(path)


def check(source: Path) -> None:
    reading = Reading(validity="answered")
    (log,) = reading.logs(source)
    (group,) = reading.groups(log, reading.rules())
    for trajectory, answer, score in zip(group.trajectories, "BC", (1.0, 0.0), strict=True):
        first, last = trajectory.turns
        assert (first.info["action"], first.info["query"]) == ("search", "A")
        assert [title for title, _ in first.info["passages"]] == ["T1", "T2"]
        assert (last.info["action"], last.info["answer"]) == ("answer", f"It is {answer}.")
        assert trajectory.reset_info["question"] == "What is A?"
        assert last.reward == score


def test_a_rollout_without_score_and_answers_names_what_to_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, messages("B"))))
    assert main(["diagnose", str(path)]) == 1
    said = capsys.readouterr().err
    assert "neither a score nor accepted answers" in said
    assert '{"score": 1, "golden_answers"' in said
