"""The last reply of a rollout where a log keeps it beside the messages, and lists of steps."""

import bz2
import json
import zipfile

import pytest

from calibadv_algo.cli.env_rules import LOGGED_TOOLS
from calibadv_algo.traces.base import Place, Rules, TraceError
from calibadv_algo.traces.files import iterate_episodes, log_files
from calibadv_algo.traces.reading import account_of, read_turns

RULES = Rules(grammar=LOGGED_TOOLS, encode=str.split, tokenizer="words")
FOUND = (
    'Doc 1 (Title: "Nile")\nThe Nile is a river in Egypt.\n'
    'Doc 2 (Title: "Cairo")\nCairo is a city.\n'
)
CALL = {"id": "c1", "function": {"name": "search", "arguments": '{"query": "nile"}'}}
ASKED = [{"role": "user", "content": "Where is the Nile?"}]
SEARCHED = [
    *ASKED,
    {"role": "assistant", "content": "I look it up.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": FOUND},
]
REPLY = {"role": "assistant", "content": "Egypt"}
COMPLETION = {"choices": [{"index": 0, "message": REPLY}]}


def episode_of(folder, record):
    path = folder / "log.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (episodes,) = iterate_episodes(path, Place(where=""), None)
    (episode,) = episodes
    return episode


def read(folder, record):
    """Kinds of the turns, number of passages, answers."""
    turns = read_turns(episode_of(folder, record), RULES)
    answers = [turn.answer for turn in turns if turn.answer is not None]
    return [turn.kind for turn in turns], sum(len(turn.passages) for turn in turns), answers


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*SEARCHED, REPLY]},
        {"custom_id": "q", "body": {"messages": SEARCHED},
         "response": {"status_code": 200, "body": COMPLETION}},
        {"request": {"messages": SEARCHED}, "response": COMPLETION},
        {"messages": SEARCHED, "choices": COMPLETION["choices"]},
        {"messages": SEARCHED, "response": REPLY},
        {"messages": SEARCHED, "response": "Egypt"},
        {"messages": SEARCHED, "completion": "Egypt", "result": "success"},
        {"messages": SEARCHED, "final_answer": "Egypt"},
        {"input": SEARCHED, "output": REPLY},
        {"input": SEARCHED, "output": "Egypt"},
        {"prompt": SEARCHED, "completion": [REPLY]},
        {"prompt": ASKED, "completion": [*SEARCHED[1:], REPLY]},
    ],
)  # fmt: skip
def test_the_last_reply_is_found_where_it_stands(tmp_path, record):
    assert read(tmp_path, {**record, "score": 1}) == (["search", "answer"], 2, ["Egypt"])


@pytest.mark.parametrize(
    "beside",
    [{}, {"result": "success"}, {"message": "ok"}, {"output": ""},
     {"prediction": "No answer found."}, {"response": [*SEARCHED]}],
)  # fmt: skip
def test_a_rollout_without_a_reply_has_no_answer(tmp_path, beside):
    assert read(tmp_path, {"messages": SEARCHED, "score": 0, **beside}) == (["search"], 2, [])


def test_replies_of_a_batch_without_its_requests_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(TraceError, match=r"log\.jsonl:1: a reply of the batch API without"):
        episode_of(tmp_path, {"id": "b", "custom_id": "q", "response": {"body": COMPLETION}})


DSPY = {"trajectory": {
    "thought_0": "I look.", "tool_name_0": "search", "tool_args_0": {"query": "nile"},
    "observation_0": FOUND, "thought_1": "Done.", "tool_name_1": "finish", "tool_args_1": {},
    "observation_1": "Completed.",
}, "question": "Where?", "answer": "Egypt"}  # fmt: skip
LLAMA_STACK = {"input_messages": ASKED, "steps": [
    {"step_type": "inference", "model_response": {"content": "", "tool_calls": [
        {"call_id": "c", "tool_name": "search", "arguments": {"query": "nile"}}]}},
    {"step_type": "tool_execution", "tool_responses": [
        {"call_id": "c", "tool_name": "search", "content": FOUND}]},
    {"step_type": "inference", "model_response": {"content": "Egypt", "tool_calls": []}},
]}  # fmt: skip
RLLM = {"uid": "u", "trajectories": [{"steps": [
    {"chat_completions": SEARCHED[:2], "action": "x", "observation": ""},
    {"chat_completions": [*SEARCHED, REPLY], "action": "y", "observation": ""},
]}]}  # fmt: skip
COHERE = {"messages": [
    *SEARCHED[:2],
    {"role": "tool", "tool_call_id": "c1", "content": [
        {"type": "document", "document": {"data": {"title": "Nile", "text": "A river."}}},
        {"type": "document", "document": {"data": {"title": "Cairo", "text": "A city."}}}]},
    REPLY,
]}  # fmt: skip


@pytest.mark.parametrize("record", [DSPY, LLAMA_STACK, RLLM, COHERE])
def test_steps_in_forms_of_their_own(tmp_path, record):
    assert read(tmp_path, {**record, "score": 1}) == (["search", "answer"], 2, ["Egypt"])


