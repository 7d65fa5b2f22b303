"""Language models that write the passages of simulated searches: text in, text out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.remote.session import HttpSession, HttpSettings, UnusableReplyError


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
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, got {base_url!r}")
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._fixed = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        self._api_key_variable = api_key_variable
        self._session = HttpSession(settings or HttpSettings(timeout_s=120.0))

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt, several at a time.

        Args:
            prompts: Each is sent as one user message.

        Returns:
            The answers, in order.

        Raises:
            RetrieverError: if the server could not be reached or its reply has no text.
        """
        return self._session.map(self._write_one, prompts) if prompts else []

    def _write_one(self, prompt: str) -> str:
        body = {**self._fixed, "messages": [{"role": "user", "content": prompt}]}
        headers = {"content-type": "application/json"}
        key = os.environ.get(self._api_key_variable)
        if key:
            headers["authorization"] = f"Bearer {key}"
        raw = json.dumps(body).encode("ascii")
        return self._session.post(self._url, raw, headers, partial(_read_completion, self._url))


def _read_completion(url: str, body: bytes) -> str:
    try:
        record = json.loads(body)
    except ValueError as error:
        raise UnusableReplyError(f"the reply must be JSON: {error}; got {body[:80]!r}") from error
    try:
        text = record["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise RetrieverError(f"{url}: the reply has no message: {body[:200]!r}") from error
    if not isinstance(text, str):
        raise RetrieverError(f"{url}: the message must be text, got {type(text).__name__}")
    return text
