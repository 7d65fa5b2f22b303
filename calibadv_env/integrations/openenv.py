"""The environments behind OpenEnv's server, and a typed client.

Whether an episode was terminated or truncated, and how good its turns were, are fields of the
observation: clients of older releases do not see what stands in an observation's metadata.
"""

from __future__ import annotations

import importlib
from typing import Any, Final
from uuid import uuid4

from calibadv_env.common.peers import require
from calibadv_env.integrations.common import (
    DEFAULT_ENV_ID,
    make_env,
    page_facts,
    plain_facts,
    task_options,
)
from calibadv_env.integrations.versions import OPENENV

_core: Any = require(OPENENV)
_server: Any = importlib.import_module("openenv.core.env_server")
_types: Any = importlib.import_module("openenv.core.client_types")

ENV_NAME: Final = "calibadv_search"
"""Name of the server in the routes about tasks."""

_RESET_FIELDS: Final = ("task_id", "task_index", "question", "max_turns")
_STEP_FIELDS: Final = (
    "task_id", "task_index", "turn", "num_searches", "think", "query", "answer", "passage_ids",
    "passages", "passage_scores", "gold_new", "gold_recall", "answer_in_passages",
    "num_passages_new", "num_passages_seen", "think_similarity", "stop_reason", "em", "f1",
    "cover_em", "is_format_valid",
)  # fmt: skip


class SearchAction(_core.Action):  # type: ignore[misc]
    """One turn.

    Attributes:
        text: All text of the turn.
    """

    text: str


class SearchObservation(_core.Observation):  # type: ignore[misc]
    """Text that the policy is shown, and the facts about the turn.

    ``done`` and ``reward`` are OpenEnv's own. The other fields are those of ``ResetInfo`` and
    ``StepInfo`` in ``calibadv_env.info``, None where they do not apply; accepted answers are not
    among them, so a client cannot show them to a policy by mistake.

    Attributes:
        text: The new text.
        terminated: If true, the task came to its end.
        truncated: If true, the turns ran out.
        kind: What the action turned out to be: "search", "open", "find", "answer", "malformed".
        pages: In environments of pages the further facts of ``PagesResetInfo`` and
            ``PagesStepInfo``, such as the sections that were opened; empty in others.
    """

    text: str
    terminated: bool = False
    truncated: bool = False
    task_id: str = ""
    task_index: int = -1
    question: str | None = None
    max_turns: int | None = None
    turn: int = 0
    num_searches: int = 0
    kind: str | None = None
    think: str = ""
    query: str | None = None
    answer: str | None = None
    passage_ids: list[str] = []  # noqa: RUF012 - a pydantic field, copied for each instance
    passages: list[tuple[str, str]] = []  # noqa: RUF012
    passage_scores: list[float] = []  # noqa: RUF012
    gold_new: list[str] = []  # noqa: RUF012
    gold_recall: float | None = None
    answer_in_passages: bool = False
    num_passages_new: int = 0
    num_passages_seen: int = 0
    think_similarity: float = 0.0
    stop_reason: str | None = None
    em: float | None = None
    f1: float | None = None
    cover_em: float | None = None
    is_format_valid: bool | None = None
    pages: dict[str, Any] = {}  # noqa: RUF012

    def step_info(self) -> dict[str, Any]:
        """The facts under the names of ``StepInfo``, as credit and diagnostics read them."""
        info = {key: getattr(self, key) for key in _STEP_FIELDS}
        info["gold_recall"] = float("nan") if self.gold_recall is None else self.gold_recall
        return {"action": self.kind, **info, **self.pages}


class SearchState(_core.State):  # type: ignore[misc]
    """Where an episode stands.

    Attributes:
        task_id: Its task.
        task_index: The task's position in the split.
        is_over: If true, it has ended.
    """

    task_id: str = ""
    task_index: int = -1
    is_over: bool = True


