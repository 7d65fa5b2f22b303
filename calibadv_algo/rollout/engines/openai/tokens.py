"""Generation engine over a server with OpenAI's API that takes and gives token ids.

vLLM's completions route takes a prompt as token ids and, asked with ``return_token_ids``, gives
those of the turn. So a turn goes on from what was sampled, and nothing is tokenised anew. The
server keeps its own weights: it can be evaluated and measured, not trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import (
    FinishReason,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from calibadv_algo.rollout.engines.decoding import StopMatcher, TurnDecoder
from calibadv_env.common.http import CallError, HttpClient, UnusableReplyError, bearer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.openai.engine import EndpointConfig


class TokenEndpointEngine:
    """A :class:`~calibadv_algo.rollout.engines.base.GenerationEngine` over such an endpoint.

    Attributes:
        config: The server and the model.
        max_context: Longest context in tokens, the turn included.
    """

    def __init__(
        self, config: EndpointConfig, tokenizer: PreTrainedTokenizerBase, max_context: int
    ) -> None:
        """Connects to nothing yet.

        Args:
            config: The server and the model; its route is not looked at.
            tokenizer: That of the model.
            max_context: Longest context.

        Raises:
            ImportError: if httpx is not installed.
        """
        self.config = config
        self.max_context = max_context
        self._tokenizer = tokenizer
        eos = tokenizer.eos_token_id
        self._decoder = TurnDecoder(tokenizer, (int(eos),) if isinstance(eos, int) else ())
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._http = HttpClient(config.calls)
        self._url = f"{config.url.rstrip('/')}/completions"

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        """Asks for one turn of each episode, several at a time.

        Returns:
            One generation a request, in order. Log-probabilities are those that the server
            reports: of vLLM with its own settings those at temperature 1.

        Raises:
            EngineError: if a context is too long, the server could not be reached, refused a
                request, gave no token ids, or those of another tokenizer.
        """
        for request in requests:
            if not 0 < len(request.token_ids) < self.max_context:
                raise EngineError(
                    f"a context must have 1 to {self.max_context - 1} tokens, that of episode "
                    f"{request.episode_id!r} has {len(request.token_ids)}"
                )
        choices = self._http.map(lambda request: self._ask(request, params), requests)
        return [self._generation(choice, params.stop) for choice in choices]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Does nothing: nothing is kept here."""

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        """Refuses: nothing can be sent to an endpoint.

        Raises:
            EngineError: always.
        """
        raise EngineError("an endpoint takes no weights: name --engine vllm-server=URL to train")

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _ask(self, request: GenerationRequest, params: SamplingParams) -> dict[str, Any]:
        body = self._body(request, params)
        headers = bearer(self.config.key_variable)
        try:
            return self._http.post_json(self._url, body, headers, _choice)
        except CallError as error:
            raise EngineError(str(error)) from error.__cause__

    def _body(self, request: GenerationRequest, params: SamplingParams) -> dict[str, Any]:
        """A request that leaves nothing to the server's own settings of the sampling."""
        body: dict[str, Any] = {
            "model": self.config.model,
            "prompt": list(request.token_ids),
            "max_tokens": min(params.max_tokens, self.max_context - len(request.token_ids)),
            "temperature": params.temperature,
            "top_p": params.top_p if params.temperature > 0 else 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": request.seed if params.temperature > 0 else None,
            "stop": list(params.stop),
            "stop_token_ids": sorted(self._decoder.eos_ids),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "logprobs": 0,
            "return_token_ids": True,
        }
        body.update(self.config.extra)
        return {name: value for name, value in body.items() if value is not None}

    def _generation(self, choice: Mapping[str, Any], stop: tuple[str, ...]) -> Generation:
        ids, logprobs = _numbers(choice)
        self._check_tokenizer(ids, str(choice.get("text") or ""))
        text, reason = self._end(ids, stop, choice.get("finish_reason"))
        return Generation(ids, logprobs, text, reason)

    def _end(
        self, ids: tuple[int, ...], stop: tuple[str, ...], reason: Any
    ) -> tuple[str, FinishReason]:
        """Text and end of a turn, as engines of this machine read them."""
        if ids[-1] in self._decoder.eos_ids:
            return self._decoder.decode(ids), "eos"
        if stop not in self._matchers:
            self._matchers[stop] = StopMatcher(self._decoder, stop, 0)
        found = self._matchers[stop].find_end(ids) if stop else None
        if found is not None:
            return found, "stop"
        if reason == "length":
            return self._decoder.decode(ids), "length"
        if reason == "stop":
            # A token that the server's model ends a turn with, and that only the server knows.
            return self._decoder.decode(ids[:-1]), "eos"
        raise EngineError(f"the endpoint gave up a turn after {len(ids)} tokens: {reason}")

    def _check_tokenizer(self, ids: tuple[int, ...], text: str) -> None:
        """Refuses tokens whose text is not what the server read in them."""
        ours = self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        # Spaces at the beginning depend on what stood before; a server may keep back the end.
        if not "".join(str(ours).split()).startswith("".join(text.split())):
            raise EngineError(
                f"the endpoint's tokens are not those of this tokenizer: it reads {text[:80]!r}, "
                f"we read {str(ours)[:80]!r}; name the model's own with --endpoint-tokenizer"
            )


def served_context(config: EndpointConfig) -> int | None:
    """Longest context of a served model, None if the server's list of models does not say it.

    Raises:
        EngineError: if the server does not answer, or has no model of this name.
    """
    with HttpClient(config.calls) as client:
        try:
            reply = client.get(
                f"{config.url.rstrip('/')}/models", headers=bearer(config.key_variable)
            )
        except CallError as error:
            raise EngineError(str(error)) from error.__cause__
    try:
        models = {str(each["id"]): each for each in json.loads(reply)["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{config.url}/models: the answer is no list of models: {reply[:200]!r}"
        ) from error
    if config.model not in models:
        raise EngineError(f"{config.url} serves {', '.join(models)}, not {config.model!r}")
    limit = models[config.model].get("max_model_len")
    return limit if isinstance(limit, int) else None


def _choice(reply: Any) -> dict[str, Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnusableReplyError(
            f"choices must be a list that begins with an object, got {reply!r:.300}"
        )
    choice: dict[str, Any] = choices[0]
    return choice


def _numbers(choice: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Tokens of a turn and their log-probabilities.

    Raises:
        EngineError: if the server gave none.
    """
    ids = choice.get("token_ids")
    scores = choice.get("logprobs")
    logprobs = scores.get("token_logprobs") if isinstance(scores, dict) else None
    if not isinstance(ids, list) or not ids or not isinstance(logprobs, list):
        raise EngineError(
            "the endpoint gave no token ids with log-probabilities: the route tokens needs a "
            "server that knows return_token_ids, such as vLLM from 0.10.2"
        )
    if len(ids) != len(logprobs):
        raise EngineError(f"got {len(logprobs)} log-probabilities for {len(ids)} tokens")
    return tuple(int(each) for each in ids), tuple(float(each) for each in logprobs)
