"""Recorded groups: read from files, chosen for the page, and laid out as it shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibadv_algo.report.assessment import Assessment, Tally, Verdict, assess
from calibadv_algo.report.methods import Methods, compared_methods
from calibadv_algo.report.reading import Comparison, ReportError, Run, iterate_json_lines
from calibadv_algo.rollout.records import PASSAGES_KEY, trajectory_from_json
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.common.checks import require_positive
from calibadv_env.protocol.passages import parse_passages

MAX_THINK_CHARS: Final[int] = 4000
MAX_PASSAGE_CHARS: Final[int] = 1500
_KEPT_AN_UPDATE: Final[int] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageView:
    """A retrieved passage as the page shows it.

    Attributes:
        id: Its id.
        title: Its title, "" where unknown.
        text: Its text, None where the environment reports none.
        is_gold: True if any trajectory of the group was credited with it as gold.
        is_silver: True if the best trajectories of the group retrieved it.
    """

    id: str
    title: str
    text: str | None
    is_gold: bool
    is_silver: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """A turn as the page shows it.

    Attributes:
        kind: ``search``, ``answer``, ``malformed``, or ``turn`` where the environment does not
            say.
        think: The thought.
        body: Query, answer, or the raw text of any other turn.
        passages: What a search returned.
        observation: What came back, where that is not the passages, whole.
        reference: Advantage under the reference method.
        other: Advantage under the other method.
        silver: Silver correctness, None without a score.
        is_gold_hit: True if the search hit a gold passage that was not hit before.
        verdict: Set for correct searches that the reference punishes.
        truth: Measured advantage, where it was measured.
        truth_error: Its standard error.
    """

    kind: str
    think: str
    body: str
    passages: tuple[PassageView, ...]
    observation: str
    reference: float
    other: float
    silver: float | None
    is_gold_hit: bool
    verdict: Verdict | None
    truth: float | None = None
    truth_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryView:
    """A trajectory as the page shows it.

    Attributes:
        reward: Its return.
        f1: F1 of its answer, None where the environment does not say.
        is_format_valid: True if the response is well-formed, None where unknown.
        stop_reason: Why it ended, "" where unknown.
        turns: In order.
    """

    reward: float
    f1: float | None
    is_format_valid: bool | None
    stop_reason: str
    turns: tuple[TurnView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group as the page shows it.

    Attributes:
        arm: Arm that sampled it.
        seed: Seed of the run.
        update: Number of updates behind the policy that sampled it.
        task_id: Which question.
        question: Its text.
        golden_answers: Accepted answers.
        hops: Number of reasoning steps, 0 when unknown.
        num_mispenalized: Correct searches that the reference punishes.
        trajectories: The siblings.
    """

    arm: str
    seed: int
    update: int
    task_id: str
    question: str
    golden_answers: tuple[str, ...]
    hops: int
    num_mispenalized: int
    trajectories: tuple[TrajectoryView, ...]