def test_the_answer_of_a_policy_is_not_the_truth(tmp_path):
    assert episode_of(tmp_path, DSPY).answers is None
    truth = {**DSPY, "answer": "Egypt", "prediction": "Sudan"}
    assert episode_of(tmp_path, truth).answers == ("Egypt",)
    assert read(tmp_path, truth)[2] == ["Sudan"]


def test_numbered_actions_of_react_in_any_field(tmp_path):
    text = (
        "Question: Where?\nThought 1: I look.\nAction 1: Search[nile]\nObservation 1: The Nile is "
        "in Egypt.\nThought 2: Done.\nAction 2: Finish[Egypt]"
    )
    record = {"question": "Where?", "transcript": text, "em": True}
    assert read(tmp_path, record) == (["search", "answer"], 1, ["Egypt"])


def test_compressed_logs_are_read_also_from_a_folder(tmp_path):
    line = json.dumps({"messages": [*SEARCHED, REPLY], "score": 1}).encode()
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(line))
    with zipfile.ZipFile(tmp_path / "b.jsonl.zip", "w") as archive:
        archive.writestr("b.jsonl", line)
    files = log_files(tmp_path)
    assert [path.name for path in files] == ["a.jsonl.bz2", "b.jsonl.zip"]
    for path in files:
        assert len(list(iterate_episodes(path, Place(where=""), None))) == 1


def test_a_zip_of_several_logs_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", "{}")
        archive.writestr("b.jsonl", "{}")
    with pytest.raises(TraceError, match=r"holds 2 files .*unpack it"):
        list(iterate_episodes(path, Place(where=""), None))


# ---- Pipelines, and calls that a log counts ------------------------------------------------------


def retrieved(*titles):
    return [{"id": title, "contents": f'"{title}"\nA text on {title}.'} for title in titles]


ITERATIVE = {
    "id": "dev_1",
    "question": "Where is the Nile?",
    "golden_answers": ["Egypt"],
    "output": {
        "retrieval_result_iter_0": retrieved("Nile", "Cairo"),
        "prompt_iter_0": "…",
        "pred_iter_0": "Sudan",
        "retrieval_result_iter_1": retrieved("Nile", "Sudan", "Egypt"),
        "prompt_iter_1": "…",
        "pred_iter_1": "Egypt",
        "retrieval_result": retrieved("Nile", "Sudan", "Egypt"),
        "pred": "Egypt",
        "metric_score": {"em": 1.0, "f1": 1.0},
    },
}


def test_an_iterative_pipeline_of_flashrag_searched(tmp_path):
    assert read(tmp_path, ITERATIVE) == (["search", "search", "answer"], 5, ["Egypt"])
    episode = episode_of(tmp_path, ITERATIVE)
    assert (episode.format, episode.reward, episode.answers) == ("flashrag", 1.0, ("Egypt",))
    queries = [turn.query for turn in read_turns(episode, RULES)]
    assert queries[:2] == ["Where is the Nile?", "Where is the Nile? Sudan"]


def test_a_sequential_pipeline_of_flashrag_searched_once(tmp_path):
    output = {"retrieval_result": retrieved("Nile"), "prompt": "…", "pred": "Egypt"}
    record = {**ITERATIVE, "output": {**output, "metric_score": {"em": 1.0}}}
    assert read(tmp_path, record) == (["search", "answer"], 1, ["Egypt"])


def test_a_pipeline_that_kept_no_results_has_no_search(tmp_path):
    record = {**ITERATIVE, "output": {"pred": "Egypt", "metric_score": {"em": 1.0}}}
    assert read(tmp_path, record)[1] == 0


def test_calls_that_a_log_counts_and_does_not_show_are_counted(tmp_path):
    said = {"type": "output_text", "output": "Exact Answer: Egypt"}
    record = {"query_id": "1", "tool_call_counts": {"search": 36}, "result": [said]}
    episode = episode_of(tmp_path, record)
    account = account_of(episode, read_turns(episode, RULES))
    assert account["not_understood"] == {"search (counted in the log, not shown)": 36}
    found = {"type": "tool_call", "tool_name": "search", "arguments": {"query": "n"}, "output": "x"}
    whole = {**record, "tool_call_counts": {"search": 1}, "result": [found, said]}
    episode = episode_of(tmp_path, whole)
    assert account_of(episode, read_turns(episode, RULES))["not_understood"] == {}


PARTS = [
    {"type": "text", "text": "The Nile is a river in Egypt."},
    {"type": "text", "text": "Cairo is a city."},
]
USE = {"type": "tool_use", "id": "c1", "name": "search", "input": {"query": "nile"}}


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(
            [
                {"role": "assistant", "content": [USE]},
                {"role": "user",
                 "content": [{"type": "tool_result", "tool_use_id": "c1", "content": PARTS}]},
            ],
            id="Anthropic",
        ),
        pytest.param(
            [SEARCHED[1], {"role": "tool", "tool_call_id": "c1", "content": PARTS}], id="OpenAI"
        ),
    ],
)  # fmt: skip
def test_each_text_of_a_result_is_a_passage(tmp_path, result):
    assert read(tmp_path, {"messages": [*ASKED, *result, REPLY]}) == (
        ["search", "answer"],
        2,
        ["Egypt"],
    )
