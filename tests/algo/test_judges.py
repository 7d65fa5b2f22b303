"""Judges: scripted ones, and a language model behind a server on the loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.advantages.critic_search import CriticSearch
from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.credit.judges import (
    JudgeCredit,
    JudgeError,
    LlmJudge,
    ScriptedJudge,
    read_verdicts,
    transcript,
)
from calibadv_algo.credit.roles import LlmRoles, RoleCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, Trajectory, Turn

Reply = tuple[int, str]


def turn(kind: str, text: str, **info: Any) -> Turn:
    facts = {"action": kind, "gold_new": (), "answer_in_passages": False} | info
    return Turn(
        action_ids=(1,),
        action_text=text,
        logprobs=(0.0,),
        observation_text="" if kind == "answer" else f"passages for {text}",
        info=facts,
    )


def trajectory(*turns: Turn) -> Trajectory:
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1,),
        prompt_text="prompt",
        turns=turns,
        reset_info={"question": "Where is Wau?", "golden_answers": ("South Sudan", "SSD")},
    )


GOOD = trajectory(
    turn("search", "first", gold_new=("p",)),
    turn("search", "second", answer_in_passages=True),
    turn("answer", "done"),
)
BAD = trajectory(turn("search", "other"), turn("answer", "gone"))
GROUP = Group((GOOD, BAD))


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[dict[str, Any]], Reply]], tuple[str, list[Any]]]]:
    """Starts servers whose replies a function of the request makes; returns address and log."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[dict[str, Any]], Reply]) -> tuple[str, list[Any]]:
        seen: list[Any] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    seen.append((self.path, dict(self.headers), body))
                    status, text = answer(body)
                data = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def completion(text: str) -> Reply:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def by_text(body: dict[str, Any]) -> Reply:
    asked = body["messages"][0]["content"]
    return completion("Turn 1: good\nTurn 2: bad\n" if "first" in asked else "turn 1 - BAD")


def test_scripted_judges() -> None:
    found = JudgeCredit()(GROUP)
    np.testing.assert_array_equal(found, [[1.0, SCORED_BAD, np.nan], [SCORED_BAD, np.nan, np.nan]])
    by_answer = JudgeCredit(judge=ScriptedJudge(rule="answer"))(GROUP)
    np.testing.assert_array_equal(by_answer[0], [SCORED_BAD, 1.0, np.nan])
    assert JudgeCredit().required_info_keys == {"action", "gold_new"}
    bare = trajectory(Turn(action_ids=(1,), action_text="x", logprobs=(0.0,), info={"action": "x"}))
    with pytest.raises(MissingInfoKeyError, match="gold_new"):
        JudgeCredit()(Group((bare,)))


