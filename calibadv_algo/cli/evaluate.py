"""`calibadv eval`: scores of a policy on a split, or on a suite of datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibadv_algo.cli.policies import (
    EndpointPolicy,
    EvalEnv,
    LocalPolicy,
    PlaySettings,
    Policy,
    settle,
)
from calibadv_algo.cli.setup import coverage_facts
from calibadv_algo.training.config import EnvConfig
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.prompts import stop_strings

if TYPE_CHECKING:
    from calibadv_algo.training.evaluation import EvalResult

DEFAULT_MODEL: Final = "atlas-tiny"
DEFAULT_EPISODES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Evaluate a policy: exact match, F1, cover EM, searches, tokens.

    Without --suite one split of one dataset is evaluated and nothing is kept. With --suite whole
    evaluation splits are, into a folder; the same command goes on where it was stopped.
    """

    policy: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = None
    """Policy: a shipped one's name, a path, or a name on the hub. Default: atlas-tiny."""
    model: str | None = None
    """The same as a flag."""
    suite: str | None = None
    """What to evaluate: seven, or names and folders of datasets with commas between them."""
    subset: int | None = None
    """Questions of each dataset of a suite, a sample in the order of the split; None means all."""
    subset_seed: int = 0
    """Seed of that sample."""
    samples: int = 1
    """Episodes of each question of a suite; more than one needs a temperature."""
    skip_missing: bool = False
    """Whether datasets of a suite whose files are missing are left out, and the table says so."""
    output_dir: Path | None = None
    """Folder of a suite's records and result. Default: runs/eval/MODEL-SUITE."""
    chunk: int = 256
    """Episodes of a suite that are played and recorded at a time."""
    system: str = "agent"
    """How the policy is put to use."""
    env: EnvConfig = field(default_factory=EvalEnv)
    """The environment; a suite names the datasets itself."""
    episodes: int | None = None
    """Without a suite: tasks, the first ones of a fixed shuffle of the split. Default: 1000."""
    output: Path | None = None
    """Without a suite: file for one line of JSON a question."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass; 1 for none."""
    max_tokens: int | None = None
    """Most tokens of one turn. Default: as trained, else 512."""
    max_context: int | None = None
    """Most tokens of an episode. Default: as trained, else 8192 or the model's limit."""
    num_slots: int = 64
    """Environments that run side by side."""
    seed: int = 0
    """Seed of the sampling."""
    chat_template: bool = False
    """Whether the question is put as a user message in the model's chat template."""
    engine: str = "hf"
    """What samples: hf, vllm, or vllm-server=URL."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the model's weights."""
    endpoint: str | None = None
    """Server with OpenAI's API that writes instead of a model here: http://HOST:PORT/v1."""
    endpoint_model: str = ""
    """Name of the model there."""
    endpoint_route: Literal["chat", "completions"] = "chat"
    """Whether it is asked as a conversation or to continue a text."""
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
        """Refuses flags that exclude each other or would be ignored."""
        _check_flags(self)

    def run(self) -> int:
        """Evaluates and prints a table."""
        if self.suite is not None:
            from calibadv_algo.cli.evaluate_suite import run_suite_command

            return run_suite_command(self)
        from calibadv_algo.training.evaluation import append_records, summarize

        source, play = self.source(), self.settled()
        result = self.evaluate()
        if self.output is not None:
            append_records(self.output, result.records)
        split = result.records[0].split
        title = f"{source.label} on {play.env.dataset} {split}"
        table = Table("metric", "mean", title=Text(title))
        for name, value in summarize(result.records).items():
            table.add_row(name, f"{value:.3f}")
        table.add_row("questions", str(len(result.records)))
        coverage = coverage_facts(play.env, split)
        for name, value in (coverage or {}).get("coverage", {}).items():
            if isinstance(value, float):
                table.add_row(f"corpus: {name}", f"{value:.3f}")
        if result.num_dropped:
            table.add_row("dropped", str(result.num_dropped))
        Console(highlight=False).print(table)
        return 0

    def evaluate(self) -> EvalResult:
        """Plays the episodes of one split; prints nothing."""
        from calibadv_algo.rollout.driver import DriverConfig
        from calibadv_algo.rollout.engines.base import SamplingParams
        from calibadv_algo.rollout.slots import make_slots
        from calibadv_algo.training.evaluation import eval_task_indices, evaluate
        from calibadv_algo.training.trainer import count_tasks

        play = self.settled()
        policy = self.source().open(play, num_slots=self.num_slots, temperature=self.temperature)
        slots = make_slots(play.env.env_id, self.num_slots, play.env.kwargs())
        try:
            return evaluate(
                slots,
                policy.engine,
                policy.tokenizer,
                eval_task_indices(count_tasks(slots), self.episodes or DEFAULT_EPISODES),
                SamplingParams(
                    temperature=self.temperature,
                    top_p=self.top_p,
                    max_tokens=play.max_tokens,
                    stop=stop_strings(play.env.prompt),
                ),
                split=play.env.split,
                seed=self.seed,
                driver=DriverConfig(
                    max_context_tokens=policy.max_context,
                    chat_template=self.chat_template,
                    retry_on=(RetrieverError, OSError),
                ),
                count_tokens=policy.count_tokens,
            )
        finally:
            slots.close()

    def source(self) -> Policy:
        """The policy that is named.

        Raises:
            ValueError: if an endpoint's settings are not valid.
        """
        if self.endpoint is None:
            return LocalPolicy(
                model=self.policy or self.model or DEFAULT_MODEL,
                engine=self.engine,
                dtype=self.dtype,
            )
        from calibadv_algo.rollout.engines.http import CallSettings
        from calibadv_algo.rollout.engines.openai.engine import EndpointConfig

        return EndpointPolicy(
            config=EndpointConfig(
                url=self.endpoint,
                model=self.endpoint_model,
                route=self.endpoint_route,
                key_variable=self.endpoint_key_variable,
                extra=_json_object("endpoint_extra", self.endpoint_extra),
                calls=CallSettings(
                    timeout_s=self.endpoint_timeout_s,
                    max_retries=self.endpoint_retries,
                    max_concurrency=self.endpoint_concurrency,
                ),
            )
        )

    def settled(self) -> PlaySettings:
        """How the policy is played, with nothing left open."""
        return settle(
            self.source(),
            self.env,
            max_tokens=self.max_tokens,
            max_context=self.max_context,
            is_endpoint=self.endpoint is not None,
        )