class OpenEnvSearch(_core.Environment):  # type: ignore[misc]
    """The server's side: an environment of this package as OpenEnv's ``Environment``.

    Sessions share the read-only corpus and index of their dataset within the process.

    Args:
        env_id: A registered id of this package, as in ``gymnasium.make``.
        **env_kwargs: Its arguments.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str = DEFAULT_ENV_ID, **env_kwargs: Any) -> None:
        super().__init__()
        self._env = make_env(env_id, env_kwargs)
        self._state = SearchState()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        task_index: int | None = None,
        task_id: str | None = None,
    ) -> SearchObservation:
        """Starts an episode.

        Args:
            seed: Seeds the draw of the task.
            episode_id: What to call it; made up if None.
            task_index: Chooses the task.
            task_id: Chooses the task.

        Raises:
            ValueError: if there is no such task.
        """
        options = task_options({"task_index": task_index, "task_id": task_id})
        text, info = self._env.reset(seed=seed, options=options)
        facts = {key: info[key] for key in _RESET_FIELDS}
        self._state = SearchState(
            episode_id=episode_id or uuid4().hex,
            task_id=info["task_id"],
            task_index=info["task_index"],
            is_over=False,
        )
        return SearchObservation(
            text=text, reward=None, done=False, pages=page_facts(info), **facts
        )

    def step(
        self, action: SearchAction, timeout_s: float | None = None, **_: Any
    ) -> SearchObservation:
        """Plays one turn.

        Args:
            action: The turn.
            timeout_s: Not used: a retriever has a time limit of its own.

        Raises:
            ResetNeeded: before the first reset and after the end of an episode.
            RetrieverError: if the search failed; the episode is as before.
        """
        text, reward, terminated, truncated, info = self._env.step(action.text)
        is_over = terminated or truncated
        self._state.step_count += 1
        self._state.is_over = is_over
        facts = plain_facts({key: info[key] for key in _STEP_FIELDS if key in info})
        return SearchObservation(
            text=text,
            reward=float(reward),
            done=is_over,
            terminated=terminated,
            truncated=truncated,
            kind=info["action"],
            pages=page_facts(info),
            **facts,
        )

    @property
    def state(self) -> SearchState:
        """Where the episode stands."""
        return self._state

    def get_metadata(self) -> Any:
        """Name and purpose, for OpenEnv's listing."""
        return _server.types.EnvironmentMetadata(
            name=ENV_NAME,
            description="Answer a question by searching a corpus.",
            version="0",
        )

    def close(self) -> None:
        """Lets the environment go."""
        self._env.close()


def create_app(env_id: str = DEFAULT_ENV_ID, *, max_sessions: int = 64, **env_kwargs: Any) -> Any:
    """OpenEnv's FastAPI application, for uvicorn, with one environment a WebSocket session.

    Args:
        env_id: A registered id of this package, as in ``gymnasium.make``.
        max_sessions: Most episodes that are played at a time, at least 1.
        **env_kwargs: Arguments of the environment.

    Raises:
        ValueError: if ``max_sessions`` is below 1.
    """
    if max_sessions < 1:
        raise ValueError(f"max_sessions must be at least 1, got {max_sessions}")

    def make() -> OpenEnvSearch:
        return OpenEnvSearch(env_id, **env_kwargs)

    make().close()
    return _server.create_fastapi_app(
        make,
        SearchAction,
        SearchObservation,
        max_concurrent_envs=max_sessions,
        env_name=ENV_NAME,
        state_cls=SearchState,
    )


class SearchClient(_core.EnvClient):  # type: ignore[misc]
    """The client's side; see OpenEnv's ``EnvClient`` for its arguments and for ``sync()``.

    ``step`` takes a :class:`SearchAction` or a string.
    """

    def _step_payload(self, action: SearchAction | str) -> dict[str, Any]:
        return {"text": action if isinstance(action, str) else action.text}

    def _parse_result(self, payload: dict[str, Any]) -> Any:
        fields = {key: value for key, value in payload["observation"].items() if key != "metadata"}
        reward, done = payload.get("reward"), bool(payload.get("done", False))
        observation = SearchObservation(reward=reward, done=done, **fields)
        return _types.StepResult(observation=observation, reward=reward, done=done)

    def _parse_state(self, payload: dict[str, Any]) -> SearchState:
        return SearchState(**payload)
