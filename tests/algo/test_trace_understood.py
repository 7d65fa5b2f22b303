"""What is understood of a log is counted, and a count that the data cannot support is withheld."""

from __future__ import annotations

import json
import zipfile
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.cli.diagnose import Diagnose
from calibadv_algo.cli.env_rules import make_rules
from calibadv_algo.cli.trace import Reading
from calibadv_algo.traces import reader as reader_module
from calibadv_algo.traces.base import LoggedEpisode, LoggedTurn, Place, TraceError
from calibadv_algo.types import Group
from calibadv_env.common import plugins as plugins_module

RULES = make_rules()
DOC = "\n\n<information>Doc 1(Title: {0}) Of {0}.\nDoc 2(Title: {1}) Of {1}.</information>\n\n"


def line(
    query: str, titles: tuple[str, str], answer: str, score: float, gts: Any
) -> dict[str, Any]:
    output = f"<think>{query}.</think>\n<search>{query}</search>" + DOC.format(*titles)
    output += f"<think>So.</think>\n<answer>{answer}</answer>"
    return {"input": "Question: Capital of Morocco?", "output": output, "gts": gts, "score": score}


def rollouts(gts: Any = "Rabat") -> list[dict[str, Any]]:
    return [
        line("capital", ("Rabat", "Morocco"), "Rabat", 1.0, gts),
        line("city", ("Rabat", "Morocco"), "Fes", 0.0, gts),
        line("weather", ("Rain", "Snow"), "Tangier", 0.0, gts),
    ]


def write(tmp_path: Path, records: list[Any]) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def imported(path: Path, **settings: Any) -> list[Group]:
    reading = Reading(**settings)
    return [group for log in reading.logs(path) for group in reading.groups(log, reading.rules())]


def counts_of(path: Path, **settings: Any) -> dict[str, Any]:
    file = path.parent / "counts.json"
    assert Diagnose(traces=(path,), json=file, reading=Reading(**settings)).run() == 0
    return dict(json.loads(file.read_text()))


def turns_of(path: Path, **settings: Any) -> list[tuple[str, Any]]:
    infos = [turn.info for turn in imported(path, **settings)[0].trajectories[0].turns]
    return [(each["action"], each["query"] or each["answer"]) for each in infos]


# ---- Accepted answers that were written as text --------------------------------------------------


@pytest.mark.parametrize(
    ("gts", "was_text"),
    [
        ({"target": ["Rabat", "Ar-Ribat"]}, False),
        ({"target": "['Rabat' 'Ar-Ribat']"}, True),
        ("['Rabat', 'Ar-Ribat']", True),
        ('["Rabat", "Ar-Ribat"]', True),
        ("{'target': array(['Rabat', 'Ar-Ribat'], dtype=object)}", True),
        ('{"target": ["Rabat"]}', True),
        ("Rabat", False),
    ],
)
def test_answers_written_as_text_are_read_and_counted(
    gts: Any, was_text: bool, tmp_path: Path
) -> None:
    found = counts_of(write(tmp_path, rollouts(gts)), reward="f1")
    assert (found["total"]["num_correct"], found["total"]["num_punished"]) == (2, 1)
    assert found["understood"]["num_answers_were_text"] == 3 * was_text
    assert found["understood"]["fields_taken"] == {"answers: gts": 3, "score: score": 3}


# ---- Calls and results ---------------------------------------------------------------------------


