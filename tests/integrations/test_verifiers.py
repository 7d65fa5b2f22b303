"""verifiers' own runner on the atlas, with the policy behind an OpenAI endpoint."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "verifiers", reason="verifiers is not installed; `make test-integrations` installs it"
)

import verifiers.v1 as vf

from calibadv_env.integrations.common import plain_facts
from tests.integrations.chat import Body, Endpoint, serve
from tests.integrations.players import (
    PAGES_ID,
    PAGES_SETTINGS,
    SETTINGS,
    AtlasPolicy,
    example,
    play,
    play_pages,
    scripts,
)

PACKAGE = Path(__file__).parents[2] / "environments" / "calibadv_search"


@pytest.fixture(autouse=True)
def _package(monkeypatch, tmp_path):
    """The package that verifiers looks for, installed or not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(PACKAGE))


def load(**taskset: object) -> vf.Env:
    from calibadv_search import load_environment

    return load_environment(taskset={"env_kwargs": SETTINGS, **taskset})


def run(env: vf.Env, task: vf.Task, endpoint: Endpoint) -> vf.Episode:
    client = vf.EvalClientConfig(base_url=endpoint.url, api_key_var="NO_KEY")
    context = vf.ModelContext(model="policy", client=client)

    async def main() -> vf.Episode:
        async with env.serving():
            return await env.run_episode(task, context)

    return asyncio.run(main())


def task_at(env: vf.Env, index: int) -> vf.Task:
    return next(task for task in env.taskset if task.data.task_index == index)


def said(body: Body) -> str:
    return "".join(message["content"] for message in body["messages"])


def compare(trace: vf.Trace, own) -> None:
    assert trace.reward == sum(step.reward for step in own.steps)
    turns = [dict(turn) for turn in trace.info["turns"]]
    for turn, step in zip(turns, own.steps, strict=True):
        end = {"terminated": step.terminated, "truncated": step.truncated}
        assert turn == {**plain_facts(step.info), "reward": step.reward, **end}
    texts = [message.content for message in trace.branches[-1].messages]
    wanted = [own.prompt]
    for step in own.steps:
        wanted += [step.action, step.observation]
    assert [text.strip() for text in texts] == [text.strip() for text in wanted[:-1]]


@pytest.mark.parametrize("which", range(4), ids=["good", "wrong", "malformed", "no answer"])
def test_episodes_are_those_of_our_own_environment(which):
    own = play(scripts(3)[which], 3)
    env = load(num_tasks=4)

    def answer(body: Body) -> str:
        return own.actions[sum(message["role"] == "assistant" for message in body["messages"])]

    with serve(answer) as endpoint:
        episode = run(env, task_at(env, 3), endpoint)
    assert episode.ok, episode.errors
    (trace,) = episode.traces
    compare(trace, own)
    assert trace.rewards["answer"].score == own.steps[-1].reward
    assert trace.metrics["f1"] == own.steps[-1].info["f1"]


def test_episodes_of_the_shipped_policy():
    policy = AtlasPolicy()
    env = load(num_tasks=2)
    with serve(lambda body: policy(said(body))) as endpoint:
        for index in (0, 1):
            episode = run(env, task_at(env, index), endpoint)
            assert episode.ok, episode.errors
            actions = [
                message.content
                for message in episode.traces[0].branches[-1].messages
                if message.role == "assistant"
            ]
            compare(episode.traces[0], play(actions, index))


def test_a_model_that_fails_loses_the_episode():
    env = load(num_tasks=1)
    with serve(lambda body: "x", status=400) as endpoint:
        episode = run(env, task_at(env, 0), endpoint)
    assert not episode.ok


def test_the_taskset_is_found_by_its_name():
    taskset = vf.load_taskset(
        vf.taskset_config_type("calibadv-search")(num_tasks=3, id="calibadv-search")
    )
    tasks = list(taskset)
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    assert tasks[0].data.prompt.rstrip().endswith("?")
    assert tasks[0].data.golden_answers
    assert vf.default_harness_id("calibadv-search") == "calibadv-search"
    assert vf.environment_class("calibadv-search").__name__ == "SearchEnv"
    config = vf.resolve_env_config({"taskset": {"id": "calibadv-search"}})
    assert config.agent.runtime.type == "subprocess"


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        load(nonsense=1)


def test_the_package_names_what_it_needs():
    text = (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    assert 'name = "calibadv-search"' in text
    assert "verifiers>=0.4,<0.5" in text


def test_the_example_in_the_docs_runs(monkeypatch, capsys):
    good = scripts(0, split="dev")[0]

    def answer(body: Body) -> str:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        return good[min(turn, len(good) - 1)]

    with serve(answer) as endpoint:
        monkeypatch.setenv("MODEL_URL", endpoint.url)
        exec(example("integrations.md", "verifiers"), {"__name__": "docs"})
    assert "reward 1.0" in capsys.readouterr().out
    assert "calibadv_search" in sys.modules


def test_pages_are_searched_opened_and_read():
    own = play_pages(3)
    env = load(num_tasks=4, env_id=PAGES_ID, env_kwargs=PAGES_SETTINGS)

    def answer(body: Body) -> str:
        return own.actions[sum(message["role"] == "assistant" for message in body["messages"])]

    with serve(answer) as endpoint:
        episode = run(env, task_at(env, 3), endpoint)
    assert episode.ok, episode.errors
    compare(episode.traces[0], own)
    assert episode.traces[0].metrics["num_calls"] == len(own.steps) - 1
