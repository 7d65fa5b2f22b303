"""Gymnasium's own wrappers and vectorisers take our environments; ours speak chat and tools."""

from __future__ import annotations

import json
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import CustomSpaceError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import Autoreset, RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers import vector as vector_wrappers
from hypothesis import given, settings
from hypothesis import strategies as st

import calibadv_env  # noqa: F401
from calibadv_env.protocol.actions import (
    Answer,
    Malformed,
    Search,
    is_turn_well_formed,
    parse_action,
)
from calibadv_env.protocol.toolcalls import INVALID_CALL_TEXT, TOOL_PROMPT, TOOLS, ToolGrammar
from calibadv_env.wrappers import (
    UNCALLED_TEXT,
    ChatObservation,
    MessageList,
    ToolActionSpace,
    ToolCalls,
)

SEARCH = "<think>t</think><search>river é</search>"
ANSWER = "<think>t</think><answer>x</answer>"
ENV_ID = "calibadv_env:DeepSearch-Toy-v1"
GRAMMAR = ToolGrammar()


def hermes(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"I need it.\n<tool_call>\n{call}\n</tool_call>"


def openai(name: str, arguments: Any, call_id: str = "c1", **message: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call], **message}


# ---- Gymnasium's wrappers ------------------------------------------------------------------------


def test_time_limit_truncates_and_statistics_count() -> None:
    env = RecordEpisodeStatistics(TimeLimit(gymnasium.make(ENV_ID), 2))
    env.reset(seed=0)
    *_, truncated, info = env.step(SEARCH)
    assert (truncated, "episode" in info) == (False, False)
    *_, terminated, truncated, info = env.step(SEARCH)
    assert (terminated, truncated) == (False, True)
    assert (info["episode"]["l"], info["episode"]["r"]) == (2, 0.0)
    assert info["stop_reason"] is None
    env.reset()
    *_, terminated, truncated, info = env.step(ANSWER)
    assert (terminated, truncated, info["episode"]["l"]) == (True, False, 1)


def test_max_episode_steps_of_make_is_a_time_limit() -> None:
    env = gymnasium.make(ENV_ID, max_episode_steps=1)
    env.reset(seed=0)
    assert env.step(SEARCH)[2:4] == (False, True)


def test_autoreset_starts_the_next_episode() -> None:
    env = Autoreset(gymnasium.make(ENV_ID))
    plain = gymnasium.make(ENV_ID)
    env.reset(seed=0)
    plain.reset(seed=0)
    assert env.step(ANSWER)[2]
    observation, reward, terminated, truncated, info = env.step("not looked at")
    assert (observation, info) == plain.reset()
    assert (reward, terminated, truncated) == (0, False, False)


def vectors(mode: str, **options: Any) -> Any:
    kwargs = {"shared_memory": False} if mode == "async" else None
    return gymnasium.make_vec(
        ENV_ID, num_envs=2, vectorization_mode=mode, vector_kwargs=kwargs, **options
    )


