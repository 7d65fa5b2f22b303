"""Makes trajectories of logged rollouts: the facts that credit needs, from what the log shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, Literal

from calibadv_algo.traces.base import LoggedEpisode, LoggedTurn, Rules, TraceError
from calibadv_algo.traces.grouping import LogFile
from calibadv_algo.traces.passages import name_passages
from calibadv_algo.traces.reading import ReadTurn, account_of, read_turns
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.info import PassageText
from calibadv_env.protocol.answers import contains_answer, grade_answer, searchable_answers

RewardSource = Literal["logged", "f1", "em", "cover_em"]
"""Where rewards come from: the log, or the answer compared with the accepted ones."""

Validity = Literal["turns", "answered"]
"""When the format counts as valid: every turn is a thought and an action and nothing else, as
in CalibAdv; or there was a search and an answer, whatever else was written."""

RE_ENCODED: Final = "re-encoded"
"""Mark of token counts that do not come from the log."""


def build_groups(
    log: LogFile, rules: Rules, *, reward: RewardSource = "logged", validity: Validity = "turns"
) -> list[Group]:
    """Groups of trajectories of a file, in order.

    The info of every turn holds ``action``, ``think``, ``query``, ``answer``, ``passage_ids``,
    ``passages``, ``turn``, ``num_searches``, ``num_passages_new``, ``num_passages_seen``,
    ``stop_reason`` and, where accepted answers are known, ``answer_in_passages``; that of the last
    one ``is_format_valid`` and, where they are known, ``em``, ``f1`` and ``cover_em``. Gold
    passages are unknown, so ``gold_new`` and ``gold_recall`` are missing. Log-probabilities that
    the log lacks are NaN.

    Raises:
        TraceError: naming file and line, if a rollout has no reward, or no accepted answers to
            compute it from.
    """
    return [
        _group(f"{log.path.parent.name}/{name}", episodes, log, rules, reward, validity)
        for name, episodes in log.groups.items()
    ]


def _group(
    group_id: str,
    episodes: Sequence[LoggedEpisode],
    log: LogFile,
    rules: Rules,
    reward: RewardSource,
    validity: Validity,
) -> Group:
    readings = [read_turns(episode, rules) for episode in episodes]
    passages = [[_texts(turn) for turn in read] for read in readings]
    names = iter(name_passages(found for row in passages for found in row))
    members = []
    for episode, read, found in zip(episodes, readings, passages, strict=True):
        ids = [next(names) for _ in found]
        infos = _infos(episode, read, found, ids, validity)
        earned = _reward(episode, infos[-1], reward)
        account = account_of(episode, read)
        members.append(_trajectory(group_id, episode, infos, earned, account, log, rules))
    return Group(tuple(members))


def _texts(turn: ReadTurn) -> list[PassageText]:
    return [(passage.title, passage.text) for passage in turn.passages]


def _infos(
    episode: LoggedEpisode,
    readings: Sequence[ReadTurn],
    passages: Sequence[Sequence[PassageText]],
    ids: Sequence[tuple[str, ...]],
    validity: Validity,
) -> list[dict[str, Any]]:
    infos: list[dict[str, Any]] = []
    seen: set[str] = set()
    num_searches = 0
    for number, (turn, read) in enumerate(zip(episode.turns, readings, strict=True)):
        distinct = set(ids[number])
        num_searches += read.kind == "search" and bool(turn.observation.strip())
        info: dict[str, Any] = {
            "turn": number + 1,
            "num_searches": num_searches,
            "action": read.kind,
            "think": read.think,
            "query": read.query,
            "answer": read.answer,
            "passage_ids": ids[number],
            "passages": tuple(passages[number]),
            "num_passages_new": len(distinct - seen),
            "num_passages_seen": len(distinct & seen),
            "stop_reason": None,
        }
        if episode.answers is not None:
            answers = searchable_answers(episode.answers, "auto")
            info["answer_in_passages"] = contains_answer(passages[number], answers)
        seen |= distinct
        infos.append(info)
    infos[-1] |= _end(episode, readings, num_searches, validity)
    return infos


def _end(
    episode: LoggedEpisode,
    readings: Sequence[ReadTurn],
    num_searches: int,
    validity: Validity,
) -> dict[str, Any]:
    """The facts that hold at the end of an episode."""
    last = readings[-1]
    reasons = {"answer": "answered", "malformed": "malformed"}
    is_clean = validity == "answered" or all(turn.is_sound for turn in readings)
    facts: dict[str, Any] = {
        "stop_reason": reasons.get(last.kind, "no_answer"),
        "is_format_valid": is_clean and num_searches > 0 and last.kind == "answer",
    }
    if episode.answers is not None:
        facts |= asdict(grade_answer(last.answer, episode.answers, "auto"))
    return facts


def _reward(episode: LoggedEpisode, info: Mapping[str, Any], source: RewardSource) -> float:
    if source == "logged":
        if episode.reward is None and episode.answers is None:
            raise TraceError(
                f"{episode.where}: has neither a score nor accepted answers to compute one from; "
                "--field score=NAME or answers=NAME names their fields. A file with a message on "
                'every line may have {"score": 1, "golden_answers": ["…"]} on one more line'
            )
        if episode.reward is None:
            raise TraceError(
                f"{episode.where}: has no score; have it computed from the answers with "
                "--reward f1, em or cover_em"
            )
        return episode.reward
    if episode.answers is None:
        raise TraceError(f"{episode.where}: has no accepted answers to compute {source} from")
    return float(info[source])


def _trajectory(
    group_id: str,
    episode: LoggedEpisode,
    infos: Sequence[Mapping[str, Any]],
    reward: float,
    account: Mapping[str, Any],
    log: LogFile,
    rules: Rules,
) -> Trajectory:
    last = len(infos) - 1
    is_logged = all(turn.action_ids for turn in episode.turns)
    turns = tuple(
        _turn(turn, info, reward if number == last else 0.0, rules, is_logged=is_logged)
        for number, (turn, info) in enumerate(zip(episode.turns, infos, strict=True))
    )
    task_id = group_id.split("/", 3)[-1]
    reset_info: dict[str, Any] = {
        "task_id": task_id,
        "question": episode.question,
        "source": {"format": episode.format, "where": episode.where, "grouped_by": log.grouped_by},
        "token_counts": "logged" if is_logged else RE_ENCODED,
        "understood": dict(account),
    }
    if not is_logged:
        reset_info["tokenizer"] = rules.tokenizer
    if episode.answers is not None:
        reset_info["golden_answers"] = episode.answers
    is_truncated = infos[-1]["stop_reason"] == "no_answer"
    return Trajectory(
        group_id=group_id,
        task_id=task_id,
        prompt_ids=tuple(rules.encode(episode.prompt)),
        prompt_text=episode.prompt,
        turns=turns,
        is_terminated=not is_truncated,
        is_truncated=is_truncated,
        reset_info=reset_info,
        policy_version=episode.step,
    )


def _turn(
    turn: LoggedTurn, info: Mapping[str, Any], reward: float, rules: Rules, *, is_logged: bool
) -> Turn:
    ids = turn.action_ids if is_logged else tuple(rules.encode(turn.text)) or (0,)
    has_logprobs = is_logged and len(turn.logprobs) == len(ids)
    return Turn(
        action_ids=ids,
        action_text=turn.text,
        logprobs=turn.logprobs if has_logprobs else (math.nan,) * len(ids),
        observation_ids=tuple(rules.encode(turn.observation)),
        observation_text=turn.observation,
        reward=reward,
        info=info,
    )


def rescale(trajectory: Trajectory, low: float, high: float) -> Trajectory:
    """The trajectory with its return, from ``low`` to ``high``, on the scale of 0 to 1.

    ``(reward - low) / (high - low)``; GRPO's advantages stay the same, but silver passages are
    those of rewards of at least 0.7 of this scale.

    Raises:
        ValueError: if the range is empty.
    """
    if not high > low:
        raise ValueError(f"reward_range must rise, got {low} to {high}")
    width = high - low
    turns = [replace(turn, reward=turn.reward / width) for turn in trajectory.turns]
    turns[-1] = replace(turns[-1], reward=turns[-1].reward - low / width)
    return replace(trajectory, turns=tuple(turns))
