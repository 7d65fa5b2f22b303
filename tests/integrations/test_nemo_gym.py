"""NeMo-Gym's own server and agent classes on the atlas."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock

import pytest

if sys.version_info < (3, 12):
    pytest.skip("NeMo-Gym 0.4 needs Python 3.12", allow_module_level=True)
pytest.importorskip(
    "nemo_gym", reason="nemo-gym is not installed; `make test-integrations` installs it"
)

from fastapi.testclient import TestClient
from nemo_gym.server_utils import ServerClient

from calibadv_env.integrations.common import plain_facts
from calibadv_env.integrations.nemo_gym import SearchServer, SearchServerConfig
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


def serve(**settings: object) -> TestClient:
    settings = {"env_kwargs": SETTINGS, **settings}
    config = SearchServerConfig(host="", port=0, entrypoint="", name="x", **settings)
    server = SearchServer(config=config, server_client=MagicMock(spec=ServerClient))
    return TestClient(server.setup_webserver())


def response(*texts: str) -> dict:
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {
        "id": "r",
        "created_at": 0,
        "model": "policy",
        "object": "response",
        "tools": [],
        "output": [{**message, "content": parts}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
    }


def row(**columns: object) -> dict:
    return {"responses_create_params": {"input": []}, **columns}


@pytest.mark.parametrize("which", range(4), ids=["good", "wrong", "malformed", "no answer"])
def test_episodes_are_those_of_our_own_environment(which):
    own = play(scripts(3)[which], 3)
    client = serve()
    start = client.post("/reset", json=row(task_index=3)).json()
    assert start == {"observation": own.prompt, "info": plain_facts(own.reset_info)}
    for step in own.steps:
        reply = client.post("/step", json=row(task_index=3, response=response(step.action))).json()
        assert reply["observation"] == step.observation
        assert reply["reward"] == step.reward
        assert (reply["terminated"], reply["truncated"]) == (step.terminated, step.truncated)
        assert reply["info"] == plain_facts(step.info)


def test_a_policy_plays_whole_episodes():
    client = serve()
    for index in range(3):
        own = play(scripted, index)
        said = client.post("/reset", json=row(verifier_metadata={"task_index": index})).json()[
            "observation"
        ]
        total, is_over = 0.0, False
        while not is_over:
            action = scripted(said)
            reply = client.post("/step", json=row(response=response(action))).json()
            said += action + (reply["observation"] or "")
            total += reply["reward"]
            is_over = reply["terminated"] or reply["truncated"]
        assert said == own.prompt + "".join(step.action + step.observation for step in own.steps)
        assert total == sum(step.reward for step in own.steps)


def test_sessions_do_not_see_each_other():
    config = SearchServerConfig(host="", port=0, entrypoint="", name="x", env_kwargs=SETTINGS)
    app = SearchServer(config=config, server_client=MagicMock(spec=ServerClient)).setup_webserver()
    first, second = TestClient(app), TestClient(app)
    first.post("/reset", json=row(task_index=1))
    second.post("/reset", json=row(task_index=2))
    action = response("<think> a </think><search> France </search>")
    for _ in range(2):
        first.post("/step", json=row(response=action))
    reply = second.post("/step", json=row(response=action)).json()
    assert (reply["info"]["turn"], reply["info"]["task_index"]) == (1, 2)


def test_a_step_without_an_episode_is_refused():
    with pytest.raises(ValueError, match="call /reset first"):
        serve().post("/step", json=row(response=response("hello")))


def test_an_ended_episode_is_forgotten():
    client = serve()
    client.post("/reset", json=row(task_index=0))
    answer = row(response=response("<think> a </think><answer> b </answer>"))
    assert client.post("/step", json=answer).json()["terminated"]
    with pytest.raises(ValueError, match="no episode"):
        client.post("/step", json=answer)


def test_the_example_in_the_docs_runs(capsys):
    exec(example("integrations.md", "NeMo-Gym"), {})
    assert "'terminated': True" in capsys.readouterr().out


def test_pages_are_searched_opened_and_read():
    own = play_pages(3)
    client = serve(env_id=PAGES_ID, env_kwargs=PAGES_SETTINGS)
    start = client.post("/reset", json=row(task_index=3)).json()
    assert start == {"observation": own.prompt, "info": plain_facts(own.reset_info)}
    for step in own.steps:
        reply = client.post("/step", json=row(task_index=3, response=response(step.action))).json()
        assert (reply["observation"], reply["reward"]) == (step.observation, step.reward)
        assert reply["info"] == plain_facts(step.info)
