"""Evaluation: every task once, greedy, one record a question."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibadv_algo.learner.ranks import Ranks, SingleRank
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.training.collection import play_shared
from calibadv_algo.training.confidence import AnswerScorer, stated_confidence
from calibadv_algo.types import Trajectory
from calibadv_env.common.files import atomic_file, naming
from calibadv_env.protocol.answers import character_f1, official_f1
from calibadv_env.protocol.cmrc import cmrc_f1, has_han
from calibadv_env.protocol.normalizing import needs_unicode

_SHUFFLE_SEED = 20_260_418
_SCORES = ("em", "f1", "cover_em")
_EVAL = "eval"

TokenCounter = Callable[[Trajectory], int | None]
"""Number of tokens that a policy wrote in an episode, None if nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """Outcome of one question.

    A score that the environment does not know is None; an episode that was cut off before its
    end, because the context was full, has the score 0.

    Attributes:
        update: Number of updates behind the policy.
        split: Split of the task; where "eval" was asked for, the one that it stands for.
        task_id: The task.
        hops: Reasoning steps that it takes, 0 where unknown.
        reward: Undiscounted return.
        em: Exact match, 0 or 1.
        f1: Token F1, 0 to 1.
        cover_em: Whether an accepted answer is contained in the answer.
        num_searches: Searches carried out.
        is_format_valid: Whether the whole response is well-formed.
        num_turns: Turns of the episode.
        num_action_tokens: Tokens that the policy wrote, None if the engine does not count them.
        is_truncated: Whether the budget ran out.
        answer: The answer, where there is one.
        seed: Seed of the episode's sampling.
        num_cut_turns: Turns that the token limit of a turn cut off.
        f1_official: F1 by the rule of HotpotQA for yes and no, None without accepted answers.
        f1_characters: F1 of characters, as DRCD and KorQuAD count it; None unless an accepted
            answer is in a script without spaces or with vowel signs.
        f1_cmrc: F1 of the longest common run, as CMRC 2018 counts it; None unless an accepted
            answer holds a Chinese character.
        cluster: Name of what questions hang together by, "" where the environment names none.
        gold_recall: Share of the task's hops whose gold evidence the episode found, None where the
            task names no gold passages.
        answer_probability: Probability that the policy gave this answer, None without an answer
            or where the engine has no log-probabilities.
        stated_confidence: Confidence that the policy wrote beside its answer, None without one.
    """

    update: int
    split: str
    task_id: str
    hops: int
    reward: float
    em: float | None
    f1: float | None
    cover_em: float | None
    num_searches: int
    is_format_valid: bool | None
    num_turns: int
    num_action_tokens: int | None
    is_truncated: bool
    answer: str | None
    seed: int
    num_cut_turns: int = 0
    f1_official: float | None = None
    f1_characters: float | None = None
    f1_cmrc: float | None = None
    cluster: str = ""
    gold_recall: float | None = None
    answer_probability: float | None = None
    stated_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Result of `evaluate`.

    Attributes:
        records: One a question that was played, in the order of the tasks.
        trajectories: The episodes, in the same order.
        num_dropped: Questions that were not played because of a machine's failure.
    """

    records: tuple[EvalRecord, ...]
    trajectories: tuple[Trajectory, ...]
    num_dropped: int


def evaluate(
    player: Player,
    task_indices: Sequence[int],
    *,
    update: int = 0,
    split: str = "dev",
    seed: int = 0,
    count_tokens: TokenCounter | None = None,
    score_answer: AnswerScorer | None = None,
    ranks: Ranks | None = None,
) -> EvalResult:
    """Plays one episode of each task.

    Args:
        player: Environments of the split, the policy, and how to sample: temperature 0 for the
            usual greedy evaluation.
        task_indices: Which tasks.
        update: Number of updates behind the policy, for the records.
        split: Name of the split, for the records; "eval" gives way to what ``reset`` reports.
        seed: Seed of every episode's sampling; without effect when greedy.
        count_tokens: As in :func:`to_record`.
        score_answer: As in :func:`to_record`.
        ranks: Processes that share the tasks; None means this one alone.

    Returns:
        One record and one trajectory a task.

    Raises:
        RolloutError: if every episode failed.
    """
    specs = [
        EpisodeSpec(task_index=index, group_id=f"{split}-{update}-{place}", seed=seed)
        for place, index in enumerate(task_indices)
    ]
    batch = play_shared(player, specs, ranks or SingleRank(), policy_version=update)
    records = tuple(
        to_record(
            each,
            update=update,
            split=split,
            count_tokens=count_tokens,
            score_answer=score_answer,
        )
        for each in batch.trajectories
    )
    return EvalResult(records, batch.trajectories, len(specs) - len(records))


def eval_task_indices(num_tasks: int, num_episodes: int) -> list[int]:
    """Chooses the tasks of an evaluation: the same ones at every update, arm and seed.

    Args:
        num_tasks: Size of the split.
        num_episodes: How many are wanted.

    Returns:
        The first ``num_episodes`` of a fixed shuffle; all tasks if there are fewer.
    """
    order = np.random.Generator(np.random.PCG64(_SHUFFLE_SEED)).permutation(num_tasks)
    return [int(index) for index in order[:num_episodes]]


def to_record(
    trajectory: Trajectory,
    *,
    update: int,
    split: str,
    count_tokens: TokenCounter | None = None,
    score_answer: AnswerScorer | None = None,
) -> EvalRecord:
    """Reads the facts of an episode off its infos.

    Args:
        trajectory: The episode.
        update: Number of updates behind the policy.
        split: The split that was asked for; "eval" gives way to what ``reset`` reports.
        count_tokens: Counts what the policy wrote; None counts its token ids.
        score_answer: Probability of the answer; None leaves it unknown.

    Returns:
        The record.
    """
    info = trajectory.final_info
    is_cut_off = not trajectory.is_terminated and "f1" not in info and "num_searches" in info
    missing = 0.0 if is_cut_off else None
    em, f1, cover_em = (_number(info, name, missing) for name in _SCORES)
    is_valid = info.get("is_format_valid", False if is_cut_off else None)
    if split == _EVAL:
        split = str(trajectory.reset_info.get("split", split))
    num_tokens = count_tokens(trajectory) if count_tokens else trajectory.num_action_tokens
    return EvalRecord(
        update=update,
        split=split,
        task_id=trajectory.task_id,
        hops=int(trajectory.reset_info.get("hops", 0)),
        reward=trajectory.reward,
        em=em,
        f1=f1,
        cover_em=cover_em,
        num_searches=int(info.get("num_searches", 0)),
        is_format_valid=None if is_valid is None else bool(is_valid),
        num_turns=len(trajectory.turns),
        num_action_tokens=num_tokens,
        is_truncated=trajectory.is_truncated,
        answer=info.get("answer"),
        seed=trajectory.seed,
        num_cut_turns=sum(turn.is_cut for turn in trajectory.turns),
        f1_official=_official_f1(trajectory, f1),
        f1_characters=_character_f1(trajectory, f1),
        f1_cmrc=_cmrc_f1(trajectory, f1),
        cluster=str(trajectory.reset_info.get("cluster", "")),
        gold_recall=_gold_recall(trajectory),
        answer_probability=score_answer(trajectory) if score_answer else None,
        stated_confidence=stated_confidence(trajectory),
    )


def summarize(records: Sequence[EvalRecord]) -> dict[str, float]:
    """Averages records.

    Args:
        records: At least one.

    Returns:
        Means by name (``em``, ``f1``, ``f1_official``, ``f1_characters``, ``f1_cmrc``,
        ``cover_em``, ``reward``, ``searches``, ``format_valid``, ``turns``, ``truncated``,
        ``gold_recall``) as far as they are known, and ``f1_hops_2`` and the like for each number
        of hops.

    Raises:
        ValueError: if there are no records.
    """
    if not records:
        raise ValueError("records must not be empty")
    columns: Mapping[str, list[float | None]] = {
        "em": [record.em for record in records],
        "f1": [record.f1 for record in records],
        "f1_official": [record.f1_official for record in records],
        "f1_characters": [record.f1_characters for record in records],
        "f1_cmrc": [record.f1_cmrc for record in records],
        "cover_em": [record.cover_em for record in records],
        "reward": [record.reward for record in records],
        "searches": [float(record.num_searches) for record in records],
        "format_valid": [_as_number(record.is_format_valid) for record in records],
        "turns": [float(record.num_turns) for record in records],
        "truncated": [float(record.is_truncated) for record in records],
        "gold_recall": [record.gold_recall for record in records],
    }
    summary = {name: _mean(values) for name, values in columns.items()}
    for hops in sorted({record.hops for record in records} - {0}):
        chosen = [record for record in records if record.hops == hops]
        summary[f"f1_hops_{hops}"] = _mean([record.f1 for record in chosen])
        summary[f"searches_hops_{hops}"] = _mean([float(r.num_searches) for r in chosen])
    return {name: value for name, value in summary.items() if not math.isnan(value)}


def append_records(file: Path, records: Sequence[EvalRecord]) -> None:
    """Adds records to a file, one line of JSON each, without their missing values.

    Args:
        file: Made with its folder if need be.
        records: What to add.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), file.open("a", encoding="utf-8") as stream:
        stream.write("".join(map(record_to_json, records)))
        stream.flush()
        os.fsync(stream.fileno())