def test_every_mode_plays_the_same_first_episode() -> None:
    seen = []
    for mode in ("sync", "async", "vector_entry_point"):
        env = vectors(mode)
        try:
            start, infos = env.reset(seed=3)
            first = env.step([SEARCH, SEARCH])
            last = env.step([ANSWER, "?"])
        finally:
            env.close()
        seen.append((start, first[0], first[1].tolist(), last[2].tolist(), last[4]))
        assert infos["_question"].all()
        assert infos["question"].shape == (2,)
        assert last[4]["f1"].dtype == np.float64
    for other in seen[1:]:
        assert other[:4] == seen[0][:4]
        for key in ("stop_reason", "passage_ids", "f1", "_f1", "is_format_valid"):
            assert other[4][key].tolist() == seen[0][4][key].tolist(), key


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_modes_of_the_sync_vector(mode: AutoresetMode) -> None:
    env = gymnasium.make_vec(
        ENV_ID, num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    first, _ = env.reset(seed=0)
    observations, _, terminated, _, infos = env.step([ANSWER, SEARCH])
    assert terminated.tolist() == [True, False]
    if mode is AutoresetMode.SAME_STEP:
        assert "Question:" in observations[0]
        assert infos["final_info"]["stop_reason"][0] == "answered"
        assert infos["final_obs"][0] == ""
    else:
        assert observations[0] == ""
        observations, *_ = env.step([ANSWER, SEARCH])
        assert "Question:" in observations[0]
    assert "Question:" in first[0]


def test_statistics_over_our_own_vector_environment() -> None:
    env = vector_wrappers.RecordEpisodeStatistics(vectors("vector_entry_point"))
    env.reset(seed=0)
    env.step([SEARCH, SEARCH])
    *_, infos = env.step([ANSWER, SEARCH])
    assert infos["_episode"].tolist() == [True, False]
    assert infos["episode"]["l"][0] == 2
    env.reset(options={"reset_mask": np.array([True, False])})
    *_, infos = env.step([ANSWER, ANSWER])
    assert infos["episode"]["l"].tolist() == [1, 3]


def test_statistics_count_each_episode_once_where_slots_idle() -> None:
    env = vector_wrappers.RecordEpisodeStatistics(
        gymnasium.make_vec(
            ENV_ID, num_envs=3, vectorization_mode="vector_entry_point", format_gate=False
        )
    )
    _, infos = env.reset(seed=0)
    right = [f"<think>t</think><answer>{golden[0]}</answer>" for golden in infos["golden_answers"]]
    for turn in range(5):  # slot i answers in its turn i; the others idle by then
        env.step([right[slot] if turn >= slot else SEARCH for slot in range(3)])
    assert env.episode_count == 3
    assert list(env.return_queue) == [1, 1, 1]
    assert list(env.length_queue) == [1, 2, 3]


def per_slot(wrapper: Any, single: Any, space: str | None = None, **settings: Any) -> Any:
    """A wrapper that applies another one to every slot."""

    def wrap(env: Any) -> Any:
        spaces = {} if space is None else {space: getattr(env, f"single_{space}")}
        return wrapper(env, single, **settings, **spaces)

    return wrap


def upper(texts: Any) -> tuple[str, ...]:
    return tuple(text.upper() for text in texts)


def same(value: Any) -> Any:
    return value


def twice(value: Any) -> Any:
    return 2 * value


TEXT_WRAPPERS = {
    "VectorizeTransformObservation": per_slot(
        vector_wrappers.VectorizeTransformObservation,
        gymnasium.wrappers.TransformObservation,
        "observation_space",
        func=str.upper,
    ),
    "VectorizeTransformAction": per_slot(
        vector_wrappers.VectorizeTransformAction,
        gymnasium.wrappers.TransformAction,
        "action_space",
        func=same,
    ),
    "VectorizeTransformReward": per_slot(
        vector_wrappers.VectorizeTransformReward, gymnasium.wrappers.TransformReward, func=twice
    ),
    "DictInfoToList": vector_wrappers.DictInfoToList,
    "TransformObservation": partial(vector_wrappers.TransformObservation, func=upper),
    "TransformAction": partial(vector_wrappers.TransformAction, func=same),
    "TransformReward": partial(vector_wrappers.TransformReward, func=twice),
    "ClipReward": partial(vector_wrappers.ClipReward, min_reward=0, max_reward=0.5),
    "NormalizeReward": vector_wrappers.NormalizeReward,
    "RecordEpisodeStatistics": vector_wrappers.RecordEpisodeStatistics,
}
"""Vector wrappers of Gymnasium that make sense round text."""

NUMBER_WRAPPERS = {
    "FilterObservation": partial(vector_wrappers.FilterObservation, filter_keys=["a"]),
    "FlattenObservation": vector_wrappers.FlattenObservation,
    "GrayscaleObservation": vector_wrappers.GrayscaleObservation,
    "ResizeObservation": partial(vector_wrappers.ResizeObservation, shape=(3, 3)),
    "ReshapeObservation": partial(vector_wrappers.ReshapeObservation, shape=(3, 3)),
    "RescaleObservation": partial(vector_wrappers.RescaleObservation, min_obs=0, max_obs=1),
    "DtypeObservation": partial(vector_wrappers.DtypeObservation, dtype=np.float32),
    "NormalizeObservation": vector_wrappers.NormalizeObservation,
    "ClipAction": vector_wrappers.ClipAction,
    "RescaleAction": partial(vector_wrappers.RescaleAction, min_action=0, max_action=1),
    "RecordVideo": partial(vector_wrappers.RecordVideo, video_folder="nowhere"),
    "HumanRendering": vector_wrappers.HumanRendering,
}
"""Those that need numbers, images or another mode of resetting, and say so."""

ARRAY_WRAPPERS = {"ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch"}
"""Those that turn arrays of numbers into other arrays; infos hold text."""


def test_every_vector_wrapper_of_gymnasium_is_named_here() -> None:
    assert {*TEXT_WRAPPERS, *NUMBER_WRAPPERS, *ARRAY_WRAPPERS} == {*vector_wrappers.__all__}


@pytest.mark.parametrize("name", TEXT_WRAPPERS)
def test_vector_wrappers_see_every_episode_end_once(name: str) -> None:
    env = TEXT_WRAPPERS[name](vectors("vector_entry_point"))
    env.reset(seed=0)
    ends = []
    for actions in ([ANSWER, SEARCH], [SEARCH, SEARCH], [SEARCH, ANSWER], [ANSWER, ANSWER]):
        texts, rewards, terminated, truncated, _ = env.step(actions)
        assert len(texts) == len(rewards) == 2
        assert not np.any(truncated)
        ends.append(np.asarray(terminated).tolist())
    assert ends == [[True, False], [False, False], [False, True], [False, False]]
    texts, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert texts[0]


@pytest.mark.parametrize("name", NUMBER_WRAPPERS)
def test_vector_wrappers_of_numbers_refuse_text_at_once(name: str) -> None:
    env = vectors("vector_entry_point", render_mode="ansi")
    with pytest.raises((ValueError, TypeError, CustomSpaceError), match=r"\w+ \w+ \w+"):
        NUMBER_WRAPPERS[name](env)


def test_tool_calls_over_our_own_vector_environment() -> None:
    def to_tags(actions: Any) -> list[str]:
        return [GRAMMAR.to_tags(action) for action in actions]

    space = batch_space(ToolActionSpace(), 2)
    env = vector_wrappers.TransformAction(
        vectors("vector_entry_point"), to_tags, space, ToolActionSpace()
    )
    env.reset(seed=0)
    *_, infos = env.step([hermes("search", query="a"), openai("search", '{"query": "b"}')])
    assert infos["query"].tolist() == ["a", "b"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_our_wrappers_inside_vectors(mode: str) -> None:
    wrappers = [partial(TimeLimit, max_episode_steps=3), ToolCalls, ChatObservation]
    env = vectors(mode, wrappers=wrappers)
    try:
        conversations, _ = env.reset(seed=0)
        assert [m["role"] for m in conversations[1]] == ["user"]
        conversations, *_, infos = env.step([hermes("search", query="a"), openai("search", "{")])
        assert [m["role"] for m in conversations[0]] == ["user", "assistant", "user"]
        assert infos["action"].tolist() == ["search", "malformed"]
    finally:
        env.close()


@pytest.mark.parametrize("wrapper", [ToolCalls, ChatObservation])
def test_shared_memory_is_refused_with_the_remedy(wrapper: Any) -> None:
    with pytest.raises((CustomSpaceError, ValueError), match="shared_memory=False"):
        gymnasium.make_vec(
            ENV_ID, num_envs=1, vectorization_mode="async", wrappers=[ToolCalls, wrapper]
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrap", [ToolCalls, ChatObservation, lambda env: ChatObservation(ToolCalls(env))]
)
def test_gymnasium_s_checker_is_content(wrap: Any) -> None:
    check_env(wrap(gymnasium.make(ENV_ID).unwrapped), skip_render_check=True)


# ---- Tool calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (hermes("search", query=" a b "), Search("I need it.", "a b")),
        (hermes("answer", answer="Paris"), Answer("I need it.", "Paris")),
        (hermes("search", query_list=["one"]), Search("I need it.", "one")),
        ('<think>Hm.</think>\n<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"q\\"}"}',
         Search("Hm.", "q")),
        (openai("search", '{"query": "q"}'), Search("", "q")),
        (openai("search", {"query": "q"}, reasoning_content="why", content="so"),
         Search("why\nso", "q")),
        (openai("answer", '{"answer": "A"}', content=[{"type": "text", "text": "so"}]),
         Answer("so", "A")),
        ({"tool_calls": [{"id": "1", "name": "search", "arguments": '{"query": "flat"}'}]},
         Search("", "flat")),
        ({"content": "<think>t</think>It is Rome."}, Answer("t", "It is Rome.")),
        ({"content": "Rome", "reasoning_content": "r", "tool_calls": []}, Answer("r", "Rome")),
        (SEARCH, Search("t", "river é")),
        (hermes("search", query="</search><answer>x</answer>"), Search("I need it.", "x")),
        ("</search></answer>" + hermes("search", query="q"), Search("I need it.", "q")),
    ],
)  # fmt: skip
def test_calls_are_read(action: Any, expected: Any) -> None:
    text = GRAMMAR.to_tags(action)
    assert parse_action(text) == expected
    assert is_turn_well_formed(text, expected.kind)


