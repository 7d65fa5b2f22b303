"""The environments in verifiers: a taskset, an environment that plays the user, a chat harness.

verifiers finds them through the small package in ``environments/calibadv_search``, whose name is
the id that its commands take. The environment answers each reply of the model with its
observation, until the episode is over; the reward stands under ``answer`` in the trace, the facts
about each turn under ``info["turns"]``.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from calibadv_env.common.peers import require
from calibadv_env.integrations.common import DEFAULT_ENV_ID, make_env, plain_facts
from calibadv_env.integrations.versions import VERIFIERS

vf: Any = require(VERIFIERS)
_httpx: Any = importlib.import_module("httpx")
_chat: Any = importlib.import_module("verifiers.v1.dialects.chat")

TASKSET_ID: Final = "calibadv-search"
"""Id of the taskset, and name of the package that brings it."""

REWARD: Final = "answer"
"""Name of the reward in a trace."""

_SCORES: Final = ("em", "f1", "cover_em", "is_format_valid")
_CALL_TIMEOUT_S: Final = 600.0


class SearchData(vf.TaskData):  # type: ignore[misc]
    """One task.

    Attributes:
        task_index: Its position in the split.
        task_id: Its id.
        golden_answers: Accepted answers.
    """

    task_index: int
    task_id: str
    golden_answers: tuple[str, ...] = ()


class SearchTask(vf.Task[SearchData]):  # type: ignore[misc]
    """A task; its reward is recorded by :class:`SearchEnv`, which knows the episode."""


class SearchTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which tasks, under ``--env.taskset.*``.

    Attributes:
        env_id: A registered id of this package, as in ``gymnasium.make``.
        env_kwargs: Its arguments, such as ``{"split": "test", "max_turns": 3}``.
        num_tasks: Number of tasks from the start of the split; None for all.
    """

    env_id: str = DEFAULT_ENV_ID
    env_kwargs: dict[str, Any] = {}  # noqa: RUF012 - a pydantic field, copied for each instance
    num_tasks: int | None = None


class SearchTaskset(vf.Taskset[SearchTask, SearchTasksetConfig]):  # type: ignore[misc]
    """The tasks of a split; the first observation of each is its prompt."""

    def load(self) -> Iterator[SearchTask]:
        """Makes the tasks in order."""
        env = make_env(self.config.env_id, self.config.env_kwargs)
        _, first = env.reset(options={"task_index": 0})
        count = first["num_tasks"]
        if self.config.num_tasks is not None:
            count = min(count, self.config.num_tasks)
        for index in range(count):
            observation, info = env.reset(options={"task_index": index})
            data = SearchData(
                id=info["task_id"],
                name=info["question"],
                prompt=observation,
                task_index=index,
                task_id=info["task_id"],
                golden_answers=info["golden_answers"],
            )
            yield SearchTask(data, self.config.task)


class SearchEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """The run, under ``--env.*``.

    Attributes:
        agent: Who answers. Its harness runs here and executes nothing, so no container is needed.
    """

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class SearchEnv(vf.Env[SearchEnvConfig]):  # type: ignore[misc]
    """Plays the user: every reply of the model is an action, every observation a user turn."""

    async def run(self, task: SearchTask, agents: Any) -> None:
        """Plays one episode with ``agents.agent``; records reward, scores and facts in its trace.

        Raises:
            RetrieverError: if a search failed; the episode is then lost.
        """
        settings = self.config.taskset
        env = await asyncio.to_thread(make_env, settings.env_id, settings.env_kwargs)
        env.reset(options={"task_index": task.data.task_index})
        facts: list[dict[str, Any]] = []
        total, is_over = 0.0, False
        async with agents.agent.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                observation, reward, terminated, truncated, info = await asyncio.to_thread(
                    env.step, segment.last_reply
                )
                is_over = terminated or truncated
                turn = {"reward": float(reward), "terminated": terminated, "truncated": truncated}
                facts.append({**plain_facts(info), **turn})
                total += float(reward)
                if is_over:
                    break
                segment = await interaction.turn(observation)
        trace = interaction.trace
        trace.record_reward(REWARD, total, 1.0)
        trace.info["turns"] = facts
        if is_over:
            trace.record_metrics({key: float(facts[-1][key]) for key in _SCORES})
            for count in ("num_searches", "num_calls"):
                if count in facts[-1]:
                    trace.record_metric(count, float(facts[-1][count]))


class ChatHarnessConfig(vf.HarnessConfig):  # type: ignore[misc]
    """Settings of :class:`ChatHarness`: none beyond those of every harness."""


class ChatHarness(vf.Harness[ChatHarnessConfig]):  # type: ignore[misc]
    """One chat completion a turn, in this process: no program to install, nothing to execute."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],
        data: Any,
    ) -> Any:
        """Asks the model once, for its reply to the conversation so far.

        Args:
            ctx: Names the model.
            trace: Where verifiers records the call.
            runtime: Not used.
            endpoint: URL that stands for the model in this run.
            secret: Bearer token of that endpoint.
            mcp_urls: Not used: the environment is the only tool.
            data: The conversation so far, as its prompt.

        Returns:
            Success, or the status and the body of a refused call.
        """
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [_chat.message_to_wire(message) for message in prompt or ()]
        async with _httpx.AsyncClient(timeout=_CALL_TIMEOUT_S, trust_env=False) as client:
            reply = await client.post(
                f"{endpoint.rstrip('/')}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
            )
        error = "" if reply.is_success else f"{reply.status_code}: {reply.text}"
        return vf.ProgramResult(exit_code=bool(error), stdout="", stderr=error)


def load_environment(*, taskset: Mapping[str, Any] | None = None, **config: Any) -> SearchEnv:
    """Makes the environment as ``vf-eval`` does, to be used inside its ``serving()``.

    Args:
        taskset: Fields of :class:`SearchTasksetConfig`.
        **config: Fields of :class:`SearchEnvConfig`.

    Raises:
        ModuleNotFoundError: if the package ``calibadv_search`` is not installed.
    """
    settings = {"taskset": {"id": TASKSET_ID, **(taskset or {})}, **config}
    environment: SearchEnv = vf.load_environment(vf.resolve_env_config(settings))
    return environment
