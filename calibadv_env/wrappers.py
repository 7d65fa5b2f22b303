"""Wrappers for other ways of talking: observations as chat messages, actions as tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import create_shared_memory

from calibadv_env.env import MAX_ACTION_CHARS, MAX_TEXT_CHARS
from calibadv_env.info import THINK_OPEN
from calibadv_env.protocol.toolcalls import ToolAction, ToolGrammar
from calibadv_env.spaces import UnicodeText

Message = dict[str, Any]
"""A chat message: ``role``, ``content``, and what else its protocol has."""

ResultRole = Literal["user", "tool"]
"""In whose name passages are given to the model."""

UNCALLED_TEXT: Final = "Not carried out: one call a turn."
"""Answer to a second call of the same turn."""


class MessageList(gymnasium.Space[list[Message]]):
    """Lists of chat messages: mappings with a text ``role`` and a text ``content``.

    The content may be None or missing where there are ``tool_calls``.

    Args:
        max_chars: Most characters of one content, at least 1.
        seed: Seed of the sampling.

    Raises:
        ValueError: if ``max_chars`` is below 1.
    """

    def __init__(self, max_chars: int, *, seed: int | np.random.Generator | None = None) -> None:
        self._text = UnicodeText(max_chars)
        super().__init__(None, None, seed)

    @property
    def max_chars(self) -> int:
        """Most characters of one content."""
        return self._text.max_chars

    @property
    def is_np_flattenable(self) -> bool:
        """Messages have no flat form of fixed size."""
        return False

    def contains(self, x: Any) -> bool:
        """Tells if ``x`` is a list of messages."""
        return isinstance(x, list) and all(self._is_message(each) for each in x)

    def _is_message(self, message: Any) -> bool:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return False
        content = message.get("content")
        return content in self._text or (content is None and bool(message.get("tool_calls")))

    def sample(self, mask: Any = None, probability: Any = None) -> list[Message]:
        """Draws one user message of short text; masks are refused.

        Raises:
            ValueError: if a mask or probabilities are given.
        """
        if mask is not None or probability is not None:
            raise ValueError("mask and probability must be None for MessageList")
        self._text.seed(int(self.np_random.integers(2**31)))
        return [{"role": "user", "content": self._text.sample()}]

    def __repr__(self) -> str:
        return f"MessageList({self.max_chars})"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, MessageList) and self.max_chars == other.max_chars


class ToolActionSpace(gymnasium.Space[ToolAction]):
    """One turn with a tool call: any text, or an assistant message as a mapping.

    Args:
        seed: Seed of the sampling.
    """

    def __init__(self, *, seed: int | np.random.Generator | None = None) -> None:
        self._text = UnicodeText(MAX_ACTION_CHARS)
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no flat form of fixed size."""
        return False

    def contains(self, x: Any) -> bool:
        """Tells if ``x`` is text or a mapping."""
        return isinstance(x, Mapping) or x in self._text

    def sample(self, mask: Any = None, probability: Any = None) -> ToolAction:
        """Draws a search for a short text; masks are refused.

        Raises:
            ValueError: if a mask or probabilities are given.
        """
        if mask is not None or probability is not None:
            raise ValueError("mask and probability must be None for ToolActionSpace")
        self._text.seed(int(self.np_random.integers(2**31)))
        call = {"name": "search", "arguments": {"query": self._text.sample()}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    def __repr__(self) -> str:
        return "ToolActionSpace()"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, ToolActionSpace)


