"""Logs of other systems come in as what our own rollouts would have recorded."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from calibadv_algo.cli.env_rules import make_rules
from calibadv_algo.cli.trace import Reading, Trace
from calibadv_algo.report.assessment import assess
from calibadv_algo.rollout.records import trajectory_from_json
from calibadv_algo.traces.base import TraceError
from calibadv_algo.traces.building import build_groups, rescale
from calibadv_algo.traces.fields import question_of, texts_of
from calibadv_algo.traces.files import log_files
from calibadv_algo.traces.grouping import read_log
from calibadv_algo.traces.passages import name_passages
from calibadv_algo.traces.tagged import split_response
from calibadv_algo.types import Group


def load_logged() -> ModuleType:
    spec = importlib.util.spec_from_file_location("logged", Path(__file__).parent / "logged.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["logged"] = module
    spec.loader.exec_module(module)
    return module


logged = load_logged()
RULES = make_rules()
WRITERS = {
    "search-r1": logged.search_r1,
    "messages": logged.messages,
    "verifiers": logged.vf_eval,
    "verifiers v1": logged.vf_episode,
}
SAME = ("action", "query", "answer", "num_searches", "num_passages_new", "num_passages_seen",
        "answer_in_passages", "stop_reason", "turn", "em", "f1", "cover_em")  # fmt: skip


@pytest.fixture(scope="module")
def played() -> list[Any]:
    return list(logged.play())


def imported(path: Path, **settings: Any) -> list[Group]:
    reading = Reading(**settings)
    return reading.groups(reading.log(path), RULES)


def write(tmp_path: Path, *records: Any) -> Path:
    return Path(logged.write_lines(tmp_path / "log.jsonl", list(records)))


def response(*parts: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": "Question: Q?", "response": "".join(parts), "score": 0.0, **fields}


SEARCH = "<think>t</think><search>q</search>"
INFORMATION = "\n\n<information>Doc 1(Title: A) a text\n</information>\n\n"
ANSWER = "<think>t</think><answer>x</answer>"


# ---- The same episodes in every format -----------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_what_was_logged_is_what_the_environment_said(
    kind: str, played: list[Any], tmp_path: Path
) -> None:
    path = write(tmp_path, *(WRITERS[kind](each) for each in played))
    groups = imported(path)
    assert [len(group) for group in groups] == [4] * 6
    names: dict[str, str] = {}
    for got, own in zip([t for g in groups for t in g.trajectories], played, strict=True):
        assert got.reward == pytest.approx(own.reward)
        assert got.reset_info["golden_answers"] == own.info["golden_answers"]
        assert got.reset_info["question"] == own.info["question"]
        assert got.policy_version == (own.step if kind != "verifiers" else 0)
        assert len(got.turns) == len(own.turns)
        for turn, (_, _, info) in zip(got.turns, own.turns, strict=True):
            for key in SAME:
                assert turn.info.get(key) == info.get(key), key
            assert turn.info["think"].strip() == info["think"]
            assert "gold_new" not in turn.info
            for ours, theirs in zip(turn.info["passage_ids"], info["passage_ids"], strict=True):
                assert names.setdefault(theirs, ours) == ours
        assert got.final_info["is_format_valid"] == own.turns[-1][2]["is_format_valid"]
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_verdicts_are_those_of_our_own_record(kind: str, played: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path, *(WRITERS[kind](each) for each in played))
    own_groups = logged.groups_of(played)
    for group, own in zip(imported(path), own_groups, strict=True):
        assessed, expected = assess(group), assess(own)
        np.testing.assert_allclose(assessed.silver, expected.silver)
        np.testing.assert_allclose(assessed.reference, expected.reference, atol=1e-9)
        assert assessed.is_search.tolist() == expected.is_search.tolist()
        assert not assessed.is_gold_hit.any()
    assert any(assess(group).is_mispenalized.any() for group in own_groups)


def test_counts_of_tokens_say_where_they_come_from(played: list[Any], tmp_path: Path) -> None:
    (first, *_), *_ = [
        g.trajectories for g in imported(write(tmp_path, logged.search_r1(played[0])))
    ]
    assert first.reset_info["token_counts"] == "re-encoded"
    assert first.reset_info["tokenizer"] == "atlas-tiny"
    assert len(first.turns[0].action_ids) == len(RULES.encode(first.turns[0].action_text))
    assert all(math.isnan(value) for value in first.turns[0].logprobs)
    (first, *_), *_ = [
        g.trajectories for g in imported(write(tmp_path, logged.vf_episode(played[0])))
    ]
    assert first.reset_info["token_counts"] == "logged"
    assert "tokenizer" not in first.reset_info
    assert [len(turn.action_ids) for turn in first.turns] == [3, 5, 7]
    assert first.turns[0].logprobs == (-0.25,) * 3


# ---- Taking responses apart ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SEARCH + INFORMATION + ANSWER, [(SEARCH, INFORMATION), (ANSWER, "")]),
        (SEARCH + INFORMATION + SEARCH, [(SEARCH, INFORMATION), (SEARCH, "")]),
        (ANSWER + "<|im_end|>\n<|endoftext|>", [(ANSWER, "")]),
        (ANSWER + " and more", [(ANSWER + " and more", "")]),
        ("nothing", [("nothing", "")]),
        ("", [("", "")]),
        (SEARCH + "<|im_end|>", [(SEARCH, "")]),
        (SEARCH + " then " + ANSWER, [(SEARCH, ""), (" then " + ANSWER, "")]),
        ("a\nMy previous action is invalid. I put it between <search> and </search>. I try again.\n"
         + ANSWER,
         [("a", "\nMy previous action is invalid. I put it between <search> and </search>. "
                "I try again.\n"), (ANSWER, "")]),
        ("<tool_call>{}</tool_call>\n<tool_call>{}</tool_call>\nuser\n<tool_response>\nr\n"
         "</tool_response>\n<tool_response>s</tool_response>\nassistant\n" + ANSWER,
         [("<tool_call>{}</tool_call>\n<tool_call>{}</tool_call>",
           "\nuser\n<tool_response>\nr\n</tool_response>\n<tool_response>s</tool_response>"
           "\nassistant\n"), (ANSWER, "")]),
        (SEARCH + "<|im_end|>\n<|im_start|>user\n<information>i</information><|im_end|>\n"
         "<|im_start|>assistant\n" + ANSWER,
         [(SEARCH, "<|im_end|>\n<|im_start|>user\n<information>i</information><|im_end|>\n"
                   "<|im_start|>assistant\n"), (ANSWER, "")]),
    ],
)  # fmt: skip
def test_responses_are_split_at_what_came_back(text: str, expected: Any) -> None:
    assert [(turn.text, turn.observation) for turn in split_response(text)] == expected


def test_an_opening_tag_that_the_prompt_gave_is_put_back(tmp_path: Path) -> None:
    texts = [part.removeprefix("<think>") for part in (SEARCH, ANSWER)]
    record = response(texts[0], INFORMATION, texts[1], ground_truth="x")
    (group,) = imported(write(tmp_path, record))
    assert group.trajectories[0].final_info["is_format_valid"]
    assert group.trajectories[0].turns[0].info["think"] == "t"


def test_the_format_rule_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path, response("Well. ", SEARCH, INFORMATION, ANSWER))
    assert not imported(path)[0].trajectories[0].final_info["is_format_valid"]
    (group,) = imported(path, validity="answered")
    assert group.trajectories[0].final_info["is_format_valid"]
    path = write(tmp_path, response(SEARCH, INFORMATION, SEARCH))
    assert not imported(path, validity="answered")[0].trajectories[0].final_info["is_format_valid"]


def test_without_answers_nothing_is_graded(tmp_path: Path) -> None:
    (group,) = imported(write(tmp_path, response(SEARCH, INFORMATION, ANSWER)))
    (only,) = group.trajectories
    assert not {"f1", "em", "answer_in_passages"} & set(only.final_info)
    assert "golden_answers" not in only.reset_info


# ---- Passages ------------------------------------------------------------------------------------


def test_a_passage_that_was_cut_off_keeps_its_name() -> None:
    whole = ("T", "the beginning of a long passage, and its end")
    cut, other = ("T", "the beginning of a long pass\ufffd"), ("U", "the beginning of a long pass")
    names = name_passages([[whole], [cut], [cut, whole], [other], [("T", "the")], []])
    assert names[1] == names[0]
    assert names[2][0] != names[0][0], "only the last passage of a turn can be cut off"
    assert names[3] != names[0]
    assert names[4] != names[0], "too short to tell"
    assert names[5] == ()
    assert name_passages([[("T", " a  b ")]]) == name_passages([[("T", "a b")]])


# ---- Groups --------------------------------------------------------------------------------------


def test_the_telling_field_groups(tmp_path: Path) -> None:
    rows = [response(ANSWER, uid=f"u{i // 2}", index=i, step=1) for i in range(4)]
    assert read_log(write(tmp_path, *rows)).grouped_by == "uid"
    rows = [response(ANSWER, index=i, step=1) for i in range(4)]
    log = read_log(write(tmp_path, *rows))
    assert (log.grouped_by, len(log.groups)) == ("prompt", 1), "an index that joins nothing"
    rows = [response(ANSWER, index=0, step=i // 2) for i in range(4)]
    log = read_log(write(tmp_path, *rows))
    assert (log.grouped_by, [len(g) for g in log.groups.values()]) == ("index", [2, 2])
    rows = [response(ANSWER, extra_info={"q": {"id": i % 2}}) for i in range(4)]
    log = read_log(write(tmp_path, *rows), group_by="extra_info.q.id")
    assert len(log.groups) == 2
    with pytest.raises(TraceError, match=r"log\.jsonl:1: has no field 'nope' to group by"):
        read_log(write(tmp_path, *rows), group_by="nope")


def test_files_named_by_step(tmp_path: Path) -> None:
    for step in (2, 10):
        logged.write_lines(tmp_path / f"{step}.jsonl", [response(ANSWER)])
    files = log_files(tmp_path)
    assert [path.name for path in files] == ["2.jsonl", "10.jsonl"]
    groups = [group for path in files for group in imported(path)]
    assert [group.trajectories[0].policy_version for group in groups] == [2, 10]
    assert len({group.group_id for group in groups}) == 2
    with pytest.raises(TraceError, match="is missing"):
        log_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"holds no \.jsonl, "):
        log_files(tmp_path / "empty")


def test_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([response(ANSWER), response(ANSWER)]))
    assert len(imported(path)[0]) == 2
    path.write_text("[1]")
    with pytest.raises(TraceError, match=r"log\.json:1: must be an object"):
        imported(path)
    path.write_text("[\n{]")
    with pytest.raises(TraceError, match=r"log\.json:2: not valid JSON"):
        imported(path)


# ---- Conversations -------------------------------------------------------------------------------


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": function}],
            **more}  # fmt: skip


def talk(*said: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Q?"}, *said], "score": 1.0, **fields}


def kinds(path: Path, **settings: Any) -> list[tuple[str, Any]]:
    (group, *_) = imported(path, **settings)
    infos = [turn.info for turn in group.trajectories[0].turns]
    return [(info["action"], info["query"] or info["answer"]) for info in infos]


def test_searches_in_parallel_are_one_search(tmp_path: Path) -> None:
    both = call("search", '{"query": "a"}')
    both["tool_calls"] = [both["tool_calls"][0], call("search", {"query": "b"})["tool_calls"][0]]
    results = [{"role": "tool", "content": f"Doc 1(Title: {t}) x"} for t in "AB"]
    end = {"role": "assistant", "content": "the end"}
    path = write(tmp_path, talk(both, *results, end))
    assert kinds(path) == [("search", "a; b"), ("answer", "the end")]
    (only,) = imported(path)[0].trajectories
    assert only.final_info["is_format_valid"]
    assert only.turns[0].observation_text.count("Doc 1") == 2
    many = call("search", {"query_list": ["a", "b"]})
    assert kinds(write(tmp_path, talk(many, results[0], end)))[0] == ("search", "a; b")


def test_plain_text_is_an_answer_only_at_the_end_of_a_talk_with_tools(tmp_path: Path) -> None:
    plain = {"role": "assistant", "content": "x"}
    assert kinds(write(tmp_path, talk(plain))) == [("malformed", None)]
    assert kinds(write(tmp_path, talk(plain, tools=[{}]))) == [("answer", "x")]
    path = write(tmp_path, talk(plain, {"role": "user", "content": "go on"}, plain, tools=[{}]))
    assert kinds(path) == [("malformed", None), ("answer", "x")]


def test_tools_of_other_names_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, talk(call("lookup", {"q": "a"}), call("done", {"answer": "b"})))
    assert kinds(path) == [("malformed", None)] * 2
    reading = Reading(search_tools=("lookup",), answer_tools=("done",))
    (group,) = reading.groups(reading.log(path), reading.rules())
    assert [turn.info["action"] for turn in group.trajectories[0].turns] == ["search", "answer"]


def test_a_file_that_verifiers_wrote() -> None:
    """Written by ``write_episode`` of verifiers 0.4.0."""
    path = Path(__file__).parents[1] / "data" / "verifiers_v1_traces.jsonl"
    assert read_log(path).grouped_by == "group_id"
    (group,) = imported(path)
    first, *_ = group.trajectories
    assert [each.reward for each in group.trajectories] == [1.0, 0.0, 0.0]
    assert first.policy_version == 7
    assert first.prompt_text == "You search.\nWhat is the capital of Morocco?"
    assert first.reset_info["golden_answers"] == ("Rabat",)
    search, answer = first.turns
    assert (search.info["think"], search.info["query"]) == ("I look.", "capital of Morocco")
    assert (search.action_ids, search.logprobs) == ((6, 7, 8), (-0.1, -0.2, -0.3))
    assert (answer.info["think"], answer.info["answer"]) == ("So it is.", "Rabat")
    assert first.final_info["is_format_valid"]
    assert assess(group).is_mispenalized.tolist() == [[False, False], [True, False], [False, False]]


def test_a_whole_rollout_in_one_message(tmp_path: Path) -> None:
    whole = {"role": "assistant", "content": SEARCH + INFORMATION + ANSWER}
    assert kinds(write(tmp_path, talk(whole))) == [("search", "q"), ("answer", "x")]


def test_a_rollout_that_failed_is_left_out(tmp_path: Path) -> None:
    failed = {"example_id": 0, "prompt": [], "completion": None, "reward": 0.0, "error": "boom"}
    done = {"example_id": 0, "prompt": "Question: Q?", "completion": SEARCH + INFORMATION + ANSWER,
            "reward": 1.0, "answer": "x", "score": 7}  # fmt: skip
    log = read_log(write(tmp_path, failed, done))
    assert (log.num_left_out, log.format) == (1, "verifiers")
    (group,) = build_groups(log, RULES)
    assert group.trajectories[0].reward == 1.0


# ---- Rewards and fields --------------------------------------------------------------------------


def test_rewards_can_be_computed(tmp_path: Path) -> None:
    row = response(SEARCH, INFORMATION, ANSWER, ground_truth={"target": ["x y"]})
    assert imported(write(tmp_path, row))[0].trajectories[0].reward == 0.0
    (group,) = imported(write(tmp_path, row), reward="f1")
    assert group.trajectories[0].reward == pytest.approx(2 / 3)
    del row["score"]
    with pytest.raises(TraceError, match=r"log\.jsonl:1: has no score; .* --reward f1"):
        imported(write(tmp_path, row))
    with pytest.raises(TraceError, match=r"log\.jsonl:1: has no accepted answers"):
        imported(write(tmp_path, response(ANSWER)), reward="em")


def test_rescaling_keeps_what_grpo_says(played: list[Any], tmp_path: Path) -> None:
    (group, *_) = imported(write(tmp_path, *(logged.search_r1(each) for each in played[:4])))
    scaled = Group(tuple(rescale(each, -1.0, 3.0) for each in group.trajectories))
    assert [each.reward for each in scaled.trajectories] == pytest.approx([0.5, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(assess(scaled).reference, assess(group).reference, atol=1e-4)
    with pytest.raises(ValueError, match="reward_range must rise, got 1 to 1"):
        rescale(group.trajectories[0], 1, 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ("a",)),
        (["a", "b", "a"], ("a", "b")),
        ({"target": ["a"]}, ("a",)),
        ({"target": {"value": 3}}, ("3",)),
        (1912, ("1912",)),
        ("", None),
        ([], None),
        (None, None),
        (True, None),
    ],
)
def test_answers_in_all_forms(value: Any, expected: Any) -> None:
    assert texts_of(value) == expected


def test_the_question_in_an_instruction() -> None:
    assert question_of("For example. Question: A?\nassistant\n") == "A?"
    assert question_of(" bare ") == "bare"


# ---- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"log\.jsonl:2: not valid JSON"),
        ("[1]", r"log\.jsonl:2: must be an object, got list"),
        ('{"a": 1}', r"log\.jsonl:2: needs a prompt as text"),
        ('{"prompt": "p", "response": 3, "score": 1}', r"log\.jsonl:2: needs a response as text"),
        ('{"prompt": "p", "response": "r", "score": "high"}', "the score must be a finite number"),
        ('{"prompt": "p", "response": "r", "score": NaN}', "the score must be a finite number"),
        ("[" * 100_000, r"log\.jsonl:2: nested too deeply"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(response(ANSWER)) + "\n" + line + "\n")
    output = tmp_path / "out" / "imported.jsonl"
    with pytest.raises(TraceError, match=message):
        Trace(action="import", sources=(path,), output=output).run()
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": 1}, "no known format: .* got the fields"),
        ({"messages": [{"role": "user", "content": "x"}]}, "needs an assistant message"),
        ({"messages": [{"content": "x"}]}, "message 1 must be an object with a role"),
        ({"traces": [{"x": 1}], "task": {}}, "a trace needs a task and nodes"),
        ({"nodes": [{"parent": 7, "message": {}}], "task": {}}, "parent 7 is not an earlier node"),
        ({"nodes": [{"parent": 0}], "task": {}}, "parent 0 is not an earlier node"),
        ({"nodes": [3], "task": {}}, "node 0 must be an object"),
        ({"example_id": 1, "prompt": "p", "completion": None}, "completion: needs a list"),
        ({"example_id": 1, "prompt": "p", "completion": []}, "needs an assistant message"),
    ],
)
def test_bad_records_of_every_format(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=message):
        imported(write(tmp_path, record))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="not UTF-8"):
        imported(path)
    path.write_text("\n\n")
    with pytest.raises(TraceError, match="holds no rollout"):
        imported(path)
    with pytest.raises(ValueError, match="tokenizer must be a shipped policy"):
        make_rules(str(tmp_path / "none"))


# ---- The command ---------------------------------------------------------------------------------


def test_the_command_writes_records_that_read_back(
    played: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *(logged.search_r1(each) for each in played))
    output = tmp_path / "deep" / "out.jsonl"
    command = Trace(action="import", sources=(path,), output=output)
    assert command.run() == 0
    lines = output.read_text(encoding="utf-8").splitlines()
    expected = [each for group in imported(path) for each in group.trajectories]
    for line, trajectory in zip(lines, expected, strict=True):
        back = trajectory_from_json(line)
        assert back.reset_info == trajectory.reset_info
        assert [turn.info for turn in back.turns] == [turn.info for turn in trajectory.turns]
    told = " ".join(capsys.readouterr().out.split())
    assert "search-r1, 24 rollouts in 6 groups by prompt, 6 of invalid format" in told
    assert [each.name for each in output.parent.iterdir()] == ["out.jsonl"]
    with pytest.raises(ValueError, match="is there already; see --overwrite"):
        command.run()
    assert Trace(action="import", sources=(path,), output=output, overwrite=True).run() == 0
    with pytest.raises(ValueError, match="at least one file"):
        Trace(action="import", sources=(), output=output).run()
