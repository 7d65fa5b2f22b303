"""Language models that write the passages of simulated searches: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from calibadv_env.common.chat import ChatClient
from calibadv_env.common.http import CallError, HttpSettings
from calibadv_env.errors import RetrieverError


class TextWriter(Protocol):
    """A language model, text in and text out."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt.

        Raises:
            RetrieverError: if it could not.
        """
        ...


class ScriptedWriter:
    """Writes with a function, for tests and as the adapter for a model in this process.

    Args:
        function: Gives the text for one prompt.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt."""
        return [self._function(prompt) for prompt in prompts]


class ChatWriter:
    """Writes with any server that has OpenAI's route ``/chat/completions``.

    Args:
        base_url: Such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        temperature: Sampling temperature.
        max_tokens: Most tokens of an answer.
        api_key_variable: Name of the environment variable that holds the key. It is read at each
            call and never stored; without the variable none is sent.
        seed: Sent along, for servers that sample by it.
        settings: Timeouts, retries, concurrency.

    Raises:
        ValueError: if an argument is out of its range.
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        temperature: float = 0.8,
        max_tokens: int = 600,
        api_key_variable: str = "OPENAI_API_KEY",
        seed: int = 0,
        settings: HttpSettings | None = None,
    ) -> None:
        self._chat = ChatClient(
            base_url,
            model,
            temperature=temperature,
            max_tokens=max_tokens,
            key_variable=api_key_variable,
            settings=settings or HttpSettings(timeout_s=120.0),
            seed=seed,
        )

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Answers to the prompts, in order: several at a time, each as one user message.

        Raises:
            RetrieverError: if the server could not be reached or its reply has no text.
        """
        try:
            return self._chat.map(self._chat.answer, prompts)
        except CallError as error:
            raise RetrieverError(str(error)) from error.__cause__
