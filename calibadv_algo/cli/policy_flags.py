"""Flags that both forms of `calibadv eval` have: which policy, and how it is played."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

import tyro

from calibadv_algo.cli.places import policy_at
from calibadv_algo.cli.policies import (
    EndpointPolicy,
    EvalEnv,
    LocalPolicy,
    PlaySettings,
    Policy,
    TokenEndpointPolicy,
    settle,
)
from calibadv_algo.cli.warned import say
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.conversation import EarlierThoughts, Observations, check_messages
from calibadv_algo.training.config import EnvConfig
from calibadv_env.common.checks import POSITIVE, Checked

DEFAULT_MODEL: Final = "atlas-tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFlags(Checked):
    """Which policy is evaluated, and how it is played."""

    policy: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = None
    """Policy: a shipped one's name, the folder of a policy, an update, a run or a comparison, or a
    name on the hub. Default: atlas-tiny."""
    model: str | None = None
    """The policy, named by a flag."""
    env: EnvConfig = field(default_factory=EvalEnv)
    """The environment; a suite names the datasets itself."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass; 1 for none."""
    max_tokens: Annotated[int, POSITIVE] | None = None
    """Most tokens of one turn. Default: as trained, else 512."""
    max_context: Annotated[int, POSITIVE] | None = None
    """Most tokens of an episode. Default: as trained, else 8192 or the model's limit."""
    num_slots: Annotated[int, POSITIVE] = 64
    """Environments that run side by side."""
    seed: int = 0
    """Seed of the sampling."""
    chat_template: bool = False
    """If true, the question is put as a user message in the model's chat template. A policy that
    was trained so is always played so."""
    chat_template_kwargs: tuple[str, ...] = ()
    """Variables of the chat template, each NAME=VALUE: enable_thinking=false. Default: as trained.
    An endpoint gets them in its requests' field of this name (vLLM, SGLang)."""
    observations: Observations | None = None
    """Place of later observations: in the policy's own message, or as a message of this role.
    Default: as trained, else continue."""
    earlier_thoughts: EarlierThoughts | None = None
    """Thoughts of earlier turns where observations are messages: they stay, go, or do what the
    chat template does. Default: as trained, else keep."""
    engine: str = "hf"
    """Engine that samples: hf, vllm, or vllm-server=URL."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the model's weights."""
    endpoint: str | None = None
    """Server with OpenAI's API that writes instead of a model here: http://HOST:PORT/v1."""
    endpoint_model: str = ""
    """Name of the model there."""
    endpoint_route: Literal["chat", "completions", "tokens"] = "chat"
    """Form of its requests: a conversation, a text to continue, or token ids both ways (vLLM)."""
    endpoint_tokenizer: str = ""
    """Model whose tokenizer goes with the route tokens: a shipped policy, a folder, a hub name."""
    endpoint_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; the key itself is written nowhere."""
    endpoint_extra: str = "{}"
    """More fields of its requests, as JSON; null takes one out, such as {"seed": null}."""
    endpoint_timeout_s: float = 120.0
    """Most seconds of one request."""
    endpoint_retries: int = 5
    """Attempts after the first, each after a longer pause."""
    endpoint_concurrency: int = 16
    """Most requests at a time."""

    def __post_init__(self) -> None:
        """Refuses values out of range and flags that exclude each other."""
        Checked.__post_init__(self)
        named = self.policy or self.model
        if self.policy and self.model and self.policy != self.model:
            raise ValueError(
                f"model must be named once, got {self.policy!r} and --model {self.model!r}"
            )
        if self.endpoint is not None and named:
            raise ValueError(f"model must not be given with an endpoint, got {named!r}")
        self._check_tokens_route()
        is_text = self.endpoint is not None and self.endpoint_route != "tokens"
        if is_text and self.chat_template:
            raise ValueError("chat_template must not be set with an endpoint; see endpoint_route")
        if is_text and (self.observations or self.earlier_thoughts):
            raise ValueError(
                "observations and earlier_thoughts must not be set with an endpoint but on its "
                "route tokens: on the others its turns are messages, or one text"
            )
        template = parse_settings(self.chat_template_kwargs)
        if template and is_text and self.endpoint_route != "chat":
            raise ValueError("chat_template_kwargs needs endpoint_route chat, got completions")
        if self.endpoint is None and self.endpoint_model:
            raise ValueError("endpoint_model needs an endpoint, got none")

    def _check_tokens_route(self) -> None:
        """The route tokens and its tokenizer need each other."""
        is_tokens = self.endpoint_route == "tokens"
        if is_tokens and self.endpoint is None:
            raise ValueError("endpoint_route tokens needs an endpoint, got none")
        if is_tokens and not self.endpoint_tokenizer:
            raise ValueError(
                "endpoint_tokenizer must name the served model or its folder with endpoint_route "
                "tokens: prompts and results of searches are tokenised here"
            )
        if self.endpoint_tokenizer and not is_tokens:
            raise ValueError(
                f"endpoint_tokenizer needs endpoint_route tokens, got {self.endpoint_route}"
            )

    def source(self) -> Policy:
        """The policy that is named.

        Raises:
            ValueError: if an endpoint's settings are not valid.
        """
        if self.endpoint is None:
            return LocalPolicy(
                model=policy_at(self.policy or self.model or DEFAULT_MODEL),
                engine=self.engine,
                dtype=self.dtype,
            )
        from calibadv_algo.rollout.engines.openai.engine import ENDPOINT_CALLS, EndpointConfig

        is_tokens = self.endpoint_route == "tokens"
        config = EndpointConfig(
            url=self.endpoint,
            model=self.endpoint_model,
            route="completions" if self.endpoint_route == "tokens" else self.endpoint_route,
            key_variable=self.endpoint_key_variable,
            extra=self._extra(),
            calls=replace(
                ENDPOINT_CALLS,
                timeout_s=self.endpoint_timeout_s,
                max_retries=self.endpoint_retries,
                max_concurrency=self.endpoint_concurrency,
            ),
        )
        if is_tokens:
            return TokenEndpointPolicy(config=config, tokenizer=self.endpoint_tokenizer)
        return EndpointPolicy(config=config)

    def _extra(self) -> dict[str, Any]:
        """Fields of the endpoint's requests; those given as JSON come last."""
        is_chat = self.endpoint_route == "chat"
        template = parse_settings(self.chat_template_kwargs) if is_chat else {}
        own = {"chat_template_kwargs": template} if template else {}
        return own | _json_object("endpoint_extra", self.endpoint_extra)

    def settled(self, policy: Policy) -> PlaySettings:
        """Settings with which a policy is played, with nothing left open.

        Raises:
            ValueError: if a limit is given that an endpoint does not keep, or settings of a chat
                for a policy that is played without its chat template.
        """
        play = settle(policy, self.env, max_tokens=self.max_tokens, max_context=self.max_context)
        if play.chat_template and not self.chat_template:
            say("played in its chat template, as it was trained")
        play = self._with_chat(play, is_text=isinstance(policy, EndpointPolicy))
        return replace(
            play,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            num_slots=self.num_slots,
        )

    def _with_chat(self, play: PlaySettings, *, is_text: bool) -> PlaySettings:
        """The settings with those of the chat that are given, in place of those of the training."""
        is_chat = play.chat_template or self.chat_template
        template = parse_settings(self.chat_template_kwargs)
        if template and not is_chat and not is_text:
            raise ValueError("chat_template_kwargs needs --chat-template or an endpoint")
        observations = self.observations or play.observations
        thoughts = self.earlier_thoughts or (
            "keep" if observations == "continue" else play.earlier_thoughts
        )
        check_messages(is_chat, observations, thoughts)
        return replace(
            play,
            chat_template=is_chat,
            template_settings=template or play.template_settings,
            observations=observations,
            earlier_thoughts=thoughts,
        )


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must be JSON, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {text!r}")
    return value
