"""An endpoint as an engine: what is sent, what is made of replies, and every fault."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.openai.engine import (
    EndpointConfig,
    OpenAiEngine,
    TextPieces,
    count_written_tokens,
    end_turn,
)
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.rollout.slots import make_slots
from calibadv_env.common.http import HttpSettings
from calibadv_env.info import STOP_STRINGS

PARAMS = SamplingParams(temperature=0.0, max_tokens=50, stop=STOP_STRINGS)
SEARCH = "<think>t</think><search>where</search>"
ANSWER = "<think>t</think><answer>Oslo</answer>"


def load_endpoint() -> ModuleType:
    """The module beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("endpoint", Path(__file__).parent / "endpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["endpoint"] = module
    spec.loader.exec_module(module)
    return module


server = load_endpoint()


def engine_of(endpoint: Any, **changes: Any) -> OpenAiEngine:
    calls = {"timeout_s": 2.0, "max_retries": 2, "backoff_s": 0.01, "max_concurrency": 4}
    calls |= {name: changes.pop(name) for name in list(changes) if name in calls}
    values = {"url": endpoint.url, "model": "m", "calls": HttpSettings(**calls), **changes}
    return OpenAiEngine(EndpointConfig(**values))


def ask(engine: OpenAiEngine, *texts: str, params: SamplingParams = PARAMS) -> list[Any]:
    requests = [
        GenerationRequest(f"e{i}", tuple(engine.tokenizer.encode(text)), 7 + (1 << 40))
        for i, text in enumerate(texts)
    ]
    return engine.generate(requests, params)


# What is sent, and what is made of it


def test_a_conversation_has_roles_and_goes_on() -> None:
    turns = iter([SEARCH, ANSWER])
    with server.serve(lambda body: next(turns)) as endpoint:
        engine = engine_of(endpoint)
        [first] = ask(engine, "Question: where?\n")
        assert (first.text, first.finish_reason) == (SEARCH, "stop")
        assert len(first.token_ids) == len(first.logprobs) == 2
        prompt = engine._ids["e0"]
        seen = tuple(engine.tokenizer.encode("<information>x</information>"))
        [second] = engine.generate([GenerationRequest("e0", prompt + seen, 1)], PARAMS)
        assert second.text == ANSWER
    assert [body["messages"] for body in endpoint.bodies] == [
        [{"role": "user", "content": "Question: where?\n"}],
        [
            {"role": "user", "content": "Question: where?\n"},
            {"role": "assistant", "content": SEARCH},
            {"role": "user", "content": "<information>x</information>"},
        ],
    ]
    body = endpoint.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 50, 0.0)
    assert body["stop"] == list(STOP_STRINGS)
    assert "seed" not in body
    assert endpoint.paths[0] == "/v1/chat/completions"
    assert len(engine.tokenizer) == 4
    engine.release(["e0", "unknown"])
    assert len(engine.tokenizer) == 0


def test_the_other_route_continues_one_text() -> None:
    with server.serve(lambda body: SEARCH) as endpoint:
        engine = engine_of(endpoint, route="completions")
        ask(engine, "Question: where?\n")
        context = engine._ids["e0"] + tuple(engine.tokenizer.encode("seen"))
        engine.generate([GenerationRequest("e0", context, 1)], PARAMS)
    assert endpoint.paths == ["/v1/completions"] * 2
    assert endpoint.bodies[1]["prompt"] == f"Question: where?\n{SEARCH}seen"


def test_sampling_sends_a_seed_and_extra_fields_have_the_last_word() -> None:
    params = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=5)
    extra = {"max_tokens": None, "max_completion_tokens": 5, "top_k": 20}
    with server.serve(lambda body: "x") as endpoint:
        ask(engine_of(endpoint, extra=extra), "q", params=params)
    [body] = endpoint.bodies
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 7)
    assert (body["max_completion_tokens"], body["top_k"]) == (5, 20)
    assert "max_tokens" not in body
    assert "stop" not in body


