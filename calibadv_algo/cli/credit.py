"""`calibadv credit`: which estimator is right about each turn, by measured advantages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from annotated_types import Interval
from rich.console import Console

from calibadv_algo.cli.credit_critic import critic_of
from calibadv_algo.cli.credit_model import with_beliefs, with_gradients
from calibadv_algo.cli.flags import PartNames
from calibadv_algo.cli.listing import FILE_WIDTH
from calibadv_algo.cli.policies import (
    EndpointPolicy,
    EvalEnv,
    PlaySettings,
    Policy,
)
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.cli.progress import stage_bars
from calibadv_algo.cli.provenance import commit_of_start, note_start
from calibadv_algo.experiments.truth.log import PAGE_FILE, RESULT_FILE
from calibadv_algo.experiments.truth.measuring import Measurement, Plan, measure
from calibadv_algo.training.config import EnvConfig, config_to_dict
from calibadv_env.common.checks import POSITIVE
from calibadv_env.common.files import atomic_file, sweep_files
from calibadv_env.common.locks import hold_folder

if TYPE_CHECKING:
    from calibadv_algo.experiments.truth.candidates import Field
    from calibadv_algo.report.credit import CreditSource
    from calibadv_algo.rollout.driver import Player

NamedPolicy = tuple[str, Policy, Path]
"""Label, policy and folder of its measurement."""

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit(PolicyFlags):
    """Measure what every turn of a policy was worth, and hold every estimator against it.

    Groups of episodes are sampled; from every state that they came through the policy plays on
    many times, which gives the state's value and each turn its true advantage. The measurement
    goes on where it was when it is called again.
    """

    env: EnvConfig = field(default_factory=lambda: EvalEnv(split="train"))
    """The environment; what is left out is as the policy was trained."""
    temperature: float = 1.0
    """Sampling temperature; that of training, since advantages are those of the sampled policy."""
    questions: Annotated[int, POSITIVE] = 48
    """Questions, the first ones of a fixed shuffle of the split."""
    group_size: Annotated[int, Interval(ge=2)] = 8
    """Episodes of each question."""
    continuations: Annotated[int, Interval(ge=4)] = 16
    """Continuations of each state, on average."""
    even: bool = False
    """If true, as many continuations from every state; otherwise more where it is uncertain."""
    budget: str | None = None
    """Time after which no further questions begin: 90s, 5m, 1h. Default: none."""
    estimators: PartNames = ()
    """Estimator, as NAME, NAME/LABELS or module:Class; repeatable. Default: all of the library."""
    own: PartNames = ()
    """One beside those of the library: module:Class or module:Class/LABELS; repeatable."""
    reference: str = "grpo"
    """Estimator that the others are compared with, as in --estimators."""
    cluster: str | None = None
    """Key of the reset info by which questions hang together, such as gold_entities; task_id for
    each by itself. Default: cluster, where the dataset names them, else task_id."""
    gradient: bool = False
    """If true, directions of the policy gradient are compared too: a backward pass a turn."""
    checkpoints: Path | None = None
    """Folder of a training run whose checkpoints are measured, in place of one policy."""
    output: Path = Path("runs/credit")
    """Folder of the measurement and its results."""

    def run(self) -> int:
        """Measures, compares and writes the results."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = max(console.width, FILE_WIDTH)
        self.measure_all(self._policies(), self._field(), console)
        return 0

    def measured(self) -> CreditSource:
        """The one policy measured and compared, without tables, for scripts."""
        with hold_folder(self.output):
            sweep_files(self.output)
            [source] = self._sources(self._policies(), self._field())
        return source

    def measure_all(
        self, policies: Sequence[NamedPolicy], candidates: Field, console: Console
    ) -> None:
        """Measures policies, each in its folder, and writes the results of all into `output`.

        Raises:
            InUseError: naming the process, if another one writes into the folder.
            ValueError: if a policy cannot be measured: see :func:`measure_policy`.
            TruthLogError: if a folder holds another measurement.
        """
        with hold_folder(self.output):
            sweep_files(self.output)
            self._conclude(self._sources(policies, candidates), console)

    def _sources(self, policies: Sequence[NamedPolicy], candidates: Field) -> list[CreditSource]:
        """Every policy measured, with all candidates held against it."""
        budget_s = None if self.budget is None else parse_seconds(self.budget) / len(policies)
        sources = []
        for label, policy, folder in policies:
            play = self.settled(policy)
            measured = measure_policy(
                policy, play, self._plan(), self.questions, folder, budget_s=budget_s
            )
            sources.append(self._source(label, measured, candidates, play, policy, folder))
        return sources

    def _plan(self) -> Plan:
        return Plan(
            group_size=self.group_size,
            continuations=self.continuations,
            allocation="even" if self.even else "adaptive",
            seed=self.seed,
        )

    def _policies(self) -> list[NamedPolicy]:
        """Label, policy and folder of everything that is measured."""
        if self.checkpoints is None:
            policy = self.source()
            return [(_short(policy.label), policy, self.output)]
        if self.policy or self.model or self.endpoint:
            raise ValueError("checkpoints must not be given with a policy: they are the policies")
        return [
            (
                f"update {update}",
                replace(self, policy=str(path), checkpoints=None).source(),
                self.output / f"update_{update:06d}",
            )
            for update, path in checkpoints_of(self.checkpoints)
        ]

    def _source(
        self,
        label: str,
        measured: Measurement,
        candidates: Field,
        play: PlaySettings,
        policy: Policy,
        folder: Path,
    ) -> CreditSource:
        """A measured policy with all candidates held against it."""
        from calibadv_algo.experiments.truth.audit import audit
        from calibadv_algo.experiments.truth.turns import own_cluster_key
        from calibadv_algo.report.credit import CreditSource

        measured = with_beliefs(measured, candidates, policy)
        episodes = [each for group in measured.groups for each in group.group.trajectories]
        critic, critic_facts = critic_of(policy, episodes, play.env)
        cluster = self.cluster or own_cluster_key(measured.groups)
        result = audit(
            measured.groups,
            candidates,
            critic=critic,
            cluster=cluster,
            reference=self.reference,
            seed=self.seed,
        )
        if self.gradient:
            result = with_gradients(result, measured, policy, play.temperature)
        facts = {
            "env_id": play.env.env_id,
            "dataset": play.env.dataset,
            "split": play.env.split,
            "retriever": play.env.retriever,
            "top_k": play.env.top_k,
            "temperature": play.temperature,
            "questions": len(measured.groups),
            "group_size": self.group_size,
            "continuations": measured.num_continuations,
            "states": measured.num_states,
            "allocation": self._plan().allocation,
            "clusters": cluster or "question",
            "seed": self.seed,
            "dropped": measured.num_dropped,
            "questions_lost": measured.num_lost,
            "wall_s": round(measured.wall_s, 1),
            "sampled_at": commit_of_start(folder),
            **critic_facts,
        }
        return CreditSource(label=label, measured=measured.groups, audit=result, facts=facts)

    def _conclude(self, sources: Sequence[CreditSource], console: Console) -> None:
        """Prints the tables and writes table, JSON, pictures and page."""
        from calibadv_algo.report.credit import (
            board,
            headline_names,
            pictures_of,
            remarks,
            render_credit,
            table_texts,
            values_tables,
            worth_table,
        )
        from calibadv_algo.report.summary import without_nan
        from calibadv_algo.report.tables import rich_table

        for source in sources:
            names = headline_names(source.audit.standings["searches"])
            tables = [board(source, "searches", names, is_narrow=True), worth_table(source)]
            for table in (*tables, *values_tables(source)):
                shown = rich_table(replace(table, note=""))
                for column in (shown.columns[0], *shown.columns[2:4]):
                    column.no_wrap = True
                console.print(shown, crop=False)
            for line in remarks(source):
                console.print(line, markup=False, soft_wrap=True)
        results = [
            {"label": each.label, "facts": each.facts, **each.audit.to_dict()} for each in sources
        ]
        pictures = pictures_of(sources)
        texts = {
            RESULT_FILE: json.dumps(without_nan(results), indent=1) + "\n",
            "table.md": table_texts(sources),
            PAGE_FILE: render_credit(sources, pictures=pictures),
        }
        # Policies write halves of surrogate pairs, which UTF-8 cannot.
        files = {name: text.encode("utf-8", "replace") for name, text in texts.items()}
        files |= {f"{each.name}.png": each.png for each in pictures}
        for name, content in files.items():
            with atomic_file(self.output / name, "wb") as stream:
                stream.write(content)
            console.print(f"wrote {self.output / name}", markup=False, soft_wrap=True)

    def _field(self) -> Field:
        """The candidates that were asked for; GRPO and the reference are always among them."""
        from calibadv_algo.experiments.truth.candidates import (
            REFERENCE,
            Field,
            library,
            own_candidate,
        )

        names = dict.fromkeys((REFERENCE, self.reference, *self.estimators, *self.own))
        if self.estimators:
            return Field(candidates=tuple(own_candidate(name) for name in names))
        found = library(self.own)
        if self.reference in {each.name for each in found.candidates}:
            return found
        # A name of the library's other estimators, such as one that stands for equal advantages.
        return replace(found, candidates=(*found.candidates, own_candidate(self.reference)))


