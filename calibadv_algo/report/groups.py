"""What the page shows of recorded groups: every turn judged by GRPO and by CalibAdv."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.base import (
    SCORED_BAD,
    GoldCredit,
    SilverCredit,
    search_mask,
)
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.report.reading import Comparison, ReportError, Run, iterate_json_lines
from calibadv_algo.rollout.records import trajectory_from_json
from calibadv_algo.types import Group, Trajectory, Turn

Verdict = Literal["spared", "eased", "punished"]
"""What becomes of a correct search that GRPO punishes: CalibAdv takes the whole penalty away,
a part of it, or nothing."""

MAX_THINK_CHARS: Final[int] = 4000
MAX_PASSAGE_CHARS: Final[int] = 1500
_KEPT_AN_UPDATE: Final[int] = 3
_TOLERANCE: Final[float] = 1e-9
_CLOSING_TAG: Final[str] = "</information>"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageView:
    """A retrieved passage as the page shows it.

    Attributes:
        id: Its id.
        title: Its title, "" where the observation does not show it.
        text: What the policy read of it, None where the observation was cut before it.
        is_gold: Whether any trajectory of the group was credited with it as gold.
        is_silver: Whether the best trajectories of the group retrieved it.
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
        observation: What came back, where it could not be split into passages.
        grpo: Advantage under GRPO.
        calibadv: Advantage under CalibAdv.
        silver: Silver correctness, None without a score.
        is_gold_hit: Whether the search hit a gold passage that was not hit before.
        verdict: Set for correct searches that GRPO punishes.
    """

    kind: str
    think: str
    body: str
    passages: tuple[PassageView, ...]
    observation: str
    grpo: float
    calibadv: float
    silver: float | None
    is_gold_hit: bool
    verdict: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryView:
    """A trajectory as the page shows it.

    Attributes:
        reward: Its return.
        f1: F1 of its answer, None where the environment does not say.
        is_format_valid: Whether the response is well-formed, None where unknown.
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
        num_mispenalized: Correct searches that GRPO punishes.
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


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all recorded groups.

    Attributes:
        num_groups: Groups.
        num_trajectories: Trajectories.
        num_searches: Searches that something followed.
        num_correct: Those that found a new gold passage or were silver.
        num_punished: Correct searches with a negative advantage under GRPO.
        verdicts: How many of these CalibAdv spares, eases, or punishes alike.
        grpo_penalty: Sum of GRPO's penalties on correct searches.
        calibadv_penalty: What CalibAdv keeps of it.
    """

    num_groups: int = 0
    num_trajectories: int = 0
    num_searches: int = 0
    num_correct: int = 0
    num_punished: int = 0
    verdicts: dict[str, int] = field(
        default_factory=lambda: {"spared": 0, "eased": 0, "punished": 0}
    )
    grpo_penalty: float = 0.0
    calibadv_penalty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """A group with everything that is computed about its turns.

    Attributes:
        group: The group.
        grpo: Advantages under GRPO.
        calibadv: Advantages under CalibAdv.
        silver: Silver correctness, NaN without a score.
        is_search: Searches that something followed.
        is_gold_hit: Searches that newly hit a gold passage.
        silver_passages: Ids of the silver passages.
        gold_passages: Ids of the gold passages that any trajectory was credited with.
    """

    group: Group
    grpo: Float[np.ndarray, "group turn"]
    calibadv: Float[np.ndarray, "group turn"]
    silver: Float[np.ndarray, "group turn"]
    is_search: Bool[np.ndarray, "group turn"]
    is_gold_hit: Bool[np.ndarray, "group turn"]
    silver_passages: frozenset[str]
    gold_passages: frozenset[str]

    @property
    def is_correct(self) -> Bool[np.ndarray, "group turn"]:
        """Searches that were silver or hit gold."""
        return np.asarray(self.is_search & ((self.silver > SCORED_BAD) | self.is_gold_hit))

    @property
    def is_mispenalized(self) -> Bool[np.ndarray, "group turn"]:
        """Correct searches with a negative advantage under GRPO."""
        return np.asarray(self.is_correct & (self.grpo < -_TOLERANCE))

    def verdict(self, row: int, column: int) -> Verdict | None:
        """What CalibAdv does with a correct search that GRPO punishes."""
        if not self.is_mispenalized[row, column]:
            return None
        if self.calibadv[row, column] >= -_TOLERANCE:
            return "spared"
        eased = self.calibadv[row, column] > self.grpo[row, column] + _TOLERANCE
        return "eased" if eased else "punished"


def _silver_passages(
    group: Group,
    silver: Float[np.ndarray, "group turn"],
    is_search: Bool[np.ndarray, "group turn"],
) -> frozenset[str]:
    """What the best trajectories of valid format retrieved, in a group that has silver scores."""
    if np.isnan(silver).all():
        return frozenset()
    rewards = [
        each.reward if each.final_info["is_format_valid"] else -math.inf
        for each in group.trajectories
    ]
    return frozenset(
        str(passage)
        for row, trajectory in enumerate(group.trajectories)
        if rewards[row] == max(rewards)
        for column, turn in enumerate(trajectory.turns)
        if is_search[row, column]
        for passage in turn.info["passage_ids"]
    )


def judge(group: Group) -> JudgedGroup:
    """Computes both advantages and the correctness of every turn, whichever arm sampled it.

    Args:
        group: Trajectories of one question.

    Returns:
        The judged group. Where the environment does not report what a credit needs, no turn
        has a score of that kind.
    """
    shape = (len(group), group.max_turns)
    silver, is_search = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    silver_passages: frozenset[str] = frozenset()
    try:
        silver = SilverCredit()(group)
        is_search = search_mask(group)
        silver_passages = _silver_passages(group, silver, is_search)
    except MissingInfoKeyError:
        silver = np.full(shape, np.nan)
    try:
        is_gold_hit = GoldCredit()(group) > SCORED_BAD
    except MissingInfoKeyError:
        is_gold_hit = np.zeros(shape, dtype=np.bool_)
    return JudgedGroup(
        group=group,
        grpo=Grpo()(group, silver),
        calibadv=CalibAdv()(group, silver),
        silver=silver,
        is_search=is_search,
        is_gold_hit=is_gold_hit,
        silver_passages=silver_passages,
        gold_passages=frozenset(
            str(passage)
            for trajectory in group.trajectories
            for turn in trajectory.turns
            for passage in turn.info.get("gold_new", ())
        ),
    )


def count(judged: JudgedGroup, tally: Tally) -> None:
    """Adds a group to a tally.

    Args:
        judged: The group.
        tally: Changed in place.
    """
    mispenalized = judged.is_mispenalized
    tally.num_groups += 1
    tally.num_trajectories += len(judged.group)
    tally.num_searches += int(judged.is_search.sum())
    tally.num_correct += int(judged.is_correct.sum())
    tally.num_punished += int(mispenalized.sum())
    tally.grpo_penalty -= float(judged.grpo[mispenalized].sum())
    tally.calibadv_penalty -= float(judged.calibadv[mispenalized].sum())
    for row, column in np.argwhere(mispenalized):
        tally.verdicts[judged.verdict(int(row), int(column)) or "punished"] += 1


def _title_end(text: str) -> int:
    """Position of the bracket that closes a title, which may hold brackets itself."""
    depth = 1
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
        if character == "\n":
            break
    return text.find(")")


def split_passages(observation: str, num_passages: int) -> list[tuple[str, str]]:
    """Takes an information block apart, for display only.

    Args:
        observation: Text with ``Doc 1(Title: …) …`` and so on, one passage after the other.
        num_passages: How many passages the environment reported.

    Returns:
        Title and text of the passages in rank order; fewer than reported where the block was
        cut, none where it has another form.
    """
    body = observation.rpartition(_CLOSING_TAG)[0] or observation
    starts = []
    position = 0
    for rank in range(1, num_passages + 1):
        found = re.compile(rf"(?:^|(?<=[\n>]))Doc {rank}\(Title: ").search(body, position)
        if found is None:
            break
        starts.append(found.span())
        position = found.end()
    passages = []
    for i, (_, start) in enumerate(starts):
        end = starts[i + 1][0] if i + 1 < len(starts) else len(body)
        part = body[start:end]
        bracket = _title_end(part)
        title, text = (part[:bracket], part[bracket + 1 :]) if bracket >= 0 else (part, "")
        passages.append((title.strip(), text.strip()))
    return passages


def shorten(text: str, max_chars: int) -> str:
    """Cuts a long text and says how much is missing.

    Args:
        text: Any text.
        max_chars: Most characters to keep.

    Returns:
        The text, or its beginning and a remark.
    """
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} … ({len(text) - max_chars} more characters)"


def _passage_views(judged: JudgedGroup, turn: Turn) -> tuple[PassageView, ...]:
    ids = [str(passage) for passage in turn.info.get("passage_ids", ())]
    shown = split_passages(turn.observation_text, len(ids))
    views = []
    for i, passage_id in enumerate(ids):
        title, text = shown[i] if i < len(shown) else ("", None)
        views.append(
            PassageView(
                id=passage_id,
                title=shorten(title, MAX_PASSAGE_CHARS),
                text=None if text is None else shorten(text, MAX_PASSAGE_CHARS),
                is_gold=passage_id in judged.gold_passages,
                is_silver=passage_id in judged.silver_passages,
            )
        )
    return tuple(views)


def _turn_view(judged: JudgedGroup, row: int, column: int) -> TurnView:
    turn = judged.group.trajectories[row].turns[column]
    kind = str(turn.info.get("action", "turn"))
    named = {"search": turn.info.get("query"), "answer": turn.info.get("answer")}.get(kind)
    passages = _passage_views(judged, turn)
    is_split = bool(passages) and passages[0].text is not None
    silver = float(judged.silver[row, column])
    return TurnView(
        kind=kind,
        think=shorten(str(turn.info.get("think") or ""), MAX_THINK_CHARS),
        body=shorten(turn.action_text if named is None else str(named), MAX_THINK_CHARS),
        passages=passages,
        observation="" if is_split else shorten(turn.observation_text.strip(), MAX_THINK_CHARS),
        grpo=float(judged.grpo[row, column]),
        calibadv=float(judged.calibadv[row, column]),
        silver=None if math.isnan(silver) else silver,
        is_gold_hit=bool(judged.is_gold_hit[row, column]),
        verdict=judged.verdict(row, column),
    )


def view(judged: JudgedGroup, *, arm: str, seed: int) -> GroupView:
    """Turns a judged group into what the page shows.

    Args:
        judged: The group.
        arm: Arm that sampled it.
        seed: Seed of the run.

    Returns:
        The view; long texts are shortened.
    """
    first = judged.group.trajectories[0]
    trajectories = []
    for row, trajectory in enumerate(judged.group.trajectories):
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
                    _turn_view(judged, row, column) for column in range(len(trajectory.turns))
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
        num_mispenalized=int(judged.is_mispenalized.sum()),
        trajectories=tuple(trajectories),
    )


_RECORD_FIELDS: Final[frozenset[str]] = frozenset(f.name for f in fields(Trajectory))
_TURN_FIELDS: Final[frozenset[str]] = frozenset(f.name for f in fields(Turn))


def _lean_record(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is not shown: token ids (only their number matters) and additions."""
    record = {key: item for key, item in value.items() if key in _RECORD_FIELDS}
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


