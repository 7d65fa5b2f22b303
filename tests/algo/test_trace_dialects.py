"""More ways in which systems write the same two rollouts: messages, results, tools, scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.env_rules import make_rules
from calibadv_algo.cli.trace import Reading
from calibadv_algo.types import Group

QUESTION = "Which river flows through Zorbel?"
TOWN = ("Zorbel", "Zorbel is a town on the Quant.")
RIVER = ("Quant river", "The Quant is a river that flows through Zorbel.")
RUNS = (("river in Zorbel", (TOWN, RIVER), "Quant", 1.0),
        ("Zorbel river name", (RIVER, TOWN), "Miral", 0.0))  # fmt: skip
RULES = make_rules()
Hits = tuple[tuple[str, str], ...]


def hits(found: Hits) -> list[dict[str, str]]:
    return [{"title": title, "content": text} for title, text in found]


def chat(query: str, result: Any, answer: str, tool: str = "search") -> list[dict[str, Any]]:
    function = {"name": tool, "arguments": json.dumps({"query": query})}
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": result},
        {"role": "assistant", "content": answer},
    ]  # fmt: skip


def imported(path: Path, records: list[Any]) -> list[Group]:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    reading = Reading()
    return [group for log in reading.logs(path) for group in reading.groups(log, RULES)]


def check(groups: list[Group]) -> None:
    (group,) = groups
    numbers: dict[str, int] = {}
    pattern = [
        [[numbers.setdefault(name, len(numbers)) for name in turn.info["passage_ids"]]
         for turn in each.turns]
        for each in group.trajectories
    ]  # fmt: skip
    assert pattern == [[[0, 1], []], [[1, 0], []]]
    assert [each.reward for each in group.trajectories] == [1.0, 0.0]
    assert [each.turns[-1].info["answer"] for each in group.trajectories] == ["Quant", "Miral"]
    for each in group.trajectories:
        assert each.reset_info["golden_answers"] == ("Quant",)
        assert each.reset_info["question"] == QUESTION
    texts = [text for _, text in group.trajectories[0].turns[0].info["passages"]]
    assert [text.endswith(own) for text, (_, own) in zip(texts, (TOWN, RIVER), strict=True)] == [
        True, True,
    ]  # fmt: skip


def _vercel(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"type": "tool-call", "toolCallId": "c", "toolName": "search", "input": {"query": query}}
    output = {"type": "json", "value": hits(found)}
    result = {"type": "tool-result", "toolCallId": "c", "toolName": "search", "output": output}
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [call]},
        {"role": "tool", "content": [result]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def _bedrock(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"toolUseId": "t", "name": "search", "input": {"query": query}}
    result = {"toolUseId": "t", "content": [{"text": json.dumps(hits(found))}]}
    return [
        {"role": "user", "content": [{"text": QUESTION}]},
        {"role": "assistant", "content": [{"toolUse": call}]},
        {"role": "user", "content": [{"toolResult": result}]},
        {"role": "assistant", "content": [{"text": answer}]},
    ]


def _pydantic(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"part_kind": "tool-call", "tool_name": "search", "args": {"query": query},
            "tool_call_id": "c"}  # fmt: skip
    result = {"part_kind": "tool-return", "tool_name": "search", "content": hits(found),
              "tool_call_id": "c"}  # fmt: skip
    return [
        {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": QUESTION}]},
        {"kind": "response", "parts": [call]},
        {"kind": "request", "parts": [result]},
        {"kind": "response", "parts": [{"part_kind": "text", "content": answer}]},
    ]


def _autogen(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"id": "c", "name": "search", "arguments": json.dumps({"query": query})}
    result = {"call_id": "c", "name": "search", "content": json.dumps(hits(found))}
    return [
        {"source": "user", "type": "TextMessage", "content": QUESTION},
        {"source": "seeker", "type": "ToolCallRequestEvent", "content": [call]},
        {"source": "seeker", "type": "ToolCallExecutionEvent", "content": [result]},
        {"source": "seeker", "type": "TextMessage", "content": answer},
    ]


def _atif(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"tool_call_id": "c", "function_name": "search", "arguments": {"query": query}}
    results = [{"source_call_id": "c", "content": json.dumps(hits(found))}]
    return [
        {"step_id": 1, "source": "user", "message": QUESTION},
        {"step_id": 2, "source": "agent", "message": "", "tool_calls": [call],
         "observation": {"results": results}},
        {"step_id": 3, "source": "agent", "message": answer},
    ]  # fmt: skip


def _search_results(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "t", "name": "search", "input": {"query": query}}
    blocks = [
        {"type": "search_result", "source": "u", "title": title,
         "content": [{"type": "text", "text": text}]}
        for title, text in found
    ]  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": "t", "content": blocks}
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": answer},
    ]


def _react(query: str, found: Hits, answer: str) -> list[dict[str, Any]]:
    lines = [f"Doc {i}(Title: {title}) {text}" for i, (title, text) in enumerate(found, 1)]
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": f"Thought: x\nAction: search\nAction Input: {query}"},
        {"role": "user", "content": "Observation: " + "\n".join(lines)},
        {"role": "assistant", "content": f"Thought: y\nFinal Answer: {answer}"},
    ]


DIALECTS: dict[str, Callable[[str, Hits, str], Any]] = {
    "vercel": _vercel, "bedrock": _bedrock, "pydantic": _pydantic, "autogen": _autogen,
    "anthropic search results": _search_results, "react": _react,
    "written as text": lambda query, found, answer: json.dumps(
        chat(query, json.dumps(hits(found)), answer)
    ),
    "hits as content": lambda query, found, answer: chat(query, hits(found), answer),
    "texts as content": lambda query, found, answer: chat(
        query, [{"title": title, "text": text} for title, text in found], answer
    ),
    "numbered elements": lambda query, found, answer: chat(
        query, "\n".join(f"<webpage {i}>\nTitle: {title}\n{text}\n</webpage {i}>"
                         for i, (title, text) in enumerate(found, 1)), answer
    ),
    "printed documents": lambda query, found, answer: chat(
        query, "[" + ", ".join(f"Document(metadata={{'title': {title!r}}}, page_content={text!r})"
                               for title, text in found) + "]", answer
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_the_same_rollouts_in_another_dialect(name: str, tmp_path: Path) -> None:
    records = [
        {"question": QUESTION, "answer": "Quant", "score": score,
         "messages": DIALECTS[name](query, found, answer)}
        for query, found, answer, score in RUNS
    ]  # fmt: skip
    check(imported(tmp_path / "log.jsonl", records))


def test_steps_of_atif_and_of_langchain(tmp_path: Path) -> None:
    atif = [
        {"question": QUESTION, "answer": "Quant", "reward": score,
         "steps": _atif(query, found, answer)}
        for query, found, answer, score in RUNS
    ]  # fmt: skip
    check(imported(tmp_path / "atif.jsonl", atif))
    langchain = [
        {"input": QUESTION, "output": answer, "answer": "Quant", "score": score,
         "intermediate_steps": [[{"tool": "search", "tool_input": query, "log": "x"},
                                 json.dumps(hits(found))]]}
        for query, found, answer, score in RUNS
    ]  # fmt: skip
    check(imported(tmp_path / "langchain.jsonl", langchain))


def _records(**changed: Callable[[float], Any]) -> list[dict[str, Any]]:
    """The usual records with other fields for score or answers, made of the score."""
    usual: dict[str, Callable[[float], Any]] = {"question": lambda _: QUESTION}
    return [
        {**{key: make(score) for key, make in (usual | changed).items()},
         "messages": chat(query, json.dumps(hits(found)), answer)}
        for query, found, answer, score in RUNS
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("success", bool),
        ("outcome", lambda score: "success" if score else "failure"),
        ("llm_judge", lambda score: "CORRECT" if score else "INCORRECT"),
        ("judge", lambda score: {"is_correct": bool(score), "reasoning": "x"}),
        ("reward_info", lambda score: {"score": score}),
        ("verifier_result", lambda score: {"rewards": {"reward": score}}),
        ("info", lambda score: {"reward": score}),
        ("rm_score", float),
        ("em_score", float),
    ],
)
def test_scores_under_other_names(name: str, make: Callable[[float], Any], tmp_path: Path) -> None:
    records = _records(answer=lambda _: "Quant", **{name: make})
    check(imported(tmp_path / "log.jsonl", records))


@pytest.mark.parametrize(
    "name", ["solution", "gt_answer", "ref_answer", "possible_answers", "expected_output"]
)
def test_answers_under_other_names(name: str, tmp_path: Path) -> None:
    records = _records(score=float, **{name: lambda _: ["Quant"]})
    check(imported(tmp_path / "log.jsonl", records))


@pytest.mark.parametrize(
    "tool", ["wikipedia", "tavily", "duckduckgo", "rag", "query_knowledge_base"]
)
def test_search_engines_by_their_names(tool: str, tmp_path: Path) -> None:
    records = [
        {"question": QUESTION, "answer": "Quant", "score": score,
         "messages": chat(query, json.dumps(hits(found)), answer, tool)}
        for query, found, answer, score in RUNS
    ]  # fmt: skip
    check(imported(tmp_path / "log.jsonl", records))


def test_rollouts_by_name_and_under_one_key(tmp_path: Path) -> None:
    records = _records(answer=lambda _: "Quant", score=float)
    by_name = [{"a": records[0], "b": records[1]}]
    check(imported(tmp_path / "named.json", by_name))
    check(imported(tmp_path / "held.jsonl", [{"data": each} for each in records]))


def test_a_whole_sequence_with_its_prompt(tmp_path: Path) -> None:
    def sequence(query: str, found: Hits, answer: str) -> str:
        lines = [f"Doc {i}(Title: {title}) {text}" for i, (title, text) in enumerate(found, 1)]
        return (
            f"<|im_start|>user\nQuestion: {QUESTION}\n<|im_end|>\n<|im_start|>assistant\n"
            f"<think>x</think><search>{query}</search><information>{chr(10).join(lines)}"
            f"</information><think>y</think><answer>{answer}</answer>"
        )

    records = [
        {"sequences_str": sequence(query, found, answer), "score": score,
         "ground_truth": {"target": ["Quant"]}}
        for query, found, answer, score in RUNS
    ]  # fmt: skip
    check(imported(tmp_path / "log.jsonl", records))