def measure_policy(
    policy: Policy,
    play: PlaySettings,
    plan: Plan,
    num_questions: int,
    output: Path,
    *,
    budget_s: float | None = None,
) -> Measurement:
    """Groups of a policy with measured states, from the log of the folder as far as it has them.

    Raises:
        ValueError: if there is no such model, environment or split, its states can neither be
            cloned nor replayed, or the policy is given text in place of tokens.
        TruthLogError: if the folder holds another measurement.
    """
    if isinstance(policy, EndpointPolicy):
        raise ValueError(
            "endpoint must not be given: such a server is sent text and tokenises it anew, so its "
            "continuations would not go on from the sampled tokens. A server that takes and gives "
            "token ids, such as vLLM, can be measured with --endpoint-route tokens "
            "--endpoint-tokenizer MODEL"
        )
    from calibadv_algo.experiments.truth.log import TruthLog
    from calibadv_algo.training.collection import count_tasks
    from calibadv_algo.training.evaluation import eval_task_indices

    played = config_to_dict(replace(play, num_slots=1))
    if play.observations == "continue":
        # Measurements that were begun before there was a choice go on.
        del played["observations"], played["earlier_thoughts"]
    facts = {
        "policy": policy.identity(),
        "play": played,
        "plan": config_to_dict(plan),
    }
    log = TruthLog(output, facts)
    note_start(output, play.env)
    try:
        with open_player(policy, play) as player, stage_bars() as report:
            tasks = eval_task_indices(count_tasks(player.slots), num_questions)
            return measure(player, tasks, plan, log, budget_s=budget_s, report=report)
    finally:
        log.close()