def _check_flags(command: Eval) -> None:
    """See :meth:`Eval.__post_init__`."""
    for name in ("subset", "samples", "chunk", "episodes", "max_tokens", "max_context"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    named = command.policy or command.model
    if command.policy and command.model and command.policy != command.model:
        raise ValueError(
            f"model must be named once, got {command.policy!r} and --model {command.model!r}"
        )
    if command.endpoint is not None and named:
        raise ValueError(f"model must not be given with an endpoint, got {named!r}")
    if command.endpoint is not None and command.chat_template:
        raise ValueError("chat_template must not be set with an endpoint; see endpoint_route")
    if command.endpoint is None and command.endpoint_model:
        raise ValueError("endpoint_model needs an endpoint, got none")
    if command.samples > 1 and command.temperature == 0:
        raise ValueError(
            f"samples must be 1 when greedy, got {command.samples}: they would all be the same"
        )
    is_suite = command.suite is not None
    for name in ("episodes", "output"):
        if is_suite and getattr(command, name) is not None:
            raise ValueError(f"{name} must not be given with a suite; see --subset, --output-dir")
    for name, default in (
        ("subset", None),
        ("samples", 1),
        ("skip_missing", False),
        ("output_dir", None),
        ("system", "agent"),
    ):
        if not is_suite and getattr(command, name) != default:
            raise ValueError(f"{name} needs a suite, got none: --suite atlas, --suite seven")


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} must be JSON, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {text!r}")
    return value
