"""Policies that can be evaluated: a model on this machine, or one behind an endpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from calibadv_algo.cli.warned import warn_of_thoughts
from calibadv_algo.learner.pretrained import load_policy, load_tokenizer, policy_path
from calibadv_algo.lora import adapter_base
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.conversation import EarlierThoughts, Observations
from calibadv_algo.training.confidence import answer_scorer
from calibadv_algo.training.config import EnvConfig
from calibadv_env.errors import RetrieverError

if TYPE_CHECKING:
    from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
    from calibadv_algo.rollout.engines.openai.engine import EndpointConfig
    from calibadv_algo.rollout.episodes import DriverConfig
    from calibadv_algo.training.confidence import AnswerScorer
    from calibadv_algo.training.evaluation import TokenCounter

_SAMPLE_BYTES: Final = 1 << 20
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.json")
_NOT_WEIGHTS: Final = "recipe.json"
_RUN_FOLDERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalEnv(EnvConfig):
    """Which environment; what is left out is as the policy was trained, where that is known."""

    split: str = "eval"
    """Split that is evaluated; eval means test, else dev, else train."""
    max_turns: int | None = None  # type: ignore[assignment]
    """Searches that an episode allows; None means as in training, else 4."""
    prepend_think: bool | None = None  # type: ignore[assignment]
    """If true, observations end with the think tag; None means as in training, else not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaySettings:
    """Environment, sampling and limits with which a policy is played.

    Attributes:
        env: The environment; nothing in it is left open.
        max_tokens: Most tokens of one turn.
        max_context: Most tokens of an episode; None leaves it to the endpoint.
        is_default_context: If true, a smaller model may bring it down to its own limit.
        temperature: Of the sampling; 0 is greedy.
        top_p: Nucleus mass; 1 for none.
        seed: Of the sampling.
        chat_template: If true, the question is a user message in the model's chat template.
        template_settings: Variables of that template.
        observations: ``user`` or ``tool`` make later observations messages of that role.
        earlier_thoughts: What becomes of the thoughts of earlier turns then.
        num_slots: Environments that run side by side.
    """

    env: EnvConfig
    max_tokens: int
    max_context: int | None
    is_default_context: bool
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    chat_template: bool = False
    template_settings: Mapping[str, Any] = field(default_factory=dict)
    observations: Observations = "continue"
    earlier_thoughts: EarlierThoughts = "keep"
    num_slots: int = 64

    def sampling(self, prompt: str | None) -> SamplingParams:
        """Sampling of turns in an environment with this prompt, which decides what ends one."""
        from calibadv_algo.rollout.engines.base import SamplingParams

        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=self.env.stop_strings(prompt),
        )

    def driver(self, max_context: int | None) -> DriverConfig:
        """Driving of episodes of at most so many tokens; failed searches are retried."""
        from calibadv_algo.rollout.episodes import DriverConfig

        return DriverConfig(
            max_context_tokens=max_context,
            chat_template=self.chat_template,
            template_settings=self.template_settings,
            observations=self.observations,
            earlier_thoughts=self.earlier_thoughts,
            retry_on=(RetrieverError, OSError),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPolicy:
    """A policy that is ready to write.

    Attributes:
        engine: Writes.
        tokenizer: For the engine's driver.
        count_tokens: Counts what it wrote; None counts token ids.
        score_answer: Probability of an answer; None where the engine knows none.
        max_context: Most tokens of an episode, None if the engine itself sees to it.
    """

    engine: GenerationEngine
    tokenizer: Tokenizer
    count_tokens: TokenCounter | None
    score_answer: AnswerScorer | None
    max_context: int | None


class Policy(Protocol):
    """A policy by name."""

    @property
    def label(self) -> str:
        """Name for tables."""
        ...

    def identity(self) -> dict[str, Any]:
        """Facts that its answers depend on, as plain JSON."""
        ...

    def trained_as(self) -> Mapping[str, Any]:
        """Settings of its training, as far as its folder tells: see :func:`read_training`."""
        ...

    def open(self, play: PlaySettings) -> OpenPolicy:
        """Loads it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPolicy:
    """A Hugging Face model that an engine of this machine samples from.

    Attributes:
        model: A shipped policy's name, a path, or a name on the hub.
        engine: Name of an engine, as `calibadv_algo.rollout.engines.config` knows them.
        dtype: Type of the weights.
    """

    model: str
    engine: str = "hf"
    dtype: Literal["fp32", "bf16"] = "fp32"

    @property
    def label(self) -> str:
        """The name as it was given."""
        return self.model

    def identity(self) -> dict[str, Any]:
        """A fingerprint of the files in its folder, or its name on the hub."""
        folder = Path(policy_path(self.model))
        weights = fingerprint(folder) if folder.is_dir() else f"hub:{self.model}"
        facts = {"weights": weights, "engine": self.engine, "dtype": self.dtype}
        base = adapter_base(str(folder)) if folder.is_dir() else None
        if base is not None:
            facts["adapter_of"] = LocalPolicy(model=base).identity()["weights"]
        return facts

    def trained_as(self) -> Mapping[str, Any]:
        """See :func:`read_training`."""
        return read_training(Path(policy_path(self.model)))

    def open(self, play: PlaySettings) -> OpenPolicy:
        """Loads the model and starts the engine.

        Raises:
            ValueError: if there is no such model or engine.
        """
        import torch

        from calibadv_algo.rollout.engines.making import find_engine, make_engine

        model, tokenizer = load_policy(self.model)
        if play.chat_template:
            warn_of_thoughts(
                tokenizer, play.template_settings, play.observations, play.earlier_thoughts
            )
        if self.dtype == "bf16":
            model = model.to(torch.bfloat16)  # type: ignore[arg-type]
        context = play.max_context
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if play.is_default_context and context and limit:
            context = min(context, int(limit))
        engine = make_engine(
            find_engine(self.engine),
            model,
            tokenizer,
            max_slots=play.num_slots,
            max_context=context,
            temperature=play.temperature or 1.0,
        )
        return OpenPolicy(
            engine=engine,
            tokenizer=tokenizer,
            count_tokens=None,
            score_answer=answer_scorer(tokenizer),
            max_context=context,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPolicy:
    """A model behind an endpoint with OpenAI's API.

    Attributes:
        config: The endpoint.
    """

    config: EndpointConfig

    @property
    def label(self) -> str:
        """The model's name there."""
        return self.config.model

    def identity(self) -> dict[str, Any]:
        """Address without user and password, model, route, further fields; never the key."""
        parts = urlsplit(self.config.url)
        host = parts.netloc.rpartition("@")[2]
        return {
            "endpoint": urlunsplit(parts._replace(netloc=host)),
            "model": self.config.model,
            "route": self.config.route,
            "extra": dict(self.config.extra),
        }

    def trained_as(self) -> Mapping[str, Any]:
        """Nothing: an endpoint does not tell."""
        return {}

    def open(self, play: PlaySettings) -> OpenPolicy:
        """Opens the engine; nothing is sent yet.

        Raises:
            ImportError: if httpx is not installed.
        """
        from calibadv_algo.rollout.engines.openai.engine import OpenAiEngine, count_written_tokens

        engine = OpenAiEngine(self.config)
        return OpenPolicy(
            engine=engine,
            tokenizer=engine.tokenizer,
            count_tokens=count_written_tokens,
            score_answer=None,
            max_context=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpointPolicy:
    """A model behind an endpoint that takes and gives token ids.

    Attributes:
        config: The endpoint.
        tokenizer: Model that the tokenizer is loaded from: a shipped policy's name, a folder, or a
            name on the hub.
    """

    config: EndpointConfig
    tokenizer: str

    @property
    def label(self) -> str:
        """The model's name there."""
        return self.config.model

    def identity(self) -> dict[str, Any]:
        """As of other endpoints, with what names the tokenizer."""
        facts = EndpointPolicy(config=self.config).identity()
        folder = Path(policy_path(self.tokenizer))
        name = fingerprint(folder) if folder.is_dir() else f"hub:{self.tokenizer}"
        return {**facts, "route": "tokens", "tokenizer": name}

    def trained_as(self) -> Mapping[str, Any]:
        """What the folder of the tokenizer tells: see :func:`read_training`."""
        return read_training(Path(policy_path(self.tokenizer)))

    def open(self, play: PlaySettings) -> OpenPolicy:
        """Loads the tokenizer and asks the server for the model's longest context.

        Raises:
            ValueError: if there is no such tokenizer, or the server's context is too short.
            EngineError: if the server does not answer, or does not serve the model.
            ImportError: if httpx is not installed.
        """
        from calibadv_algo.rollout.engines.openai.tokens import TokenEndpointEngine, served_context

        tokenizer = load_tokenizer(self.tokenizer)
        if play.chat_template:
            warn_of_thoughts(
                tokenizer, play.template_settings, play.observations, play.earlier_thoughts
            )
        served = served_context(self.config)
        context = play.max_context or served
        if context is None:
            raise ValueError("max_context must be given: the endpoint does not say what it takes")
        if served is not None and context > served:
            if not play.is_default_context:
                raise ValueError(f"max_context must be at most the endpoint's {served}")
            context = served
        engine = TokenEndpointEngine(self.config, tokenizer, context)
        return OpenPolicy(
            engine=engine,
            tokenizer=tokenizer,
            count_tokens=None,
            # The server reports log-probabilities at temperature 1, as is promised of greedy turns.
            score_answer=answer_scorer(tokenizer) if play.temperature in (0.0, 1.0) else None,
            max_context=context,
        )


def settle(
    policy: Policy,
    env: EnvConfig,
    *,
    max_tokens: int | None,
    max_context: int | None,
) -> PlaySettings:
    """Fills in what the user left open (None): as the policy was trained, else as papers do.

    Prompt, searches, limits and the chat template are those of the policy's recipe or training run
    if its folder tells; else those that go with the prompt, and no template. An endpoint has a
    context of its own.

    Args:
        policy: The policy.
        env: The environment as far as it is given.
        max_tokens: Most tokens of one turn.
        max_context: Most tokens of an episode.

    Raises:
        ValueError: if a limit is given that an endpoint does not keep.
    """
    is_endpoint = isinstance(policy, EndpointPolicy)
    if is_endpoint and max_context is not None:
        raise ValueError("max_context must not be given with an endpoint, which has its own")
    trained = policy.trained_as()
    prompt = env.prompt or trained.get("prompt") or "search_r1"
    values = {item.name: getattr(env, item.name) for item in fields(EnvConfig)}
    values["prompt"] = prompt
    if values["max_turns"] is None:
        values["max_turns"] = trained.get("max_turns") or 4
    if values["prepend_think"] is None:
        values["prepend_think"] = trained.get("prepend_think", False)
    is_small = prompt == "question"
    context = trained.get("max_context") or (1024 if is_small else 8192)
    return PlaySettings(
        env=EnvConfig(**values),
        max_tokens=max_tokens or trained.get("max_tokens") or (40 if is_small else 512),
        max_context=None if is_endpoint else max_context or context,
        is_default_context=max_context is None,
        **trained.get("chat", {}),
    )


def read_training(folder: Path) -> dict[str, Any]:
    """Settings with which the policy in a folder was trained; the folder need not exist.

    Some of prompt, max_turns, prepend_think, max_tokens, max_context, and chat with the fields of
    :class:`PlaySettings` for one that was trained in its chat template: from the ``recipe.json`` of
    `calibadv warmstart`, or from the ``config.json`` of the run of `calibadv train` that the folder
    lies in; {} for other models.
    """
    recipe = _read_json(folder / "recipe.json")
    if "max_turns" in recipe:
        names = ("max_turns", "max_tokens")
        return {"prompt": "question"} | {name: recipe[name] for name in names if name in recipe}
    run = run_settings(folder)
    env, rollout = run.get("env", {}), run.get("rollout", {})
    found = {name: env.get(name) for name in ("prompt", "max_turns", "prepend_think")}
    found |= {name: rollout.get(name) for name in ("max_tokens", "max_context")}
    if run.get("prompt_style") == "chat":
        names = ("observations", "earlier_thoughts")
        found["chat"] = {name: rollout[name] for name in names if name in rollout} | {
            "chat_template": True,
            "template_settings": parse_settings(run.get("chat_template_kwargs", ())),
        }
    return {name: value for name, value in found.items() if value is not None}


def run_settings(folder: Path) -> dict[str, Any]:
    """Settings of the run of `calibadv train` that a policy's folder lies in; {} if in none."""
    for parent in list(folder.absolute().parents)[:_RUN_FOLDERS]:
        run = _read_json(parent / "config.json")
        if "hash" in run and isinstance(run.get("config"), dict):
            settings: dict[str, Any] = run["config"]
            return settings
    return {}


def fingerprint(folder: Path) -> str:
    """Name by content of the model in a folder with weights, configuration and tokenizer.

    SHA-256 over names and sizes, and of each file its first, middle and last MiB: whole weights
    would take minutes to read.
    """
    digest = hashlib.sha256()
    files = {path for pattern in _WEIGHTS for path in folder.glob(pattern)}
    for path in sorted(files):
        if path.name == _NOT_WEIGHTS:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\n{size}\n".encode())
        with path.open("rb") as stream:
            for place in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
                stream.seek(place)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