def write_records(file: Path, records: Sequence[EvalRecord]) -> None:
    """Puts records in place of a file, one line of JSON each, at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), atomic_file(file) as stream:
        stream.write("".join(map(record_to_json, records)))


def record_to_json(record: EvalRecord) -> str:
    """A record as one line of JSON with its line break, without its missing values."""
    row = {name: value for name, value in asdict(record).items() if value is not None}
    return json.dumps(row, ensure_ascii=False) + "\n"


def record_from_json(line: str) -> EvalRecord:
    """Reads what :func:`record_to_json` wrote: an equal record.

    Raises:
        ValueError: if the line is no JSON object or has other keys than a record.
    """
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("line must be a JSON object")
    missing = dict.fromkeys(name for name in _OPTIONAL if name not in row)
    try:
        return EvalRecord(**{**missing, **row})
    except TypeError as error:
        raise ValueError(f"line must be an evaluation record: {error}") from error


_OPTIONAL = ("em", "f1", "cover_em", "is_format_valid", "num_action_tokens", "answer")


def _number(info: Mapping[str, Any], name: str, missing: float | None) -> float | None:
    """A number of an info, or what stands for a missing one."""
    value = info.get(name)
    return missing if value is None else float(value)


def _official_f1(trajectory: Trajectory, f1: float | None) -> float | None:
    """F1 by HotpotQA's rule, 0 where F1 is; None where F1 or the accepted answers are unknown."""
    accepted = trajectory.reset_info.get("golden_answers")
    if f1 is None or accepted is None:
        return None
    answer = trajectory.final_info.get("answer")
    normalizer = trajectory.reset_info.get("normalizer", "squad")
    return official_f1(str(answer), accepted, normalizer) if f1 and answer is not None else 0.0