def shorten(text: str, max_chars: int) -> str:
    """At most ``max_chars`` characters of a text, and how many more there were."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} … ({len(text) - max_chars} more characters)"


def _passage_views(assessed: Assessment, turn: Turn) -> tuple[PassageView, ...]:
    ids = [str(passage) for passage in turn.info.get("passage_ids", ())]
    unknown = ("", None)  # of passages that an observation of an older run was cut before
    shown = zip(ids, chain(turn.info.get("passages", ()), repeat(unknown)), strict=False)
    return tuple(
        PassageView(
            id=passage_id,
            title=shorten(title, MAX_PASSAGE_CHARS),
            text=None if text is None else shorten(text, MAX_PASSAGE_CHARS),
            is_gold=passage_id in assessed.gold_passages,
            is_silver=passage_id in assessed.silver_passages,
        )
        for passage_id, (title, text) in shown
    )


def _turn_view(assessed: Assessment, row: int, column: int) -> TurnView:
    turn = assessed.group.trajectories[row].turns[column]
    kind = str(turn.info.get("action", "turn"))
    named = {"search": turn.info.get("query"), "answer": turn.info.get("answer")}.get(kind)
    if turn.info.get("calls"):
        pairs = zip(turn.info["calls"], turn.info["arguments"], strict=True)
        named = "\n".join(f"{call}: {argument}" for call, argument in pairs)
    passages = _passage_views(assessed, turn)
    texts = [text for _, text in turn.info.get("passages", ())]
    is_whole = bool(texts) and all(text in turn.observation_text for text in texts)
    silver = float(assessed.silver[row, column])
    return TurnView(
        kind=kind,
        think=shorten(str(turn.info.get("think") or ""), MAX_THINK_CHARS),
        body=shorten(turn.action_text if named is None else str(named), MAX_THINK_CHARS),
        passages=passages,
        observation="" if is_whole else shorten(turn.observation_text.strip(), MAX_THINK_CHARS),
        reference=float(assessed.reference[row, column]),
        other=float(assessed.other[row, column]),
        silver=None if math.isnan(silver) else silver,
        is_gold_hit=bool(assessed.is_gold_hit[row, column]),
        verdict=assessed.verdict(row, column),
    )


def view(assessed: Assessment, *, arm: str, seed: int) -> GroupView:
    """A group as the page shows it, long texts shortened."""
    first = assessed.group.trajectories[0]
    trajectories = []
    for row, trajectory in enumerate(assessed.group.trajectories):
        info = trajectory.final_info
        is_valid = info.get("is_format_valid")
        f1 = info.get("f1")
        trajectories.append(
            TrajectoryView(
                reward=trajectory.reward,
                f1=None if f1 is None else float(f1),
                is_format_valid=None if is_valid is None else bool(is_valid),
                stop_reason=str(info.get("stop_reason") or ""),
                turns=tuple(
                    _turn_view(assessed, row, column) for column in range(len(trajectory.turns))
                ),
            )
        )
    return GroupView(
        arm=arm,
        seed=seed,
        update=first.policy_version,
        task_id=first.task_id,
        question=shorten(
            str(first.reset_info.get("question") or first.prompt_text), MAX_PASSAGE_CHARS
        ),
        golden_answers=tuple(str(a) for a in first.reset_info.get("golden_answers", ())),
        hops=int(first.reset_info.get("hops") or 0),
        num_mispenalized=int(assessed.is_mispenalized.sum()),
        trajectories=tuple(trajectories),
    )


_RECORD_FIELDS: Final[frozenset[str]] = frozenset(f.name for f in fields(Trajectory))
_TURN_FIELDS: Final[frozenset[str]] = frozenset(f.name for f in fields(Turn))


def _lean_record(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is not shown: token ids (only their number matters) and additions."""
    record = {
        key: item for key, item in value.items() if key in _RECORD_FIELDS or key == PASSAGES_KEY
    }
    record["prompt_ids"] = []
    record["turns"] = [
        {key: item for key, item in turn.items() if key in _TURN_FIELDS}
        | {
            "action_ids": [0] * len(turn["action_ids"]),
            "logprobs": [0.0] * len(turn["action_ids"]),
            "observation_ids": [],
        }
        for turn in value["turns"]
    ]
    return record


def _with_passages(trajectory: Trajectory) -> Trajectory:
    """Fills the key ``passages`` of runs that were recorded before it was reported."""
    turns = tuple(
        replace(turn, info={**turn.info, "passages": tuple(parse_passages(turn.observation_text))})
        if turn.info.get("passage_ids") and "passages" not in turn.info
        else turn
        for turn in trajectory.turns
    )
    return replace(trajectory, turns=turns)