def test_a_model_behind_a_server_judges(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    url, seen = serve(by_text)
    judge = LlmJudge(base_url=url + "/", model="critic", api_key_variable="JUDGE_KEY")
    group = Group((GOOD, BAD, BAD))
    found = JudgeCredit(judge=judge)(group)
    np.testing.assert_array_equal(
        found,
        [[1.0, SCORED_BAD, np.nan], [SCORED_BAD, np.nan, np.nan], [SCORED_BAD, np.nan, np.nan]],
    )
    assert len(seen) == 2, "equal episodes are asked once"
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("critic", 0.0)
    assert "secret" not in repr(judge)


def test_a_model_behind_a_server_names_roles(serve: Any) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        asked = body["messages"][0]["content"]
        assert "which of four roles" in asked
        assert "South Sudan" not in asked
        return completion("Turn 1: progress" if "first" in asked else "Turn 1: no progress")

    url, seen = serve(answer)
    found = RoleCredit(judge=LlmRoles(server=LlmJudge(base_url=url)))(Group((GOOD, BAD, BAD)))
    np.testing.assert_array_equal(found[:, 0], [1.0, 0.25, 0.25])
    assert np.isnan(found[:, 1:]).all(), "the reply names one turn"
    assert len(seen) == 2, "equal episodes are asked once"


def test_without_a_key_none_is_sent(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    url, seen = serve(by_text)
    LlmJudge(base_url=url, api_key_variable="JUDGE_KEY").judge([GOOD])
    assert "authorization" not in seen[0][1]


def test_passing_failures_are_tried_again(serve: Any) -> None:
    statuses = iter([503, 429, 200])

    def answer(body: dict[str, Any]) -> Reply:
        status = next(statuses)
        return by_text(body) if status == 200 else (status, "busy")

    url, seen = serve(answer)
    judge = LlmJudge(base_url=url, backoff_s=0.0)
    assert judge.judge([GOOD]) == [[True, False, None]]
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("reply", "attempts", "message"),
    [
        ((500, "no"), 3, r"no verdict: http.*status 500: no \(3 attempts\)"),
        ((404, "no such model"), 1, "status 404: no such model"),
        ((200, "<html>"), 3, "the reply must be JSON"),
        ((200, '{"choices": []}'), 1, "the reply has no message"),
        ((200, '{"choices": [{"message": {"content": null}}]}'), 1, "must be text, got NoneType"),
    ],
)
def test_a_failing_judge_raises_or_excludes(
    serve: Any, reply: Reply, attempts: int, message: str
) -> None:
    url, seen = serve(lambda _: reply)
    judge = LlmJudge(base_url=url, max_retries=2, backoff_s=0.0)
    with pytest.raises(JudgeError, match=message):
        judge.judge([GOOD])
    assert len(seen) == attempts
    lenient = LlmJudge(base_url=url, max_retries=0, backoff_s=0.0, on_failure="exclude")
    assert np.isnan(JudgeCredit(judge=lenient)(GROUP)).all()


def test_nobody_listens() -> None:
    judge = LlmJudge(base_url="http://127.0.0.1:9", max_retries=1, backoff_s=0.0, timeout_s=2.0)
    with pytest.raises(JudgeError, match=r"no verdict: .*ConnectError.*\(2 attempts\)"):
        judge.judge([GOOD])


def test_unread_replies_leave_the_outcome_alone(serve: Any) -> None:
    """Searches without a verdict keep the advantage of the outcome."""
    url, _ = serve(lambda _: completion("I cannot say."))
    correctness = JudgeCredit(judge=LlmJudge(base_url=url))(GROUP)
    assert np.isnan(correctness).all()
    paid = Group(tuple(_with_reward(each, value) for each, value in ((GOOD, 1.0), (BAD, 0.0))))
    advantages = CriticSearch()(paid, correctness)
    assert advantages[0].tolist() == pytest.approx([advantages[0, 0]] * 3)
    assert advantages[0, 0] > 0 > advantages[1, 0]


def _with_reward(each: Trajectory, reward: float) -> Trajectory:
    last = each.turns[-1]
    paid = Turn(
        action_ids=last.action_ids,
        action_text=last.action_text,
        logprobs=last.logprobs,
        info=last.info,
        reward=reward,
    )
    return trajectory(*each.turns[:-1], paid)


def test_transcript() -> None:
    text = transcript(BAD)
    assert text == (
        "Question: Where is Wau?\n\nAccepted answers: South Sudan | SSD\n\n"
        "Turn 1, agent:\nother\n\nTurn 1, results:\npassages for other\n\nTurn 2, agent:\ngone\n"
    )
    bare = Trajectory(
        group_id="g", task_id="t", prompt_ids=(1,), prompt_text="prompt", turns=BAD.turns
    )
    assert transcript(bare).startswith("Question: prompt\n\nTurn 1")


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ("Turn 1: good\nTurn 2: bad", [True, False, None]),
        ("**Turn 2**: Good; turn 3 - BAD.", [None, True, False]),
        ("Turn 1: good. On second thought, Turn 1: bad", [False, None, None]),
        ("Turn 0: good Turn 4: bad Turn " + "9" * 500 + ": bad", [None, None, None]),
        ("Turn 1: goodish, return 2: bad", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_reading_verdicts(reply: str, labels: list[bool | None]) -> None:
    assert read_verdicts(reply, 3) == labels


@given(st.text())
def test_any_reply_can_be_read(reply: str) -> None:
    assert len(read_verdicts(reply, 2)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost"}, "base_url must begin with http"),
        ({"timeout_s": 0}, "timeout_s must be positive"),
        ({"max_retries": -1}, "max_retries must not be negative"),
        ({"max_concurrency": 0}, "max_concurrency must be positive"),
        ({"on_failure": "ignore"}, "on_failure must be raise or exclude"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlmJudge(**changes)
    with pytest.raises(ValueError, match="rule must be"):
        ScriptedJudge(rule="luck")  # type: ignore[arg-type]


def test_a_verdict_that_is_no_label_is_an_error() -> None:
    """NaN is true in Python, so a judge that failed would call its search good."""

    class Broken(ScriptedJudge):
        def judge(self, trajectories: Sequence[Trajectory]) -> list[list[Any]]:
            return [[float("nan")] * len(each.turns) for each in trajectories]

    with pytest.raises(JudgeError, match=r"True, False or None, got nan at turn 1 of task 't'"):
        JudgeCredit(judge=Broken())(GROUP)