@contextmanager
def open_player(policy: Policy, play: PlaySettings) -> Iterator[Player]:
    """A player of a policy; its environments are closed afterwards."""
    from calibadv_algo.rollout.driver import Player
    from calibadv_algo.rollout.slots import make_slots

    opened = policy.open(play)
    slots = make_slots(play.env.env_id, play.num_slots, play.env.kwargs())
    try:
        yield Player(
            slots,
            opened.engine,
            opened.tokenizer,
            play.sampling(play.env.prompt),
            play.driver(opened.max_context),
        )
    finally:
        slots.close()


def parse_seconds(text: str) -> float:
    """Seconds that a time such as ``90s``, ``5m`` or ``1.5h`` stands for.

    Raises:
        ValueError: if it is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise ValueError(f"budget must be a time such as 90s, 5m or 1h, got {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Policies of a run's checkpoints with their numbers of updates, in order.

    Raises:
        ValueError: if the folder holds none.
    """
    found = sorted((run / "checkpoints").glob("update_*/policy"))
    if not found:
        raise ValueError(
            f"checkpoints must name the folder of a run with checkpoints, got {str(run)!r}; "
            "train with --checkpoint-every and --keep-checkpoints to have several"
        )
    return [(int(each.parent.name.partition("_")[2]), each) for each in found]


def _short(label: str) -> str:
    """A policy's label without the folders before its run."""
    parts = Path(label).parts
    return "/".join(part for part in parts[-4:] if part not in ("checkpoints", "policy", "/"))
