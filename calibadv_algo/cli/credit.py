"""`calibadv credit`: which estimator is right about each turn, by measured advantages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from annotated_types import Interval
from rich.console import Console
from rich.table import Table

from calibadv_algo.cli.listing import FILE_WIDTH
from calibadv_algo.cli.policies import EvalEnv, PlaySettings, Policy
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.cli.progress import stage_bars
from calibadv_algo.experiments.truth.measuring import Measurement, Plan, measure
from calibadv_algo.training.config import EnvConfig, config_to_dict
from calibadv_env.common.checks import POSITIVE
from calibadv_env.common.files import sweep_files, write_text
from calibadv_env.common.locks import hold_folder

if TYPE_CHECKING:
    from calibadv_algo.experiments import statistics
    from calibadv_algo.experiments.truth.audit import Audit, Standing
    from calibadv_algo.experiments.truth.candidates import Field
    from calibadv_algo.rollout.driver import Player

RESULT_FILE: Final = "credit.json"
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
    estimators: tuple[str, ...] = ()
    """Estimators as NAME, NAME/LABELS or module:Class. Default: all of the library."""
    own: tuple[str, ...] = ()
    """Estimators beside those of the library: module:Class or module:Class/LABELS."""
    cluster: str | None = None
    """Key of the reset info by which questions hang together, such as gold_entities."""
    output: Path = Path("runs/credit")
    """Folder of the measurement and its results."""

    def run(self) -> int:
        """Measures, compares and writes the results."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = max(console.width, FILE_WIDTH)
        policy = self.source()
        plan = Plan(
            group_size=self.group_size,
            continuations=self.continuations,
            allocation="even" if self.even else "adaptive",
            seed=self.seed,
        )
        budget_s = None if self.budget is None else parse_seconds(self.budget)
        play = self.settled(policy)
        with hold_folder(self.output):
            sweep_files(self.output)
            measured = measure_policy(
                policy, play, plan, self.questions, self.output, budget_s=budget_s
            )
            self._conclude(measured, play, policy, console)
        return 0

    def _conclude(
        self, measured: Measurement, play: PlaySettings, policy: Policy, console: Console
    ) -> None:
        """Holds the estimators against the truth; prints and writes what comes out."""
        from calibadv_algo.experiments.truth.audit import audit

        result = audit(measured.groups, self._field(), cluster=self.cluster, seed=self.seed)
        facts = {
            "policy": policy.label,
            "dataset": play.env.dataset,
            "split": play.env.split,
            "retriever": play.env.retriever,
            "questions": len(measured.groups),
            "group_size": self.group_size,
            "continuations": measured.num_continuations,
            "states": measured.num_states,
            "dropped": measured.num_dropped,
            "questions_lost": measured.num_lost,
            "wall_s": round(measured.wall_s, 1),
        }
        for table in tables(result):
            console.print(table, crop=False)
        for line in remarks(facts):
            console.print(line, markup=False, soft_wrap=True)
        path = self.output / RESULT_FILE
        write_text(path, json.dumps({"facts": facts, **result.to_dict()}, indent=1) + "\n")
        console.print(f"wrote {path}", markup=False, soft_wrap=True)

    def _field(self) -> Field:
        """The candidates that were asked for; GRPO is always among them."""
        from calibadv_algo.experiments.truth.candidates import (
            REFERENCE,
            Field,
            library,
            own_candidate,
        )

        if not self.estimators:
            return library(self.own)
        names = dict.fromkeys((REFERENCE, *self.estimators, *self.own))
        return Field(candidates=tuple(own_candidate(name) for name in names))


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
        ValueError: if there is no such model, environment or split, or its states can neither be
            cloned nor replayed.
        TruthLogError: if the folder holds another measurement.
    """
    from calibadv_algo.experiments.truth.log import TruthLog
    from calibadv_algo.training.collection import count_tasks
    from calibadv_algo.training.evaluation import eval_task_indices

    facts = {
        "policy": policy.identity(),
        "play": config_to_dict(replace(play, num_slots=1)),
        "plan": config_to_dict(plan),
    }
    log = TruthLog(output, facts)
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


def tables(result: Audit) -> Sequence[Table]:
    """Estimators by their correlation over the searches, and what turns were worth."""
    from calibadv_algo.experiments.truth.metrics import METRICS

    standings = result.standings["searches"]
    headings = [each.title for each in METRICS]
    board = Table("estimator", *headings, "correlation − GRPO, joint 95 %", "", box=None)
    board.title = "Searches: estimators against the measured truth"
    board.columns[0].min_width = max(map(len, standings))
    for name in by_correlation(standings):
        one = standings[name]
        cells = [f"{one.scores[each.name].estimate:.2f}" for each in METRICS]
        difference = one.against.get("correlation")
        verdict = (
            ("", "") if difference is None else (written(difference.joint), difference.verdict)
        )
        board.add_row(name, *cells, *verdict)
    worth = Table("turns", "number", "true advantage", "clearly good", "clearly bad", box=None)
    worth.title = "What turns were worth"
    for row in result.worth:
        counts = str(row.clear_good), str(row.clear_bad)
        worth.add_row(row.what, str(row.count), written(row.advantage), *counts)
    return board, worth


def by_correlation(standings: Mapping[str, Standing]) -> list[str]:
    """Names, best first; those without a number last."""

    def rank(name: str) -> float:
        value = standings[name].scores["corrected"].estimate
        return math.inf if math.isnan(value) else -value

    return sorted(standings, key=rank)


def written(interval: statistics.Interval) -> str:
    """A signed estimate with its interval."""
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def remarks(facts: dict[str, Any]) -> list[str]:
    """Sentences about the measurement."""
    lines = [
        f"{facts['questions']} questions x {facts['group_size']} episodes: {facts['states']} "
        f"states, {facts['continuations']} continuations in {facts['wall_s']} s"
    ]
    if facts["dropped"]:
        lines.append(f"{facts['dropped']} episodes or continuations were given up")
    if facts["questions_lost"]:
        lines.append(f"{facts['questions_lost']} questions were left out: too few episodes")
    return lines