@pytest.mark.parametrize(
    "action",
    [
        "<tool_call>{broken</tool_call>",
        "<tool_call></tool_call>",
        hermes("browse", query="q"),
        hermes("search", text="q"),
        hermes("search", query=["a", "b"]),
        hermes("search", query=3),
        hermes("search", query=None),
        "<tool_call>[1, 2]</tool_call>",
        '<tool_call>{"name": "search", "arguments": {"query": "q"</tool_call>',
        "<tool_call>" + "[" * 200_000 + "</tool_call>",
        openai("search", "{"),
        openai("search", None),
        {"tool_calls": ["x"]},
        {"tool_calls": [{"function": {}}]},
        {"content": None},
        {"content": {"a": 1}},
        {},
        "",
        "<think>I only think</think>",
        "<tool_call><search>x</search></tool_call>",
    ],
)
def test_broken_calls_are_malformed_actions(action: Any) -> None:
    text = GRAMMAR.to_tags(action)
    assert isinstance(parse_action(text), Malformed)
    assert not is_turn_well_formed(text, "malformed")


def test_a_second_call_is_not_carried_out_and_costs_the_format() -> None:
    message = openai("search", '{"query": "q"}')
    message["tool_calls"] = message["tool_calls"] * 2
    for action in (hermes("search", query="q") + hermes("search", query="r"), message):
        text = GRAMMAR.to_tags(action)
        assert parse_action(text) == parse_action(text.split("</search>")[0] + "</search>")
        assert not is_turn_well_formed(text, "search")