def _character_f1(trajectory: Trajectory, f1: float | None) -> float | None:
    """F1 of characters; None where they are not what the field counts, or F1 is unknown."""
    accepted = trajectory.reset_info.get("golden_answers") or ()
    if f1 is None or not any(map(needs_unicode, accepted)):
        return None
    answer = trajectory.final_info.get("answer")
    return 0.0 if answer is None else character_f1(str(answer), accepted)


def _cmrc_f1(trajectory: Trajectory, f1: float | None) -> float | None:
    """F1 of CMRC 2018; None where no accepted answer is Chinese, or F1 is unknown."""
    accepted = trajectory.reset_info.get("golden_answers") or ()
    if f1 is None or not any(map(has_han, accepted)):
        return None
    answer = trajectory.final_info.get("answer")
    return 0.0 if answer is None else cmrc_f1(str(answer), accepted)


def _gold_recall(trajectory: Trajectory) -> float | None:
    """Gold recall as the latest turn tells it, None where the task names no gold passages."""
    for turn in reversed(trajectory.turns):
        recall = turn.info.get("gold_recall")
        if recall is not None:
            return None if math.isnan(recall) else float(recall)
    return None


def _as_number(value: bool | None) -> float | None:
    """A flag as 0 or 1."""
    return None if value is None else float(value)


def _mean(values: Sequence[float | None]) -> float:
    """Mean of what is known, NaN if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