def talk(calls: list[tuple[str, Any, str]], answer: str, score: float) -> dict[str, Any]:
    """A conversation with one call a turn: tool, arguments and result."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "Q?"}]
    for number, (name, arguments, result) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        said.append(
            {"role": "assistant", "tool_calls": [{"id": f"c{number}", "function": function}]}
        )
        said.append({"role": "tool", "tool_call_id": f"c{number}", "content": result})
    said.append({"role": "assistant", "content": answer})
    return {"messages": said, "score": score, "answer": "A"}


FOUND = json.dumps([{"title": "A", "text": "a"}, {"title": "B", "text": "b"}])


def test_visits_and_unknown_tools_are_counted_by_name(tmp_path: Path) -> None:
    calls = [("bing_web_search", {"query": "q"}, FOUND), ("visit", {"url": ["u"]}, "a page"),
             ("calculator", {"x": "1"}, "2"), ("submit_result", {"result": "A"}, "")]  # fmt: skip
    path = write(tmp_path, [talk(calls, "A", 1.0), talk(calls[:2], "B", 0.0)])
    found = counts_of(path)["understood"]
    assert found["searches"] == {"bing_web_search": 2}
    assert found["visits"] == {"visit": 2}
    assert found["calls_not_understood"] == {"calculator": 1}
    assert found["answers"] == {"submit_result": 1, "(text)": 2}
    assert turns_of(path)[1] == ("visit", None)
    assert not imported(path)[0].trajectories[0].final_info["is_format_valid"]
    assert imported(path)[0].trajectories[1].final_info["is_format_valid"]


def test_results_belong_to_their_calls(tmp_path: Path) -> None:
    record = talk([("search", {"query": "q"}, FOUND)], "A", 1.0)
    visit = {"id": "v", "function": {"name": "open_page", "arguments": "{}"}}
    record["messages"][1]["tool_calls"].append(visit)
    record["messages"].insert(2, {"role": "tool", "tool_call_id": "v", "content": "One.\n\nTwo."})
    (only,) = imported(write(tmp_path, [record]))[0].trajectories
    assert only.turns[0].info["passages"] == (("A", "a"), ("B", "b"))


def withheld(records: list[Any], tmp_path: Path, **settings: Any) -> str:
    found = counts_of(write(tmp_path, records), **settings)
    assert (found["withheld"] == []) == ("GRPO punishes" in found["headline"][0])
    return " ".join(found["withheld"])


def test_a_count_is_withheld_where_results_are_opaque(tmp_path: Path) -> None:
    both = [
        talk([("search", {"query": q}, "One paragraph.")], "A", s)
        for q, s in (("q", 1.0), ("r", 0.0))
    ]
    told = withheld(both, tmp_path)
    assert "2 of 2 results could not be split" in told
    assert "--whole-results" in told
    assert withheld(both, tmp_path, whole_results=True) == ""


def test_a_count_is_withheld_where_nothing_is_shared(tmp_path: Path) -> None:
    other = json.dumps([{"title": "C", "text": "c"}])
    both = [talk([("search", {"query": "q"}, f)], "A", s) for f, s in ((FOUND, 1.0), (other, 0.0))]
    assert "No two rollouts of any group found the same passage" in withheld(both, tmp_path)


def test_a_count_is_withheld_without_searches(tmp_path: Path) -> None:
    both = [talk([("lookup", {"query": "q"}, FOUND)], "A", score) for score in (1.0, 0.0)]
    told = withheld(both, tmp_path, validity="answered")
    assert "lookup 2" in told
    assert "--search-tools" in told
    assert withheld(both, tmp_path, search_tools=("lookup",)) == ""


def test_where_every_format_is_invalid_the_flag_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{**each, "output": "Well. " + each["output"]} for each in rollouts()]
    assert "--validity answered" in withheld(records, tmp_path)
    assert "–" in capsys.readouterr().out
    assert withheld(records, tmp_path, validity="answered") == ""


# ---- Ways to write calls -------------------------------------------------------------------------

END = {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    "said",
    [
        [{"type": "reasoning", "summary": []},
         {"type": "web_search_call", "action": {"type": "search", "query": "q"}}, END],
        [{"role": "model", "parts": [{"functionCall": {"name": "search", "args": {"query": "q"}}}]},
         {"role": "user", "parts": [
             {"functionResponse": {"name": "search", "response": {"content": FOUND}}}]},
         {"role": "model", "parts": [{"text": "A"}]}],
        [{"type": "ai", "data": {"content": "", "tool_calls": [
            {"name": "search", "args": {"query": "q"}}]}},
         {"type": "ai", "data": {"content": "A"}}],
        [{"lc": 1, "id": ["langchain", "AIMessage"], "kwargs": {"content": "", "tool_calls": [
            {"name": "search", "args": {"query": "q"}}]}}, END],
        [{"from": "function_call", "value": '{"name": "search", "arguments": {"query": "q"}}'},
         {"from": "observation", "value": FOUND}, {"from": "gpt", "value": "A"}],
        [{"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s",
             "content": [{"title": "A", "url": "u"}]},
            {"type": "text", "text": "A"}]}],
        [{"type": "tool_call", "tool_name": "search", "arguments": '{"query": "q"}',
          "output": FOUND},
         {"type": "output_text", "output": "A"}],
        [{"step_number": 1, "observations": FOUND,
          "model_output": "Thought: t\n<code>\nr = web_search('q')\nprint(r)\n</code>"},
         {"step_number": 2, "model_output": "<code>final_answer('A')</code>", "observations": ""}],
        [{"thought": "t", "action": "search", "action_input": "q", "observation": FOUND}, END],
        [{"role": "assistant", "content": "Thought: t\nAction: search\nAction Input: q"},
         {"role": "user", "content": f"Observation: {FOUND}"},
         {"role": "assistant", "content": "Thought: t\nFinal Answer: A"}],
        [{"role": "assistant", "content": "<think>t</think><tool_call>\n<function=search>\n"
          "<parameter=query>\nq\n</parameter>\n</function>\n</tool_call>"}, END],
        [{"role": "assistant", "content": "<tool_call>search\n<arg_key>query</arg_key>\n"
          "<arg_value>q</arg_value>\n</tool_call>"}, END],
        [{"role": "assistant", "content": "<use_mcp_tool>\n<server_name>s</server_name>\n"
          "<tool_name>google_search</tool_name>\n<arguments>\n"
          '{"q": "q"}\n</arguments>\n</use_mcp_tool>'},
         {"role": "assistant", "content": "\\boxed{A}"}],
        [{"role": "assistant", "content": '<call_tool name="google_search">q</call_tool>'}, END],
    ],
    ids=["responses", "gemini", "langchain data", "langchain dumps", "sharegpt call",
         "server tool", "browsecomp", "smolagents", "steps", "react", "qwen coder", "glm", "mcp",
         "dr tulu"],
)  # fmt: skip
def test_calls_in_every_form(said: list[Any], tmp_path: Path) -> None:
    record = {"question": "Q?", "messages": [{"role": "user", "content": "Q?"}, *said], "score": 1}
    assert turns_of(write(tmp_path, [record])) == [("search", "q"), ("answer", "A")]


def test_marks_of_search_o1(tmp_path: Path) -> None:
    output = (
        "Okay. <|begin_search_query|>q<|end_search_query|>\n\n<|begin_search_result|>\n"
        "[1] One.\n[2] Two.\n<|end_search_result|>\n\nSo \\boxed{\\text{A}}."
    )
    record = {"Question": "Q?", "Output": output, "Metrics": {"em": 1}, "answer": "A"}
    path = write(tmp_path, [record])
    assert turns_of(path) == [("search", "q"), ("answer", "A")]
    (only,) = imported(path)[0].trajectories
    assert (only.reward, only.reset_info["question"]) == (1.0, "Q?")
    assert only.final_info["is_format_valid"]


# ---- Records and groups --------------------------------------------------------------------------


def test_objects_that_hold_several_rollouts(tmp_path: Path) -> None:
    first, second, third = rollouts()
    shared = {"question": "Q?", "answer": "Rabat"}
    for whole in (
        {**shared, "rollouts": [first, second, third]},
        {"config": {"n": 3}, "results": [first, second, third]},
        {**shared, "prompt": "Q?", "responses": [each["output"] for each in rollouts()],
         "scores": [1, 0, 0]},
        {"a": first, "b": second, "c": third},
    ):  # fmt: skip
        path = tmp_path / "whole.json"
        path.write_text(json.dumps(whole, indent=1))
        (group,) = imported(path)
        assert [each.reward for each in group.trajectories] == [1.0, 0.0, 0.0]


def test_a_field_that_joins_two_questions_groups_nothing(tmp_path: Path) -> None:
    records = [
        {**each, "index": i, "question": q}
        for q in ("Q?", "R?")
        for i, each in enumerate(rollouts())
    ]
    for record in records:
        record["input"] = f"{record['question']} {record['index']}"
    (log,) = Reading().logs(write(tmp_path, records))
    assert (log.grouped_by, [len(each) for each in log.groups.values()]) == ("question", [3, 3])


def test_a_zip_of_inspect(tmp_path: Path) -> None:
    log = json.loads(
        (Path(__file__).parents[1] / "data" / "traces" / "inspect_log.json").read_text()
    )
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
        for sample in log["samples"]:
            archive.writestr(
                f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample)
            )
    (group,) = imported(path)
    assert [each.reward for each in group.trajectories] == [1.0, 0.0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TraceError, match=r"log\.eval: cannot read the file"):
        imported(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(TraceError, match=r"is a Git LFS pointer, .*`git lfs pull`"):
        imported(path)


def test_fields_can_be_named(tmp_path: Path) -> None:
    record = rollouts()[0]
    given = {
        "ask": "Q?",
        "out": {"text": record["output"]},
        "grade": {"judge": "Incorrect"},
        "refs": ["Fes"],
    }
    path = write(tmp_path, [given])
    names = ("question=ask", "prompt=ask", "response=out.text", "score=grade.judge", "answers=refs")
    (only,) = imported(path, field=names)[0].trajectories
    assert (only.reward, only.reset_info["golden_answers"]) == (0.0, ("Fes",))
    assert only.reset_info["question"] == "Q?"
    with pytest.raises(ValueError, match="field must be one of question, answers"):
        imported(path, field=("scores=x",))
    with pytest.raises(ValueError, match="format must be auto or one of flashrag"):
        imported(path, format="nope")


def test_scores_in_objects(tmp_path: Path) -> None:
    record = rollouts()[0]
    metrics = {"answer": "x", "answer_exact": 1.0, "turns": 3}
    for score, expected in ((metrics, 1.0), ([0, 0.5, 0.25], 0.75)):
        (only,) = imported(write(tmp_path, [{**record, "score": score}]))[0].trajectories
        assert only.reward == expected
    with pytest.raises(TraceError, match="got an object with turns, tokens; --field score=NAME"):
        imported(write(tmp_path, [{**record, "score": {"turns": 3, "tokens": 9}}]))


# ---- Shapes of others ----------------------------------------------------------------------------


class Mine(reader_module.TraceReader):
    """A shape of another package."""

    name = "mine"

    def reads(self, record: Any) -> bool:
        return "mine" in record

    def episodes(self, record: Any, place: Place) -> list[LoggedEpisode]:
        turn = LoggedTurn(action=record["mine"], text=record["mine"])
        made = LoggedEpisode(
            where=place.where,
            format="mine",
            prompt="p",
            question="q",
            answers=None,
            turns=(turn,),
            reward=1.0,
            step=0,
        )
        return [made]


def test_a_shape_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", f"{__name__}:Mine", reader_module.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Mine)
    monkeypatch.setattr(plugins_module, "entry_points", lambda group: EntryPoints([entry]))
    path = write(tmp_path, [{"mine": "<answer>a</answer>"}, {"mine": "<answer>b</answer>"}])
    (log,) = Reading().logs(path)
    assert (log.format, turns_of(path, format="mine")) == ("mine", [("answer", "a")])