def iterate_groups(path: Path) -> Iterator[Group]:
    """Reads the groups of one file of trajectory records.

    Args:
        path: One trajectory a line as ``rollout/records.py`` writes it, in any order; fields that
            it does not know, such as the advantages used in training, are passed over.

    Yields:
        The groups in order of their first trajectory. Token ids are replaced by zeros.

    Raises:
        ReportError: naming file and line, if a line is not a trajectory.
    """
    groups: dict[str, list[Trajectory]] = {}
    for number, value in iterate_json_lines(path):
        try:
            trajectory = trajectory_from_json(json.dumps(_lean_record(value)))
        except KeyError as error:
            raise ReportError(f"{path}:{number}: the record lacks {error.args[0]}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ReportError(f"{path}:{number}: not a trajectory record: {error}") from error
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    for trajectories in groups.values():
        yield Group(tuple(trajectories))


def _interest(judged: JudgedGroup) -> tuple[int, int, int]:
    """Sorts groups: a punished correct search first, then differing rewards, then length."""
    rewards = {trajectory.reward for trajectory in judged.group.trajectories}
    return (int(judged.is_mispenalized.sum()), len(rewards), judged.group.max_turns)


def _best_by_update(run: Run, tally: Tally) -> dict[int, list[JudgedGroup]]:
    best: dict[int, list[JudgedGroup]] = {}
    for path in sorted((run.directory / "trajectories").glob("*.jsonl")):
        for group in iterate_groups(path):
            judged = judge(group)
            count(judged, tally)
            kept = best.setdefault(group.trajectories[0].policy_version, [])
            kept.append(judged)
            kept.sort(key=_interest, reverse=True)
            del kept[_KEPT_AN_UPDATE:]
    return best


def spread_out(updates: Iterable[int], num_wanted: int) -> list[int]:
    """Picks updates evenly, the first and the last included.

    Args:
        updates: Any distinct updates.
        num_wanted: How many to pick at most.

    Returns:
        Ascending.
    """
    ordered = sorted(updates)
    if len(ordered) <= num_wanted:
        return ordered
    positions = np.linspace(0, len(ordered) - 1, num_wanted).round().astype(int)
    return [ordered[i] for i in dict.fromkeys(positions.tolist())]


def _pick(run: Run, best: Mapping[int, Sequence[JudgedGroup]], num_wanted: int) -> list[GroupView]:
    updates = spread_out(best, num_wanted)
    picked = [
        best[update][rank]
        for rank in range(_KEPT_AN_UPDATE)
        for update in updates
        if rank < len(best[update])
    ]
    views = [view(judged, arm=run.arm, seed=run.seed) for judged in picked[:num_wanted]]
    return sorted(views, key=lambda group: group.update)


def select_groups(comparison: Comparison, *, max_groups: int = 40) -> tuple[list[GroupView], Tally]:
    """Chooses the groups for the page, and counts over all of them.

    Every run gets the same share, spread evenly over its updates; of the groups of an update
    those with the most punished correct searches come first.

    Args:
        comparison: The comparison.
        max_groups: Most groups to choose, at least 1.

    Returns:
        The chosen groups by run and update, and the tally of all recorded groups.

    Raises:
        ReportError: if a record cannot be read.
        ValueError: if ``max_groups`` is not positive.
    """
    if max_groups < 1:
        raise ValueError(f"max_groups must be positive, got {max_groups}")
    tally = Tally()
    share = max(1, max_groups // len(comparison.runs))
    chosen: list[GroupView] = []
    for run in comparison.runs:
        chosen += _pick(run, _best_by_update(run, tally), share)
    return chosen[:max_groups], tally
