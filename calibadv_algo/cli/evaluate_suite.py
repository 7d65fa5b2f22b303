"""`calibadv eval --suite`: several datasets in one command that can be stopped and gone on with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from rich.console import Console

from calibadv_algo.cli.policies import EndpointPolicy, OpenPolicy, PlaySettings, Policy
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.cli.progress import stage_bars
from calibadv_algo.cli.provenance import code_versions
from calibadv_algo.cli.suite_data import SuiteData, open_suite, suite_names, tasks_sha256
from calibadv_algo.cli.systems import System, SystemData, find_system
from calibadv_env.common.checks import POSITIVE
from calibadv_env.common.files import write_text
from calibadv_env.common.locks import hold_folder
from calibadv_env.data.preparing.coverage import audit_of
from calibadv_env.retrieval import is_remote

if TYPE_CHECKING:
    from calibadv_algo.experiments.suite.result import PartResult, SuiteResult
    from calibadv_algo.experiments.suite.run import SuitePart, SuitePlayer
    from calibadv_algo.training.evaluation import EvalRecord

RESULT: Final = "result.json"
MARKDOWN: Final = "result.md"
ENV_ID: Final = "calibadv_env:DeepSearch-v1"
WIDE: Final = 120
"""Columns of a terminal from which intervals fit into the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSuite(PolicyFlags):
    """Evaluate a policy on whole evaluation splits of several datasets, into a folder.

    The same command goes on where it was stopped.
    """

    suite: str
    """Datasets: seven, or names and folders with commas between them."""
    subset: Annotated[int, POSITIVE] | None = None
    """Questions of each dataset, a sample in the order of the split; None means all."""
    subset_seed: int = 0
    """Seed of that sample."""
    samples: Annotated[int, POSITIVE] = 1
    """Episodes of each question; more than one needs a temperature."""
    skip_missing: bool = False
    """If true, datasets whose files are missing are left out, and the table says so."""
    output_dir: Path | None = None
    """Folder of records and result. Default: runs/eval/MODEL-SUITE."""
    chunk: Annotated[int, POSITIVE] = 256
    """Episodes that are played and recorded at a time."""
    system: str = "agent"
    """Way of putting the policy to use; calibadv list systems."""

    def __post_init__(self) -> None:
        """Refuses values out of range and flags that exclude each other."""
        PolicyFlags.__post_init__(self)
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples must be 1 when greedy, got {self.samples}: they would all be the same"
            )

    def run(self) -> int:
        """Evaluates, writes the result into the folder and prints the main tables."""
        from calibadv_algo.report.suite_table import coverage_table, score_table, suite_markdown
        from calibadv_algo.report.tables import rich_table

        order = self.order()
        with hold_folder(order.folder):
            result = evaluate_suite(order)
            text = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
            write_text(order.folder / RESULT, f"{text}\n")
            write_text(order.folder / MARKDOWN, suite_markdown(result))
        console = Console(highlight=False)
        is_wide = console.width >= WIDE
        console.print(rich_table(score_table(result, style="intervals" if is_wide else "means")))
        if any(part.coverage for part in result.parts):
            console.print(rich_table(coverage_table(result)))
        for name, reason in result.skipped.items():
            console.print(f"not evaluated: {name}: {reason}", markup=False, soft_wrap=True)
        console.print(
            f"the whole result: {order.folder / MARKDOWN} to read, {order.folder / RESULT} for "
            "programs",
            markup=False,
            soft_wrap=True,
        )
        return 0

    def order(self) -> SuiteOrder:
        """The order that the flags make, with nothing left open.

        Raises:
            ValueError: if a name or a setting is not valid.
        """
        names, system, policy = suite_names(self.suite), find_system(self.system), self.source()
        if system.needs_tokens and isinstance(policy, EndpointPolicy):
            raise ValueError(
                f"system {system.name} needs a model on this machine: it writes parts of the "
                "turns itself, which an endpoint cannot go on with"
            )
        return SuiteOrder(
            suite=self.suite,
            names=names,
            policy=policy,
            play=self.settled(policy),
            system=system,
            folder=self.output_dir or _default_folder(policy, self.suite, system),
            subset=self.subset,
            subset_seed=self.subset_seed,
            num_samples=self.samples,
            chunk=self.chunk,
            skip_missing=self.skip_missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOrder:
    """Order to evaluate a policy on a suite.

    Attributes:
        suite: Name of the suite.
        names: Its datasets.
        policy: The policy.
        play: How it is played.
        system: How it is put to use.
        folder: Where records and result lie.
        subset: Questions of each dataset; None means all.
        subset_seed: Seed of that sample.
        num_samples: Episodes of each question.
        chunk: Episodes that are played and recorded at a time.
        skip_missing: If true, datasets whose files are missing are left out.
    """

    suite: str
    names: Sequence[str]
    policy: Policy
    play: PlaySettings
    system: System
    folder: Path
    subset: int | None = None
    subset_seed: int = 0
    num_samples: int = 1
    chunk: int = 256
    skip_missing: bool = False

    def settings(self) -> dict[str, Any]:
        """Everything that determines the numbers of every dataset, as plain JSON."""
        env = asdict(self.play.env)
        for name in ("env_id", "dataset", "retriever"):
            del env[name]
        return {
            "policy": self.policy.identity() if self.system.needs_model else None,
            "system": self.system.name,
            "env": env,
            "num_samples": self.num_samples,
            "seed": self.play.seed,
            "temperature": self.play.temperature,
            "top_p": self.play.top_p,
            "max_tokens": self.play.max_tokens,
            "max_context": self.play.max_context,
            "chat_template": self.play.chat_template,
            **self._template(),
            "subset": self.subset,
            "subset_seed": None if self.subset is None else self.subset_seed,
        }

    def _template(self) -> dict[str, Any]:
        """Variables of the chat template and places of messages, where there are any."""
        play = self.play
        given: dict[str, Any] = {}
        if play.template_settings:
            given["template_settings"] = dict(play.template_settings)
        if play.observations != "continue":
            given |= {"observations": play.observations, "earlier_thoughts": play.earlier_thoughts}
        return given


def evaluate_suite(order: SuiteOrder) -> SuiteResult:
    """Evaluates a suite; writes records and prints nothing but progress.

    Raises:
        ValueError: if a setting is not valid.
        DataError: if files are missing or faulty; nothing was played then.
        InUseError: naming the process, if another one writes into the folder.
        SuiteError: if the folder holds another evaluation.
        RetrieverError: if a search server does not answer.
        EngineError: if the policy's engine failed; what was finished is kept.
    """
    from calibadv_algo.experiments.suite.result import SuiteResult
    from calibadv_algo.experiments.suite.run import run_suite

    opened, skipped = open_suite(
        order.names,
        split=order.play.env.split,
        retriever=order.play.env.retriever,
        top_k=order.play.env.top_k,
        skip_missing=order.skip_missing,
    )
    settings = order.settings()
    table = _Table(order)
    parts = [table.part(data) for data in opened]
    with stage_bars(transient=True) as report:
        records = run_suite(
            parts,
            folder=order.folder,
            settings=settings,
            num_samples=order.num_samples,
            seed=order.play.seed,
            chunk=order.chunk,
            on_progress=report,
        )
    return SuiteResult(
        model=_title(order.policy, order.system),
        suite=order.suite,
        parts=tuple(part_result(data, records[data.name], order.num_samples) for data in opened),
        skipped=skipped,
        settings=settings,
        code=code_versions(),
    )


def _title(policy: Policy, system: System) -> str:
    """Name of what was evaluated, for the head of tables."""
    if not system.needs_model:
        return system.name
    return policy.label if system.name == "agent" else f"{policy.label} ({system.name})"


def _default_folder(policy: Policy, suite: str, system: System) -> Path:
    """A folder named after the policy, the suite and the system."""
    name = f"{Path(policy.label).name}-{suite}"
    if system.name != "agent":
        name = f"{system.name}-{name}"
    return Path("runs") / "eval" / re.sub(r"[^\w.-]+", "_", name)


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


def lasting(retrieval: Mapping[str, Any]) -> dict[str, Any]:
    """Retrieval facts that passages depend on: no address of a server that names its index."""
    is_known = bool(retrieval.get("corpus_sha256")) and is_remote(str(retrieval["retriever"]))
    return {name: v for name, v in retrieval.items() if not (is_known and name == "retriever")}


@dataclass(slots=True)
class _Table:
    """Lays out the parts of one order; the policy is opened once, when it is first needed."""

    order: SuiteOrder
    _open: OpenPolicy | None = None

    def part(self, data: SuiteData) -> SuitePart:
        """The part of a dataset."""
        from calibadv_algo.experiments.suite.run import SuitePart, SuiteTask, choose_tasks

        chosen = choose_tasks(len(data.tasks), self.order.subset, self.order.subset_seed)
        tasks = [(index, data.tasks[index]) for index in chosen]
        return SuitePart(
            name=data.name,
            file_name=data.file_name,
            split=data.tasks.split,
            tasks=tuple(
                SuiteTask(index, task.id, task.hops, any(task.gold_passages))
                for index, task in tasks
            ),
            split_size=len(data.tasks),
            open_player=partial(self.open_player, data),
            settings={
                "split": data.tasks.split,
                "split_size": len(data.tasks),
                "tasks_sha256": tasks_sha256(data.tasks),
                "retrieval": lasting(data.retrieval),
            },
        )

    def open_player(self, data: SuiteData) -> SuitePlayer:
        """Environments of a dataset, and the policy."""
        from calibadv_algo.experiments.suite.run import SuitePlayer
        from calibadv_algo.rollout.driver import Player
        from calibadv_algo.rollout.slots import make_slots

        system, play = self.order.system, self.order.play
        kwargs = system.env_kwargs({**play.env.kwargs(), "dataset": data.source})
        facts = SystemData(
            dataset=data.dataset,
            tasks=data.tasks,
            retriever=data.retriever,
            top_k=play.env.top_k,
        )
        policy = self.open_writer(facts)
        player = Player(
            make_slots(ENV_ID, play.num_slots, kwargs),
            policy.engine,
            policy.tokenizer,
            play.sampling(kwargs.get("prompt")),
            play.driver(policy.max_context),
        )
        return SuitePlayer(player, policy.count_tokens, policy.score_answer)

    def open_writer(self, data: SystemData) -> OpenPolicy:
        """Writer of a system's turns: the policy, or the system alone."""
        system = self.order.system
        if system.needs_model:
            if self._open is None:
                self._open = self.order.policy.open(self.order.play)
            engine = system.engine(self._open.engine, self._open.tokenizer, data)
            return replace(self._open, engine=engine)
        from calibadv_algo.rollout.engines.openai.engine import TextPieces

        pieces = TextPieces()
        return OpenPolicy(
            engine=system.engine(None, pieces, data),
            tokenizer=pieces,
            count_tokens=lambda trajectory: None,
            score_answer=None,
            max_context=None,
        )