@pytest.mark.parametrize(
    ("text", "reason", "matched", "expected"),
    [
        ("<search>q", "stop", None, ("<search>q</search>", "stop")),
        ("a<answer>x", "stop", None, ("a<answer>x</answer>", "stop")),
        ("a<answer>x", "stop", "</answer>", ("a<answer>x</answer>", "stop")),
        ("a", "stop", "</answer>", ("a</answer>", "stop")),
        ("a<answer>x", "stop", 151645, ("a<answer>x", "eos")),
        ("<search>q</search> and on", "length", None, ("<search>q</search>", "stop")),
        ("<search>q", "length", None, ("<search>q", "length")),
        ("just words", "stop", None, ("just words", "eos")),
        ("", None, None, ("", "eos")),
        ("<search>a<answer>b", "stop", None, ("<search>a<answer>b</answer>", "stop")),
    ],
)
def test_a_turn_ends_behind_its_stop_string(
    text: str, reason: str | None, matched: str | int | None, expected: tuple[str, str]
) -> None:
    assert end_turn(text, reason, matched, STOP_STRINGS) == expected


def test_markers_have_their_own_openings() -> None:
    stop = ("<|end_of_query|>", "</answer>")
    assert end_turn("<|begin_of_query|> q", "stop", None, stop)[0].endswith("q<|end_of_query|>")


def test_tokens_that_are_not_counted_are_unknown() -> None:
    slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 1, {"split": "test"})
    spec = EpisodeSpec(task_index=0, group_id="g", seed=0)
    for counts, expected in ((True, 2), (False, None)):
        with server.serve(lambda body: ANSWER, counts_tokens=counts) as endpoint:
            engine = engine_of(endpoint)
            [played] = Player(slots, engine, engine.tokenizer, PARAMS).play([spec]).trajectories
            assert played.turns[0].action_text == ANSWER
            assert count_written_tokens(played) == expected
            assert engine.num_uncounted == (not counts)


def test_text_pieces_are_whole_texts() -> None:
    pieces = TextPieces()
    assert pieces.encode("") == []
    ids = [*pieces.encode("a b"), 0, 1, *pieces.encode("c")]
    assert pieces.decode(ids) == "a bc"


def test_half_a_character_does_not_break_a_file() -> None:
    with server.serve(lambda body: "<answer>\ud83d") as endpoint:
        [turn] = ask(engine_of(endpoint), "q")
    assert turn.text == "<answer>\ufffd</answer>"


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        server.Fault(status=500, content=b"boom"),
        server.Fault(status=429, content=b"{}", headers=(("retry-after", "0.01"),)),
        server.Fault(content=b"<html>gateway</html>"),
        server.Fault(content=b'{"choices": []}'),
        server.Fault(content=b'{"choices": [{"message": {"content": 5}}]}'),
        server.Fault(content=b'{"error": {"message": "overloaded"}}'),
        server.Fault(drops=True),
        server.Fault(sleep_s=1.0),
    ],
    ids=["500", "429", "html", "no-choice", "no-text", "error-200", "disconnect", "slow"],
)
def test_what_may_pass_is_tried_again_and_then_given_up(fault: Any) -> None:
    with server.serve(lambda body: ANSWER) as endpoint:
        engine = engine_of(endpoint, timeout_s=0.3)
        endpoint.faults.extend([fault] * 2)
        [turn] = ask(engine, "q")
        assert turn.text == ANSWER
        assert len(endpoint.bodies) == 3
        endpoint.faults.extend([fault] * 3)
        with pytest.raises(EngineError, match=r"3 attempts"):
            ask(engine, "q")
        assert len(endpoint.bodies) == 6


def test_a_server_that_is_not_there_is_an_error_in_bounded_time() -> None:
    with server.serve(lambda body: ANSWER) as endpoint:
        engine = engine_of(endpoint)
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"ConnectError.*3 attempts"):
        ask(engine, "q")
    assert time.monotonic() - began < 5