def test_the_grammar_can_be_set() -> None:
    grammar = ToolGrammar(search_tools=("wiki",), query_arguments=("q",), plain_text="malformed")
    assert parse_action(grammar.to_tags(hermes("wiki", q="x"))) == Search("I need it.", "x")
    assert isinstance(parse_action(grammar.to_tags(hermes("search", query="x"))), Malformed)
    assert isinstance(parse_action(grammar.to_tags("plain")), Malformed)
    with pytest.raises(ValueError, match="search_tools and answer_tools must differ"):
        ToolGrammar(search_tools=("a",), answer_tools=("a",))
    with pytest.raises(ValueError, match="plain_text must be answer or malformed"):
        ToolGrammar(plain_text="search")  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "reasoning_content"]), JSON
)
TEXTS = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<search>", "</search>", "<answer>", "</answer>", "<think>",
         "</think>", '{"name": "search", "arguments": ', '{"query": "', '"}', "}", "a", " "]
    ) | st.text(max_size=3),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(TEXTS | MESSAGES)
def test_nothing_makes_it_raise(action: Any) -> None:
    assert isinstance(GRAMMAR.to_tags(action), str)


def test_a_whole_episode_with_calls() -> None:
    env = ToolCalls(gymnasium.make(ENV_ID, prompt=TOOL_PROMPT, invalid_action="continue"))
    observation, info = env.reset(seed=1)
    assert info["question"] in observation
    assert parse_action(GRAMMAR.to_tags(observation)).kind == "search", "the prompt's own example"
    observation, *_, info = env.step(hermes("search", query=info["question"]))
    assert "<information>Doc 1(Title: " in observation
    assert info["action"] == "search"
    observation, *_ = env.step("<tool_call>{</tool_call>")
    assert observation == INVALID_CALL_TEXT
    _, reward, terminated, _, info = env.step(hermes("answer", answer="?"))
    assert (reward, terminated, info["is_format_valid"]) == (0, True, False)
    with pytest.raises(ResetNeeded):
        env.step("x")
    with pytest.raises(ValueError, match="must be a str or a mapping, got int"):
        env.step(3)


