"""OpenEnv's own server and client on the atlas, over a WebSocket."""

from __future__ import annotations

import socket
import threading

import pytest

pytest.importorskip(
    "openenv", reason="openenv is not installed; `make test-integrations` installs it"
)
pytest.importorskip("fastmcp", reason="openenv needs fastmcp; `make test-integrations` installs it")

import httpx
import uvicorn
from openenv.core import GenericEnvClient

from calibadv_env.integrations.openenv import (
    SearchAction,
    SearchClient,
    SearchObservation,
    create_app,
)
from tests.integrations.players import (
    PAGES_ID,
    PAGES_SETTINGS,
    SETTINGS,
    example,
    play,
    play_pages,
    scripted,
    scripts,
)


def serve(app):
    """Runs an application until the generator is closed; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def url():
    yield from serve(create_app(**SETTINGS, max_sessions=8))


@pytest.fixture(scope="module")
def pages_url():
    yield from serve(create_app(PAGES_ID, **PAGES_SETTINGS))


@pytest.mark.parametrize("which", range(4), ids=["good", "wrong", "malformed", "no answer"])
def test_episodes_are_those_of_our_own_environment(url, which):
    own = play(scripts(3)[which], 3)
    with SearchClient(url).sync() as client:
        result = client.reset(task_index=3)
        assert result.observation.text == own.prompt
        assert result.observation.task_id == own.reset_info["task_id"]
        for step in own.steps:
            assert not result.done
            result = client.step(SearchAction(text=step.action))
            seen = result.observation
            assert (seen.text, result.reward) == (step.observation, step.reward)
            assert (seen.terminated, seen.truncated) == (step.terminated, step.truncated)
            assert result.done == (step.terminated or step.truncated)
        assert client.state().step_count == len(own.steps)
        assert client.state().is_over


def test_the_facts_about_correctness_survive_the_wire(url):
    own = play(scripts(3)[0], 3)
    with SearchClient(url).sync() as client:
        client.reset(task_index=3)
        for step in own.steps:
            info = client.step(step.action).observation.step_info()
            for key, value in step.info.items():
                if key == "passages":  # titles and texts, which approx does not take
                    assert [tuple(each) for each in info[key]] == list(value)
                    continue
                assert info[key] == pytest.approx(
                    list(value) if isinstance(value, tuple) else value
                )


def test_a_policy_plays_whole_episodes(url):
    with SearchClient(url).sync() as client:
        for index in range(3):
            own = play(scripted, index)
            result = client.reset(task_index=index)
            said, total = result.observation.text, 0.0
            while not result.done:
                action = scripted(said)
                result = client.step(action)
                said += action + result.observation.text
                total += result.reward
            texts = "".join(step.action + step.observation for step in own.steps)
            assert said == own.prompt + texts
            assert total == sum(step.reward for step in own.steps)


def test_generic_clients_find_everything_in_the_observation(url):
    with GenericEnvClient(url).sync() as client:
        client.reset(task_index=3)
        result = client.step({"text": scripts(3)[0][0]})
    assert result.observation["kind"] == "search"
    assert result.observation["passage_ids"]
    assert result.observation["truncated"] is False
    assert "golden_answers" not in str(result.observation)


def test_sessions_run_side_by_side(url):
    with SearchClient(url).sync() as first, SearchClient(url).sync() as second:
        first.reset(task_index=1)
        second.reset(task_index=2)
        action = "<think> a </think><search> France </search>"
        first.step(action)
        first.step(action)
        seen = second.step(action).observation
    assert (seen.turn, seen.task_index) == (1, 2)


def test_a_seed_chooses_the_task(url):
    with SearchClient(url).sync() as client:
        ids = [client.reset(seed=5, episode_id="mine").observation.task_id for _ in range(2)]
        assert ids[0] == ids[1]
        assert client.state().episode_id == "mine"


def test_mistakes_of_a_caller_come_back_as_errors(url):
    with SearchClient(url).sync() as client:
        with pytest.raises(RuntimeError, match="running episode"):
            client.step("before the reset")
        with pytest.raises(RuntimeError, match="task_index"):
            client.reset(task_index=10**9)
        assert client.reset(task_index=0).observation.task_index == 0


def test_the_schema_names_the_fields(url):
    fields = httpx.get(f"{url}/schema").json()["observation"]["properties"]
    assert {"terminated", "truncated", "f1", "gold_recall"} <= set(fields)
    assert set(SearchObservation.model_fields) <= set(fields)


def test_no_session_is_refused():
    with pytest.raises(ValueError, match="max_sessions"):
        create_app(max_sessions=0)


def test_the_example_in_the_docs_runs(capsys):
    exec(example("integrations.md", "OpenEnv"), {})
    assert "True False reward 0.0" in capsys.readouterr().out


def test_pages_are_searched_opened_and_read(pages_url):
    own = play_pages(3)
    with SearchClient(pages_url).sync() as client:
        result = client.reset(task_index=3)
        assert result.observation.text == own.prompt
        assert result.observation.pages["answer_kind"] == own.reset_info["answer_kind"]
        for step in own.steps:
            result = client.step(step.action)
            info = result.observation.step_info()
            assert (result.observation.text, result.reward) == (step.observation, step.reward)
            assert info["action"] == step.info["action"]
            for key in ("opened_ids", "gold_opened", "hops_read", "links", "calls"):
                assert info[key] == list(step.info[key])
        assert result.done


def test_passages_have_no_facts_of_pages(url):
    with SearchClient(url).sync() as client:
        assert client.reset(task_index=3).observation.pages == {}
        assert client.step(scripts(3)[0][0]).observation.pages == {}