def test_a_refusal_is_final_and_does_not_show_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-very-secret\n")
    refusal = server.Fault(status=401, content=b"wrong key sk-very-secret")
    with server.serve(lambda body: ANSWER) as endpoint:
        engine = engine_of(endpoint, key_variable="MY_KEY")
        endpoint.faults.append(refusal)
        with pytest.raises(EngineError, match=r"status 401.*wrong key \[key\]") as caught:
            ask(engine, "q")
        assert "secret" not in str(caught.value)
        assert "secret" not in repr(caught.value.__cause__)
        assert len(endpoint.bodies) == 1
        assert endpoint.headers[0]["authorization"] == "Bearer sk-very-secret"
        monkeypatch.delenv("MY_KEY")
        ask(engine, "q")
        assert "authorization" not in endpoint.headers[1]


def test_one_failure_stops_the_calls_beside_it() -> None:
    with server.serve(lambda body: ANSWER, delay_s=0.02) as endpoint:
        engine = engine_of(endpoint, max_concurrency=2)
        endpoint.faults.append(server.Fault(status=403, content=b"no"))
        with pytest.raises(EngineError, match="status 403"):
            ask(engine, *[f"q{i}" for i in range(50)])
        assert len(endpoint.bodies) < 10
        assert len(ask(engine, "a", "b", "c")) == 3


def test_calls_that_wait_to_be_repeated_give_up_with_the_others() -> None:
    with server.serve(lambda body: ANSWER) as endpoint:
        engine = engine_of(endpoint, backoff_s=20.0)
        endpoint.faults.extend([server.Fault(status=500), server.Fault(status=403, sleep_s=0.1)])
        with pytest.raises(EngineError, match="status 403"):
            ask(engine, "a", "b")
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"code": "context_length_exceeded", "message": "too long"}},
        {"message": "This model's maximum context length is 512 tokens."},
        {"detail": "prompt is too long for max_model_len"},
    ],
)
def test_a_conversation_without_room_ends_as_a_cut_turn(content: dict[str, Any]) -> None:
    refusal = server.Fault(status=400, content=json.dumps(content).encode())
    with server.serve(lambda body: ANSWER) as endpoint:
        engine = engine_of(endpoint)
        endpoint.faults.append(refusal)
        [turn] = ask(engine, "q")
    assert (turn.text, turn.finish_reason) == ("", "length")
    assert turn.token_ids
    assert engine.num_out_of_room == 1


def test_another_bad_request_is_an_error() -> None:
    with server.serve(lambda body: ANSWER) as endpoint:
        endpoint.faults.append(server.Fault(status=400, content=b"unknown field stop"))
        with pytest.raises(EngineError, match="unknown field stop"):
            ask(engine_of(endpoint), "q")


def test_requests_run_side_by_side_within_bounds_and_keep_their_order() -> None:
    def echo(body: dict[str, Any]) -> str:
        return str(body["messages"][0]["content"])

    with server.serve(echo, delay_s=0.03) as endpoint:
        turns = ask(engine_of(endpoint, max_concurrency=3), *[f"q{i}" for i in range(9)])
    assert [turn.text for turn in turns] == [f"q{i}" for i in range(9)]
    assert 1 < endpoint.most_at_once <= 3


def test_the_policy_never_reads_an_error() -> None:
    turns = iter([SEARCH, SEARCH, ANSWER])
    slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 1, {"split": "test"})
    with server.serve(lambda body: next(turns)) as endpoint:
        engine = engine_of(endpoint)
        bad = (server.Fault(status=503, content=b"FAILURE"), server.Fault(content=b"FAILURE"))
        endpoint.faults.extend(bad)
        spec = EpisodeSpec(task_index=0, group_id="g", seed=0)
        [played] = Player(slots, engine, engine.tokenizer, PARAMS).play([spec]).trajectories
    assert [turn.action_text for turn in played.turns] == [SEARCH, SEARCH, ANSWER]
    assert "FAILURE" not in json.dumps([body["messages"] for body in endpoint.bodies])


