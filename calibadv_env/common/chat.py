"""A language model behind a server with OpenAI's route ``/chat/completions``: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from calibadv_env.common.checks import require_not_negative, require_positive
from calibadv_env.common.http import CallError, HttpClient, HttpSettings, bearer, require_http


class ChatClient:
    """Asks single questions; every prompt is one message of a user.

    Args:
        base_url: Such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        temperature: Sampling temperature.
        max_tokens: Most tokens of an answer.
        key_variable: Environment variable that holds the key; without it none is sent.
        settings: Timeouts, retries, concurrency.
        seed: Sent along, for servers that sample by it; None sends none.

    Raises:
        ValueError: if an argument is out of its range.
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        temperature: float,
        max_tokens: int,
        key_variable: str,
        settings: HttpSettings,
        seed: int | None = None,
    ) -> None:
        require_http(base_url=base_url)
        require_not_negative(temperature=temperature)
        require_positive(max_tokens=max_tokens)
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._fixed = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        if seed is not None:
            self._fixed["seed"] = seed
        self._key_variable = key_variable
        self._http = HttpClient(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answer(self, prompt: str) -> str:
        """The answer to a prompt.

        Raises:
            CallError: if the server could not be reached or its reply has no text.
        """
        record = {**self._fixed, "messages": [{"role": "user", "content": prompt}]}
        read = partial(_message_text, self._url)
        return self._http.post_json(self._url, record, bearer(self._key_variable), read)

    def map(self, function: Callable[[str], str], prompts: Sequence[str]) -> list[str]:
        """Applies a function that calls :meth:`answer` to prompts, several at a time."""
        return self._http.map(function, prompts)


def _message_text(url: str, reply: Any) -> str:
    """Text of a completion. One without text is final: the same model would write it again."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise CallError(f"{url}: the reply has no message: {reply!r:.200}") from error
    if not isinstance(text, str):
        raise CallError(f"{url}: the message must be text, got {type(text).__name__}")
    return text