def iterate_groups(path: Path) -> Iterator[Group]:
    """Groups of one file of trajectory records, in order of their first trajectory.

    Token ids are replaced by zeros.

    Args:
        path: One trajectory a line as ``rollout/records.py`` writes it, in any order; fields that
            it does not know, such as the advantages used in training, are passed over.

    Raises:
        ReportError: naming file and line, if a line is not a trajectory.
    """
    groups: dict[str, list[Trajectory]] = {}
    for number, value in iterate_json_lines(path):
        try:
            trajectory = _with_passages(trajectory_from_json(json.dumps(_lean_record(value))))
        except KeyError as error:
            raise ReportError(f"{path}:{number}: the record lacks {error.args[0]}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ReportError(f"{path}:{number}: not a trajectory record: {error}") from error
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    for trajectories in groups.values():
        yield Group(tuple(trajectories))


def _interest(assessed: Assessment) -> tuple[int, int, int]:
    """Sorts groups: a punished correct search first, then differing rewards, then length."""
    rewards = {trajectory.reward for trajectory in assessed.group.trajectories}
    return (int(assessed.is_mispenalized.sum()), len(rewards), assessed.group.max_turns)


def spread_out(updates: Iterable[int], num_wanted: int) -> list[int]:
    """At most ``num_wanted`` of distinct updates, spread evenly with first and last, ascending."""
    ordered = sorted(updates)
    if len(ordered) <= num_wanted:
        return ordered
    positions = np.linspace(0, len(ordered) - 1, num_wanted).round().astype(int)
    return [ordered[i] for i in dict.fromkeys(positions.tolist())]


@dataclass(slots=True)
class BestGroups:
    """The most telling groups of every update of a run, a few of each."""

    _by_update: dict[int, list[Assessment]] = field(default_factory=dict, repr=False)

    def add(self, assessed: Assessment) -> None:
        """Keeps a group if it is among the most telling of its update."""
        kept = self._by_update.setdefault(assessed.group.trajectories[0].policy_version, [])
        kept.append(assessed)
        kept.sort(key=_interest, reverse=True)
        del kept[_KEPT_AN_UPDATE:]

    def views(self, num_wanted: int, *, arm: str, seed: int = 0) -> list[GroupView]:
        """At most ``num_wanted`` groups in order of updates, the most telling ones of every update.

        Args:
            num_wanted: Most groups.
            arm: Name of the run's arm, or of another source.
            seed: Seed of the run.
        """
        updates = spread_out(self._by_update, num_wanted)
        picked = [
            self._by_update[update][rank]
            for rank in range(_KEPT_AN_UPDATE)
            for update in updates
            if rank < len(self._by_update[update])
        ]
        views = [view(assessed, arm=arm, seed=seed) for assessed in picked[:num_wanted]]
        return sorted(views, key=lambda group: group.update)


OnUpdate = Callable[[Run, str, Sequence[Assessment], Methods], None]
"""Receiver of all groups of one file of a run, with the file's name before its ending."""


def select_groups(
    comparison: Comparison, *, max_groups: int = 40, on_update: OnUpdate | None = None
) -> tuple[list[GroupView], Tally, Methods]:
    """The groups for the page by run and update, the tally of all recorded ones, the methods.

    Every run gets the same share of ``max_groups``, spread evenly over its updates; of the groups
    of an update those with the most punished correct searches come first.

    Args:
        comparison: What was compared.
        max_groups: Most groups of the page.
        on_update: Called with all groups of each file, which are those of an update.

    Raises:
        ReportError: if a record cannot be read.
        ValueError: if ``max_groups`` is not positive.
    """
    require_positive(max_groups=max_groups)
    tally = Tally()
    share = max(1, max_groups // len(comparison.runs))
    methods = compared_methods(comparison, _first_group(comparison))
    chosen: list[GroupView] = []
    for run in comparison.runs:
        best = BestGroups()
        for path in sorted((run.directory / "trajectories").glob("*.jsonl")):
            found = [assess(group, methods) for group in iterate_groups(path)]
            for assessed in found:
                tally.add(assessed)
                best.add(assessed)
            if on_update is not None:
                on_update(run, path.stem, found, methods)
        chosen += best.views(share, arm=run.arm, seed=run.seed)
    return chosen[:max_groups], tally, methods


def _first_group(comparison: Comparison) -> Group | None:
    for run in comparison.runs:
        for path in sorted((run.directory / "trajectories").glob("*.jsonl")):
            return next(iterate_groups(path), None)
    return None