class ToolCalls(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Tool calls as actions: ``<tool_call>{json}</tool_call>``, or OpenAI messages.

    The tools are ``search(query)`` and ``answer(answer)``; see
    :data:`calibadv_env.protocol.toolcalls.TOOLS`. Environments of pages have ``open(page)`` and
    ``find(words)`` too, which ``PageToolGrammar`` reads
    (:mod:`calibadv_env.protocol.page_tools`). Broken JSON, an unknown tool or a missing
    argument is a malformed action, which the environment treats as its rules say. Tags are still
    understood. The corrective sentence speaks of calls.

    Args:
        env: An environment of this package, best made with ``prompt=TOOL_PROMPT``.
        grammar: How calls are read; None for the tools above.
    """

    def __init__(self, env: gymnasium.Env[str, str], *, grammar: ToolGrammar | None = None) -> None:
        RecordConstructorArgs.__init__(self, grammar=grammar)
        super().__init__(env)
        self.grammar = grammar or ToolGrammar()
        self.action_space = ToolActionSpace()
        self._is_think_open = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Resets the environment; see :meth:`calibadv_env.env.DeepSearchEnv.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._is_think_open = observation.endswith(THINK_OPEN)
        return observation, info

    def step(self, action: ToolAction) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Plays one turn.

        Args:
            action: Text, or an assistant message.

        Returns:
            What the environment returns.

        Raises:
            ValueError: if the action is neither.
        """
        if not isinstance(action, str | Mapping):
            raise ValueError(f"action must be a str or a mapping, got {type(action).__name__}")
        text = self.grammar.to_tags(action)
        if self._is_think_open:
            text = text.removeprefix(THINK_OPEN)
        observation, reward, terminated, truncated, info = self.env.step(text)
        self._is_think_open = observation.endswith(THINK_OPEN)
        observation = self.grammar.corrected(observation)
        return observation, reward, terminated, truncated, info


class ChatObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The whole conversation as a list of messages, ready for a chat template or an API.

    The instruction is the first user message, each action an assistant message, and what comes
    back a message of ``result_role``. Nothing is added where nothing comes back, as after an
    answer. Every observation is a new list.

    Actions go on to the environment as they are. An action that is a mapping needs
    :class:`ToolCalls` below this wrapper; its calls are answered with messages of the role
    ``tool`` that carry their ids.

    Args:
        env: An environment of this package, without ``prepend_think``.
        system: Content of a system message at the beginning; None for none.
        result_role: Role of passages and of the corrective sentence after an action in text.

    Raises:
        ValueError: if the role is another one.
    """

    def __init__(
        self,
        env: gymnasium.Env[str, Any],
        *,
        system: str | None = None,
        result_role: ResultRole = "user",
    ) -> None:
        if result_role not in ("user", "tool"):
            raise ValueError(f"result_role must be user or tool, got {result_role!r}")
        RecordConstructorArgs.__init__(self, system=system, result_role=result_role)
        super().__init__(env)
        self.observation_space = MessageList(MAX_TEXT_CHARS)
        self._system = system
        self._result_role = result_role
        self._messages: list[Message] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[Message], dict[str, Any]]:
        """Starts an episode and a conversation.

        Raises:
            ValueError: if the environment opens the thought itself: the tag would stand in a
                user message.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        if observation.endswith(THINK_OPEN):
            raise ValueError(
                "prepend_think must be False under ChatObservation, got an observation that ends "
                f"with {THINK_OPEN}"
            )
        first = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._messages = [*first, {"role": "user", "content": observation}]
        return deepcopy(self._messages), info

    def step(
        self, action: ToolAction
    ) -> tuple[list[Message], SupportsFloat, bool, bool, dict[str, Any]]:
        """Plays one turn and adds it, with what came back, to the conversation.

        Args:
            action: Text, or an assistant message where ``ToolCalls`` lies below.

        Returns:
            The whole conversation, and the rest as the environment gives it.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._messages.append(_assistant_message(action))
        results = info.get("results", ()) if observation else ()
        self._messages += self._results(self._messages[-1], observation, results)
        return deepcopy(self._messages), reward, terminated, truncated, info

    def _results(self, message: Message, observation: str, results: Sequence[str]) -> list[Message]:
        """Messages in reply to an action; environments of pages report a result for each call."""
        ids = _call_ids(message)
        if not ids:
            return [{"role": self._result_role, "content": observation}] if observation else []
        carried_out = results if len(results) > 1 else [observation]
        contents = [*carried_out, *[UNCALLED_TEXT] * (len(ids) - len(carried_out))]
        return [
            {"role": "tool", "tool_call_id": call_id, "content": content}
            for call_id, content in zip(ids, contents, strict=True)
            if content
        ]


def _assistant_message(action: ToolAction) -> Message:
    if isinstance(action, str):
        return {"role": "assistant", "content": action}
    message = {**deepcopy(dict(action)), "role": "assistant"}
    if not message.get("tool_calls") and not isinstance(message.get("content"), str):
        message["content"] = ""
    return message


def _call_ids(message: Message) -> list[str]:
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return []
    return [str(call["id"]) for call in calls if isinstance(call, Mapping) and call.get("id")]


@create_shared_memory.register(MessageList)
@create_shared_memory.register(ToolActionSpace)
def _refuse_shared_memory(space: gymnasium.Space[Any], n: int = 1, ctx: Any = None) -> None:
    """Says what to do instead."""
    raise CustomSpaceError(
        f"{space!r} cannot live in shared memory; make the AsyncVectorEnv with shared_memory=False"
    )
