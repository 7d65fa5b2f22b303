"""Generation engine over a server with OpenAI's API: for evaluation, never for training.

The engine works on text. Its "tokens" are whole pieces of text: :class:`TextPieces` gives every
prompt and observation one id, and every turn as many ids as the server says that it sampled
tokens, the first of which stands for the text and the others for nothing. There are no log-probs
and no weights, so a policy behind an endpoint cannot be trained through it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    FinishReason,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from calibadv_algo.types import Trajectory
from calibadv_env.common.checks import Checked
from calibadv_env.common.http import (
    CallError,
    HttpClient,
    HttpSettings,
    UnusableReplyError,
    bearer,
    require_http,
)
from calibadv_env.info import THINK_OPEN
from calibadv_env.protocol.toolcalls import text_of, without_tags

Route = Literal["chat", "completions"]

FILLER: Final = 0
"""Id of a counted token whose text stands elsewhere."""

UNCOUNTED: Final = 1
"""Id in a turn whose number of tokens the server did not say."""

_FIRST_PIECE: Final = 2
_THINK_CLOSE: Final = "</think>"
_NO_ROOM: Final = re.compile(
    r"context[ _](length|window)|maximum context|too many tokens|prompt is too long|max_model_len",
    re.IGNORECASE,
)
"""How servers say that a conversation is longer than their model reads."""


ENDPOINT_CALLS: Final = HttpSettings(
    timeout_s=120.0, max_retries=5, backoff_s=0.5, max_backoff_s=20.0
)
"""Patience with an endpoint if nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig(Checked):
    """A server with OpenAI's API, and the model to ask there."""

    url: str
    """Address up to the version, such as http://127.0.0.1:8000/v1."""
    model: str
    """Name of the model there."""
    route: Route = "chat"
    """chat: a conversation; completions: one text that the model continues."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; without it none is sent. It is stored nowhere."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request's body on top of ours; null takes one of ours out."""
    calls: HttpSettings = ENDPOINT_CALLS
    """Timeouts, retries, concurrency."""

    def __post_init__(self) -> None:
        """Checks address, name and route."""
        Checked.__post_init__(self)
        require_http(url=self.url)
        if not self.model:
            raise ValueError("model must name a model of the endpoint, got ''")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a conversation."""

    text: str
    is_own: bool


class TextPieces:
    """Tokenizer whose tokens are whole texts.

    Pieces are kept until the engine drops them.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, _Piece] = {}
        self._next = _FIRST_PIECE

    def __len__(self) -> int:
        """Number of pieces that are kept."""
        return len(self._pieces)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """One id for a text, none for an empty one."""
        return [self.add(text, is_own=False)] if text else []

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The texts behind ids, one after the other."""
        return "".join(piece.text for piece in self.pieces(token_ids))

    def add(self, text: str, *, is_own: bool) -> int:
        """Keeps a text; ``is_own`` says that the policy wrote it."""
        number = self._next
        self._next += 1
        self._pieces[number] = _Piece(text, is_own)
        return number

    def pieces(self, token_ids: Sequence[int]) -> list[_Piece]:
        """The pieces behind ids."""
        return [self._pieces[number] for number in token_ids if number >= _FIRST_PIECE]

    def drop(self, token_ids: Sequence[int]) -> None:
        """Forgets pieces."""
        for number in token_ids:
            self._pieces.pop(number, None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The part of a completion that a turn is made of.

    Attributes:
        text: What was written behind the thought, or with it.
        thought: The thought, where the server gives it apart; "" otherwise.
        finish_reason: Why it says that the text ends.
        matched: What it says it stopped at.
        num_tokens: Its count of tokens.
    """

    text: str
    thought: str
    finish_reason: str | None
    matched: str | int | None
    num_tokens: int | None


