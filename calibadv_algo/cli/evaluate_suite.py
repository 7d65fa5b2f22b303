"""`calibadv eval --suite`: several datasets in one command that can be stopped and gone on with."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calibadv_algo.cli.policies import OpenPolicy, PlaySettings, Policy
from calibadv_algo.cli.setup import git_commit
from calibadv_algo.cli.suite_data import SuiteData, open_suite, suite_names, tasks_sha256
from calibadv_algo.cli.systems import System, SystemData, find_system
from calibadv_env.data.preparing.coverage import audit_of
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.prompts import stop_strings
from calibadv_env.retrieval import is_remote

if TYPE_CHECKING:
    from calibadv_algo.cli.evaluate import Eval
    from calibadv_algo.experiments.suite.result import PartResult, SuiteResult
    from calibadv_algo.experiments.suite.run import OnProgress, Player, SuitePart
    from calibadv_algo.training.evaluation import EvalRecord

RESULT: Final = "result.json"
MARKDOWN: Final = "result.md"
ENV_ID: Final = "calibadv_env:DeepSearch-v0"
WIDE: Final = 120
"""Columns of a terminal from which intervals fit into the table."""
_PACKAGES: Final = ("calibadv", "torch", "transformers", "gymnasium", "bm25s")


def run_suite_command(command: Eval) -> int:
    """Evaluates a suite, writes its result and prints the main tables.

    Args:
        command: The settings.

    Returns:
        The exit code.

    Raises:
        ValueError: if a setting is not valid.
        DataError: if files are missing or faulty; nothing was played then.
        SuiteError: if the output folder holds another evaluation.
        RetrieverError: if a search server does not answer.
        EngineError: if the policy's engine failed; what was finished is kept.
    """
    from calibadv_algo.experiments.suite.files import write_text
    from calibadv_algo.report.suite_table import coverage_table, score_table, suite_markdown
    from calibadv_algo.report.tables import rich_table

    result = evaluate_suite(command)
    folder = output_folder(command)
    write_text(folder / RESULT, json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / MARKDOWN, suite_markdown(result))
    console = Console(highlight=False)
    is_wide = console.width >= WIDE
    scores = score_table(result, style="intervals" if is_wide else "means")
    console.print(rich_table(scores))
    if any(part.coverage for part in result.parts):
        console.print(rich_table(coverage_table(result)))
    for name, reason in result.skipped.items():
        console.print(f"not evaluated: {name}: {reason}", markup=False, soft_wrap=True)
    text = f"the whole result: {folder / MARKDOWN} to read, {folder / RESULT} for programs"
    console.print(text, markup=False, soft_wrap=True)
    return 0


def evaluate_suite(command: Eval) -> SuiteResult:
    """Evaluates a suite; writes records and prints nothing but progress.

    Args:
        command: The settings, with a suite.

    Returns:
        The result.

    Raises:
        ValueError: if a setting is not valid.
        DataError: if files are missing or faulty; nothing was played then.
    """
    from calibadv_algo.experiments.suite.result import SuiteResult
    from calibadv_algo.experiments.suite.run import run_suite

    assert command.suite is not None
    names, system = suite_names(command.suite), find_system(command.system)
    if command.endpoint is not None and system.needs_tokens:
        raise ValueError(
            f"system {system.name} needs a model on this machine: it writes parts of the turns "
            "itself, which an endpoint cannot go on with"
        )
    policy, play = command.source(), command.settled()
    opened, skipped = open_suite(
        names,
        split=play.env.split,
        retriever=play.env.retriever,
        top_k=play.env.top_k,
        skip_missing=command.skip_missing,
    )
    settings = suite_settings(command, policy, play, system)
    table = _Table(command, policy, play, system)
    parts = [table.part(data) for data in opened]
    with _progress(Console(stderr=True)) as report:
        records = run_suite(
            parts,
            folder=output_folder(command),
            settings=settings,
            num_samples=command.samples,
            seed=command.seed,
            chunk=command.chunk,
            on_progress=report,
        )
    return SuiteResult(
        model=_title(policy, system),
        suite=command.suite,
        parts=tuple(part_result(data, records[data.name], command.samples) for data in opened),
        skipped=skipped,
        settings=settings,
        code=code_versions(),
    )


def _title(policy: Policy, system: System) -> str:
    """What the numbers are the numbers of."""
    if not system.needs_model:
        return system.name
    return policy.label if system.name == "agent" else f"{policy.label} ({system.name})"


def output_folder(command: Eval) -> Path:
    """Where records and result lie: as given, else named after the policy and the suite."""
    if command.output_dir is not None:
        return command.output_dir
    model = command.endpoint_model if command.endpoint else command.source().label
    name = f"{Path(model).name}-{command.suite}"
    if command.system != "agent":
        name = f"{command.system}-{name}"
    return Path("runs") / "eval" / re.sub(r"[^\w.-]+", "_", name)


def suite_settings(
    command: Eval, policy: Policy, play: PlaySettings, system: System
) -> dict[str, Any]:
    """Everything that determines the numbers of every dataset, as plain JSON."""
    env = asdict(play.env)
    for name in ("env_id", "dataset", "retriever"):
        del env[name]
    return {
        "policy": policy.identity() if system.needs_model else None,
        "system": system.name,
        "env": env,
        "num_samples": command.samples,
        "seed": command.seed,
        "temperature": command.temperature,
        "top_p": command.top_p,
        "max_tokens": play.max_tokens,
        "max_context": play.max_context,
        "chat_template": command.chat_template,
        "subset": command.subset,
        "subset_seed": None if command.subset is None else command.subset_seed,
    }


def part_result(data: SuiteData, records: list[EvalRecord], num_samples: int) -> PartResult:
    """Scores of a dataset, with what stands beside them."""
    from calibadv_algo.experiments.suite.result import PartResult
    from calibadv_algo.experiments.suite.scores import score_part

    split, sha256 = data.tasks.split, data.retrieval.get("corpus_sha256")
    sizes = data.benchmark.sizes if data.benchmark else {}
    return PartResult(
        name=data.name,
        split=split,
        split_size=len(data.tasks),
        published_size=sizes.get(split),
        scores=score_part(data.name, records, num_samples),
        retrieval=data.retrieval,
        coverage=audit_of(data.source, split, str(sha256)) if sha256 else None,
    )


def code_versions() -> dict[str, str]:
    """What computed the numbers."""
    found = {"git_commit": git_commit(), "python": platform.python_version()}
    return found | {name: version(name) for name in _PACKAGES}


def lasting(retrieval: Mapping[str, Any]) -> dict[str, Any]:
    """What passages depend on: not the address of a server that says what it serves."""
    is_known = bool(retrieval.get("corpus_sha256")) and is_remote(str(retrieval["retriever"]))
    return {name: v for name, v in retrieval.items() if not (is_known and name == "retriever")}


@dataclass(slots=True)
class _Table:
    """Lays out the parts of one command; the policy is opened once, when it is first needed."""

    command: Eval
    policy: Policy
    play: PlaySettings
    system: System
    _open: OpenPolicy | None = None

    def part(self, data: SuiteData) -> SuitePart:
        """The part of a dataset."""
        from calibadv_algo.experiments.suite.run import SuitePart, SuiteTask, choose_tasks

        chosen = choose_tasks(len(data.tasks), self.command.subset, self.command.subset_seed)
        tasks = [(index, data.tasks[index]) for index in chosen]
        return SuitePart(
            name=data.name,
            file_name=data.file_name,
            split=data.tasks.split,
            tasks=tuple(SuiteTask(index, task.id, task.hops) for index, task in tasks),
            split_size=len(data.tasks),
            open_player=partial(self.open_player, data),
            settings={
                "split": data.tasks.split,
                "split_size": len(data.tasks),
                "tasks_sha256": tasks_sha256(data.tasks),
                "retrieval": lasting(data.retrieval),
            },
        )

    def open_player(self, data: SuiteData) -> Player:
        """Environments of a dataset, and the policy."""
        from calibadv_algo.experiments.suite.run import Player
        from calibadv_algo.rollout.driver import DriverConfig
        from calibadv_algo.rollout.engines.base import SamplingParams
        from calibadv_algo.rollout.slots import make_slots

        command = self.command
        kwargs = self.system.env_kwargs({**self.play.env.kwargs(), "dataset": data.source})
        facts = SystemData(
            dataset=data.dataset,
            tasks=data.tasks,
            retriever=data.retriever,
            top_k=self.play.env.top_k,
        )
        inner = make_slots(ENV_ID, command.num_slots, kwargs)
        slots, policy = self.system.slots(inner, facts), self.open_writer(facts)
        return Player(
            slots=slots,
            engine=policy.engine,
            tokenizer=policy.tokenizer,
            params=SamplingParams(
                temperature=command.temperature,
                top_p=command.top_p,
                max_tokens=self.play.max_tokens,
                stop=stop_strings(kwargs.get("prompt")),
            ),
            driver=DriverConfig(
                max_context_tokens=policy.max_context,
                chat_template=command.chat_template,
                retry_on=(RetrieverError, OSError),
            ),
            count_tokens=policy.count_tokens,
            close=slots.close,
        )

    def open_policy(self) -> OpenPolicy:
        """The policy, loaded at the first call."""
        if self._open is None:
            self._open = self.policy.open(
                self.play, num_slots=self.command.num_slots, temperature=self.command.temperature
            )
        return self._open

    def open_writer(self, data: SystemData) -> OpenPolicy:
        """What writes a system's turns: the policy, or the system alone."""
        if self.system.needs_model:
            policy = self.open_policy()
            engine = self.system.engine(policy.engine, policy.tokenizer, data)
            return replace(policy, engine=engine)
        from calibadv_algo.rollout.engines.openai.engine import TextPieces

        pieces = TextPieces()
        return OpenPolicy(
            engine=self.system.engine(None, pieces, data),
            tokenizer=pieces,
            count_tokens=lambda trajectory: None,
            max_context=None,
        )


@contextmanager
def _progress(console: Console) -> Iterator[OnProgress]:
    """A bar for each dataset."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        lines: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in lines:
                lines[name] = bar.add_task(name, total=total)
            bar.update(lines[name], completed=done)

        yield report