def test_it_cannot_be_trained_through() -> None:
    engine = OpenAiEngine(EndpointConfig(url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(EngineError, match="evaluated, not trained"):
        engine.sync_weights(torch.nn.Linear(1, 1), 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "localhost:8000"}, "url must begin with http"),
        ({"model": ""}, "model must name a model"),
        ({"route": "edits"}, "route must be chat or completions, got 'edits'"),
    ],
)
def test_settings_are_checked(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointConfig(**{"url": "http://x/v1", "model": "m", **values})


@pytest.mark.parametrize(
    "values",
    [{"timeout_s": 0.0}, {"max_retries": -1}, {"max_concurrency": 0}, {"backoff_s": -1.0}],
)
def test_patience_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        HttpSettings(**values)


# Thoughts that the server gives apart, and thoughts that its template opened


def reply(reason: str = "stop", matched: str | None = None, **message: Any) -> Any:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}
    body = {"choices": [choice | ({"stop_reason": matched} if matched else {})]}
    return server.Fault(content=json.dumps(body).encode())


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (({"content": "<search>where</search>"}, "t"), SEARCH),
        (({"content": "<search>where"}, "t"), SEARCH),
        (
            ({"content": "\n\n<answer>Oslo</answer>"}, "t"),
            "<think>t</think>\n\n<answer>Oslo</answer>",
        ),
        (
            ({"content": "<search>where</search>"}, "I <search>x</search>"),
            "<think>I x</think><search>where</search>",
        ),
        (({"content": SEARCH}, "t"), SEARCH),  # given twice
        (({"content": "<search>where</search>"}, ""), "<search>where</search>"),
        (({"content": None}, "cut"), "<think>cut"),
        (({"content": "Oslo"}, "t"), "<think>t</think>Oslo"),
    ],
)
def test_a_thought_given_apart_stands_in_its_tags(key: str, message: Any, expected: str) -> None:
    fields, thought = message
    reason = "length" if fields["content"] is None else "stop"
    with server.serve(str) as endpoint:
        endpoint.faults.append(reply(reason, **fields, **{key: thought}))
        engine = engine_of(endpoint)
        [found] = ask(engine, "q")
    assert found.text == expected
    is_apart = bool(thought) and fields["content"] != SEARCH
    assert engine.num_thoughts_apart == is_apart


def test_a_stop_string_inside_a_thought_ends_it_there() -> None:
    with server.serve(str) as endpoint:
        endpoint.faults.append(
            reply("stop", "</search>", content=None, reasoning_content="I do <search>x")
        )
        [found] = ask(engine_of(endpoint), "q")
    assert found.text == "<think>I do <search>x</search>"


def test_a_tag_that_the_servers_template_wrote_is_put_back() -> None:
    with server.serve(lambda body: "t</think><search>where</search>") as endpoint:
        engine = engine_of(endpoint)
        assert [each.text for each in ask(engine, "q", "r")] == [SEARCH, SEARCH]
        assert engine.num_thoughts_opened == 2
        plain = engine_of(endpoint, route="completions")
        assert ask(plain, "q")[0].text == "t</think><search>where</search>"


@pytest.mark.parametrize("is_apart", [True, False])
def test_a_reasoning_model_behind_an_endpoint_is_paid(is_apart: bool) -> None:
    """The thoughts also stand in the later turns of the conversation."""
    with server.serve(str) as endpoint:
        for text in ("<search>fact</search>", "<answer>ANSWER</answer>"):
            thought = {"reasoning_content": "I think."} if is_apart else {}
            inline = "" if is_apart else "<think>I think.</think>"
            endpoint.faults.append(reply(content=inline + text, **thought))
        engine = engine_of(endpoint)
        slots = make_slots("calibadv_env:DeepSearch-Toy-v0", 1)
        player = Player(slots, engine, engine.tokenizer, PARAMS)
        (found,) = player.play([EpisodeSpec(task_index=3, group_id="g", seed=0)]).trajectories
    assert found.final_info["is_format_valid"]
    assert endpoint.bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "<think>I think.</think><search>fact</search>",
    }