def test_a_right_answer_by_calls_is_rewarded() -> None:
    env = ToolCalls(gymnasium.make(ENV_ID, prepend_think=True))
    _, info = env.reset(seed=1)
    observation, *_ = env.step(hermes("search", query=info["question"]))
    assert observation.endswith("<think>")
    _, reward, _, _, last = env.step(openai("answer", {"answer": info["golden_answers"][0]}))
    assert (reward, last["is_format_valid"]) == (1.0, True)


def test_the_tools_are_described_as_apis_want_it() -> None:
    assert [tool["function"]["name"] for tool in TOOLS] == ["search", "answer"]
    assert json.loads(json.dumps(TOOLS))[0]["function"]["parameters"]["required"] == ["query"]


# ---- Chat ----------------------------------------------------------------------------------------


def test_a_conversation_in_text() -> None:
    env = ChatObservation(gymnasium.make(ENV_ID), system="Be brief.")
    messages, _ = env.reset(seed=0)
    assert [m["role"] for m in messages] == ["system", "user"]
    kept = messages
    messages, *_ = env.step(SEARCH)
    assert len(kept) == 2
    assert messages[2] == {"role": "assistant", "content": SEARCH}
    assert messages[3]["role"] == "user"
    assert "<information>" in messages[3]["content"]
    messages[0]["content"] = "changed by the caller"
    messages, *_ = env.step(ANSWER)
    assert messages in env.observation_space
    assert messages[0]["content"] == "Be brief."
    assert [m["role"] for m in messages][-2:] == ["user", "assistant"]
    assert len(env.reset()[0]) == 2


def test_a_conversation_with_calls_answers_each_of_them() -> None:
    env = ChatObservation(ToolCalls(gymnasium.make(ENV_ID, invalid_action="continue")))
    env.reset(seed=0)
    action = openai("search", '{"query": "a"}')
    action["tool_calls"].append({**action["tool_calls"][0], "id": "c2"})
    messages, *_ = env.step(action)
    assert messages[1] == action
    assert messages[2]["tool_call_id"] == "c1"
    assert "<information>" in messages[2]["content"]
    assert messages[3] == {"role": "tool", "tool_call_id": "c2", "content": UNCALLED_TEXT}
    messages, *_ = env.step({})
    assert [m["role"] for m in messages[-2:]] == ["assistant", "user"]
    assert messages in env.observation_space


def test_chat_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="result_role must be user or tool"):
        ChatObservation(gymnasium.make(ENV_ID), result_role="system")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prepend_think must be False"):
        ChatObservation(gymnasium.make(ENV_ID, prepend_think=True)).reset(seed=0)


def test_an_env_with_our_wrappers_can_be_made_again_from_its_spec() -> None:
    env = ChatObservation(ToolCalls(gymnasium.make(ENV_ID)), system="s")
    again = gymnasium.make(env.spec)
    assert again.reset(seed=0)[0] == env.reset(seed=0)[0]
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step(hermes("search", query="a"))[0] == env.step(hermes("search", query="a"))[0]


def test_the_spaces() -> None:
    space = MessageList(10)
    assert [] in space
    assert [{"role": "user", "content": "é" * 10}] in space
    assert [{"role": "assistant", "content": None, "tool_calls": [1]}] in space
    for wrong in (
        "x",
        [{"role": "user"}],
        [{"role": "user", "content": "é" * 11}],
        [{"content": "x"}],
        ({"role": "user", "content": "x"},),
    ):
        assert wrong not in space
    assert space == MessageList(10)
    assert space != MessageList(11)
    for each in (MessageList(50, seed=1), ToolActionSpace(seed=1)):
        first = each.sample()
        each.seed(1)
        assert each.sample() == first
        assert first in each
        with pytest.raises(ValueError, match="must be None"):
            each.sample(mask=1)
        assert not each.is_np_flattenable
        assert type(each).__name__ in repr(each)


# ---- The page ------------------------------------------------------------------------------------


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gymnasium.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert 20 <= len(blocks[0].splitlines()) <= 36
    for block in blocks:
        exec(compile(block, "docs/gymnasium.md", "exec"), {})
    assert "answered" in capsys.readouterr().out