class OpenAiEngine:
    """A :class:`~calibadv_algo.rollout.engines.base.GenerationEngine` over an endpoint.

    A failure is an exception and never a text that the policy gets to read. A conversation that
    is longer than the model reads is no failure of the machine: the turn is then empty and cut.

    Attributes:
        tokenizer: The tokenizer that its driver has to use.
        num_out_of_room: Turns that were not written because the conversation was too long.
        num_uncounted: Turns for which the server did not say how many tokens they are.
        num_thoughts_apart: Turns whose thought the server gave apart from their text
            (``reasoning_content``); it stands before the text, in think tags.
        num_thoughts_opened: Turns whose thought the server's chat template opened; the tag was put
            back.
    """

    def __init__(self, config: EndpointConfig) -> None:
        """Connects to nothing yet.

        Args:
            config: The server and the model.

        Raises:
            ImportError: if httpx is not installed.
        """
        self.config = config
        self.tokenizer = TextPieces()
        self.num_out_of_room = 0
        self.num_uncounted = 0
        self.num_thoughts_apart = 0
        self.num_thoughts_opened = 0
        self._http = HttpClient(config.calls)
        self._ids: dict[str, tuple[int, ...]] = {}
        path = "chat/completions" if config.route == "chat" else "completions"
        self._url = f"{config.url.rstrip('/')}/{path}"

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Asks for one turn of each conversation, several at a time.

        Args:
            requests: Their ids are those of :attr:`tokenizer`.
            params: How to sample; log-probs are not known and are given as 0.

        Returns:
            One generation a request, in order.

        Raises:
            EngineError: if the server could not be reached, refused a request, or its answer is
                none.
        """
        answers = self._http.map(lambda request: self._ask(request, params), requests)
        generations = []
        for request, answer in zip(requests, answers, strict=True):
            generation = self._generation(answer, params.stop)
            self._ids[request.episode_id] = request.token_ids + generation.token_ids
            generations.append(generation)
        return generations

    def release(self, episode_ids: Sequence[str]) -> None:
        """Forgets the texts of these episodes."""
        for episode_id in episode_ids:
            self.tokenizer.drop(self._ids.pop(episode_id, ()))

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Refuses: nothing can be sent to an endpoint.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            "an endpoint takes no weights: it can be evaluated, not trained; train with another "
            "engine (calibadv train --help)"
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _ask(self, request: GenerationRequest, params: SamplingParams) -> _Answer | None:
        """Asks for one turn; None if the conversation is too long for the model."""
        body = self._body(request, params)
        read = _read_chat if self.config.route == "chat" else _read_completion
        try:
            return self._http.post_json(self._url, body, bearer(self.config.key_variable), read)
        except CallError as error:
            if error.status in (400, 413, 422) and _NO_ROOM.search(error.text):
                return None
            raise EngineError(str(error)) from error.__cause__

    def _body(self, request: GenerationRequest, params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        if params.top_p < 1:
            body["top_p"] = params.top_p
        if params.stop:
            body["stop"] = list(params.stop)
        if params.temperature > 0:
            body["seed"] = request.seed & 0x7FFFFFFF
        pieces = self.tokenizer.pieces(request.token_ids)
        if self.config.route == "chat":
            body["messages"] = _messages(pieces)
        else:
            body["prompt"] = "".join(piece.text for piece in pieces)
        body.update(self.config.extra)
        return {name: value for name, value in body.items() if value is not None}

    def _generation(self, answer: _Answer | None, stop: Sequence[str]) -> Generation:
        if answer is None:
            self.num_out_of_room += 1
            return Generation((FILLER,), (0.0,), "", "length")
        text, reason = end_turn(answer.text, answer.finish_reason, answer.matched, stop)
        text = self._with_thought(text, answer, reason)
        ids = [self.tokenizer.add(text, is_own=True)]
        if answer.num_tokens is None:
            self.num_uncounted += 1
            ids.append(UNCOUNTED)
        else:
            ids += [FILLER] * (answer.num_tokens - 1)
        return Generation(tuple(ids), (0.0,) * len(ids), text, reason)

    def _with_thought(self, text: str, answer: _Answer, reason: FinishReason) -> str:
        """Puts back a thought that the server cut off, or a tag that its template wrote.

        A thought that was given apart ended with its tag if anything came behind it; tags inside
        are text. A text in which a thought ends that never began was begun by the template.
        """
        if self.config.route != "chat":
            return text
        head, closing, _ = text.partition(_THINK_CLOSE)
        if answer.thought and not closing:
            self.num_thoughts_apart += 1
            if not answer.text and reason != "eos":
                return f"{THINK_OPEN}{answer.thought}{text}"
            return f"{THINK_OPEN}{without_tags(answer.thought)}{_THINK_CLOSE}{text}"
        if closing and THINK_OPEN not in head:
            self.num_thoughts_opened += 1
            return f"{THINK_OPEN}{text}"
        return text


def count_written_tokens(trajectory: Trajectory) -> int | None:
    """Tokens that an endpoint's policy wrote in an episode.

    Args:
        trajectory: Played with an :class:`OpenAiEngine`.

    Returns:
        The sum over its turns; None if the server left one uncounted.
    """
    if any(UNCOUNTED in turn.action_ids for turn in trajectory.turns):
        return None
    return trajectory.num_action_tokens


def end_turn(
    text: str, finish_reason: str | None, matched: str | int | None, stop: Sequence[str]
) -> tuple[str, FinishReason]:
    """Ends a turn as an engine of our own would: behind its first stop string.

    Servers leave out the stop string that they met. Some say which it was; of the others it is
    the one whose opening tag is open at the end of the text.

    Args:
        text: What the server gave.
        finish_reason: Why it says that the text ends.
        matched: What it says it stopped at: a string, or a token by its number; None if it does
            not say.
        stop: Strings that end a turn.

    Returns:
        The text of the turn and why it ended.
    """
    ends = [text.find(each) + len(each) for each in stop if each in text]
    if ends:
        return text[: min(ends)], "stop"
    if finish_reason == "length":
        return text, "length"
    if isinstance(matched, int):
        return text, "eos"
    if matched in stop:
        return f"{text}{matched}", "stop"
    opened = [(text.rfind(_opening(each)), each) for each in stop]
    place, closing = max(opened, default=(-1, ""))
    return (text, "eos") if place < 0 else (text + closing, "stop")


def _opening(closing: str) -> str:
    """``<search>`` of ``</search>``, ``<|begin_of_query|>`` of ``<|end_of_query|>``."""
    if closing.startswith("</"):
        return f"<{closing[2:]}"
    return closing.replace("<|end_of_", "<|begin_of_")


def _messages(pieces: Sequence[_Piece]) -> list[dict[str, str]]:
    """The conversation: turns are the assistant's, all else is the user's."""
    messages: list[dict[str, str]] = []
    for piece in pieces:
        if not piece.text:
            continue
        role = "assistant" if piece.is_own else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += piece.text
        else:
            messages.append({"role": role, "content": piece.text})
    return messages


def _read_chat(reply: Any) -> _Answer:
    choice = _choice(reply)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UnusableReplyError(f"choices[0].message must be an object, got {reply!r:.300}")
    thought = text_of(message.get("reasoning_content") or message.get("reasoning"))
    return _answer(reply, choice, message.get("content"), thought)


def _read_completion(reply: Any) -> _Answer:
    choice = _choice(reply)
    return _answer(reply, choice, choice.get("text"))


def _choice(reply: Any) -> dict[str, Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnusableReplyError(
            f"choices must be a list that begins with an object, got {reply!r:.300}"
        )
    choice: dict[str, Any] = choices[0]
    return choice


def _answer(
    reply: Mapping[str, Any], choice: Mapping[str, Any], text: Any, thought: str = ""
) -> _Answer:
    """An answer; no text at all is an empty one, as of a model that only thought."""
    if text is not None and not isinstance(text, str):
        raise UnusableReplyError(f"the text must be a string, got {type(text).__name__}")
    usage = reply.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 1
    reason = choice.get("finish_reason")
    matched = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's name, SGLang's
    return _Answer(
        _clean(text or ""),
        _clean(thought),
        reason if isinstance(reason, str) else None,
        matched if isinstance(matched, str | int) else None,
        count if is_count else None,
    )


def _clean(text: str) -> str:
    """Text without halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
