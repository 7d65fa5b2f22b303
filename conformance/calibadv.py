"""Checks the formulas against vectors that the authors' own code produced.

A file of CalibAdv's vectors holds, for each, trajectories of one batch, the settings, and the
values that the original computed from them: the correctness of every turn, GRPO's advantages,
those after the soft penalty and those after the rebalancing. Vectors whose settings are not
implemented are named with the reason and never counted as agreeing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.ablations import CalibAdvVariant, Lone, Penalty, Pools, spare
from calibadv_algo.advantages.base import spread
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.advantages.variants import (
    AGGRESSIVE_FROM,
    clip_negatives,
    is_risky,
    rebalance_pool,
    search_pools,
)
from calibadv_algo.credit.silver import silver_correctness
from calibadv_algo.integrations.completions import trajectory_of
from calibadv_algo.types import Group, Trajectory, group_rewards, token_counts
from conformance.report import VectorResult, worst_difference

DEFAULT_SWITCHES: Final[Mapping[str, Any]] = {
    "query_score_calculator": "old",
    "reward_function": "f1",
    "answer_threshold": 0.7,
    "think_sim_threshold": 0.5,
    "doc_overlap_max": 1,
    "eps": 1e-6,
    "enable": True,
    "target_ratio": 1.0,
    "clip": False,
    "only_answer": True,
    "in_group": True,
    "turn_level": False,
    "softpenalty_first": True,
    "aggressive_softpenalty": False,
    "softpenalty_positive_upper_limit": False,
    "adjust_positive": True,
    "only_apply_risky": False,
    "reset2zero": False,
}
"""The paper's settings, by the names of the vectors' format."""

_UNREAD_SWITCHES: Final = frozenset(
    {"reward_function", "target_ratio_hard", "query_score_coef", "query_ans_level"}
)
"""Settings that the original never reads on this path; rewards stand in the vectors."""

_CUT_NOTE: Final = "with the original's cut of earlier turns to whole numbers"

Matrix = Float[np.ndarray, "trajectory turn"]


def check_vector(vector: Mapping[str, Any]) -> VectorResult:
    """Runs the library on one vector and compares all that it expects.

    Args:
        vector: One entry of the file.

    Returns:
        The differences, or the reason why the vector is not supported.
    """
    given = _flat_switches(vector["config"])
    switches = {**DEFAULT_SWITCHES, **given}
    label = ", ".join(
        f"{name}={value}"
        for name, value in sorted(given.items())
        if name not in DEFAULT_SWITCHES or DEFAULT_SWITCHES[name] != value
    )
    reason = unsupported_reason(switches)
    if reason is not None:
        return VectorResult(name=vector["name"], switches=label, differences={}, unsupported=reason)
    computed, note = _compute(vector["trajectories"], switches)
    expected = vector["expected"]
    if len(expected) != len(vector["trajectories"]):
        raise ValueError(f"expected must have {len(vector['trajectories'])} entries")
    differences = {
        key: worst_difference([entry[key] for entry in expected], values)
        for key, values in computed.items()
    }
    return VectorResult(name=vector["name"], switches=label, differences=differences, note=note)


def unsupported_reason(switches: Mapping[str, Any]) -> str | None:
    """Tells why a combination of settings is not implemented.

    Args:
        switches: All settings by name.

    Returns:
        The reason, None if the combination is implemented.
    """
    if switches["query_score_calculator"] not in ("old", "mean", "max"):
        return f"unknown calculator {switches['query_score_calculator']!r}"
    if not switches["softpenalty_first"]:
        return "softpenalty_first=False: the original crashes, so there is nothing to agree with"
    if switches["softpenalty_positive_upper_limit"] and switches["reset2zero"]:
        return (
            "softpenalty_positive_upper_limit with reset2zero: the original overwrites the "
            "group's best advantage while it is in use, so that the order of rows matters"
        )
    if switches["softpenalty_positive_upper_limit"] and (
        switches["clip"] or not switches["only_answer"]
    ):
        return (
            "softpenalty_positive_upper_limit with clip or balanced searches: the sign of "
            "searches lifted to 0 is left to the original's single-precision rounding"
        )
    if not switches["target_ratio"] > 0:
        return f"target_ratio must be positive, got {switches['target_ratio']}"
    for name, value in sorted(switches.items()):
        is_known = name in DEFAULT_SWITCHES or name in _UNREAD_SWITCHES
        if not is_known and value not in (False, None):
            return f"unknown switch {name}={value!r}"
    return None


def _flat_switches(config: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the outer settings with those nested under ``less_negative``."""
    outer = {name: value for name, value in config.items() if name != "less_negative"}
    return {**outer, **config.get("less_negative", {})}


def _compute(
    trajectories: Sequence[Mapping[str, Any]], switches: Mapping[str, Any]
) -> tuple[dict[str, list[Sequence[float]]], str | None]:
    """Computes what the vector expects, one list a trajectory, and a note on the original."""
    rows_of: dict[str, list[int]] = {}
    for row, entry in enumerate(trajectories):
        rows_of.setdefault(entry["uid"], []).append(row)
    width = max(len(entry["turn_kinds"]) for entry in trajectories)
    counts, correctness, base, spared = (
        np.full((len(trajectories), width), fill) for fill in (0.0, np.nan, 0.0, 0.0)
    )
    variant = variant_of(switches)
    for rows in rows_of.values():
        group = Group(tuple(_to_trajectory(trajectories[row]) for row in rows))
        here = np.ix_(rows, range(group.max_turns))
        group_counts = token_counts(group)
        scores = silver_correctness(
            group,
            switches["query_score_calculator"],
            switches["answer_threshold"],
            switches["think_sim_threshold"],
            switches["doc_overlap_max"],
        )
        plain = spread(
            group_normalized(group_rewards(group), epsilon=switches["eps"]), group_counts
        )
        counts[here], correctness[here], base[here] = group_counts, scores, plain
        spared[here] = spare(plain, scores, variant.penalty, variant.solved)
    spared, original = _cut_before_freed(base, spared, correctness, switches), spared
    groups = [np.array(rows) for rows in rows_of.values()]
    balanced = _balance(spared, counts, groups, switches)
    matrices = {
        "query_scores": correctness,
        "grpo_adv_per_turn": base,
        "adv_after_softpenalty_per_turn": spared,
        "adv_after_rebalance_per_turn": balanced,
    }
    lengths = [len(entry["turn_kinds"]) for entry in trajectories]
    values = {
        key: [row[:length].tolist() for row, length in zip(matrix, lengths, strict=True)]
        for key, matrix in matrices.items()
    }
    return values, None if np.array_equal(original, spared) else _CUT_NOTE


def _to_trajectory(entry: Mapping[str, Any]) -> Trajectory:
    """Builds the trajectory that a vector describes, with dummy tokens."""
    lengths, kinds = entry["turn_token_lengths"], entry["turn_kinds"]
    facts = [
        {
            "action": kind,
            "think": entry["think"][index] or "",
            "passage_ids": tuple(entry["doc_ids"][index] or ()),
            "is_format_valid": entry["format_ok"],
        }
        for index, kind in enumerate(kinds)
    ]
    spans = [(0, length) for length in lengths[: len(kinds)]]
    rewards = [*[0.0] * (len(kinds) - 1), _reward(entry)]
    return replace(trajectory_of(spans, facts, rewards), group_id=entry["uid"])


def _reward(entry: Mapping[str, Any]) -> float:
    """Reads the reward, in double precision where the vector has it.

    The original compares double-precision scores with the threshold and with one another,
    and stores them in single precision for the advantages.
    """
    stored, raw = float(entry["answer_reward"]), float(entry["answer_score_raw"])
    return raw if math.isclose(raw, stored, rel_tol=1e-6, abs_tol=1e-9) else stored


def variant_of(switches: Mapping[str, Any]) -> CalibAdvVariant:
    """Names the estimator that a combination of settings stands for.

    Args:
        switches: All settings by name; ``clip`` is not read.

    Returns:
        The estimator. Its balancing is the original's, but for turns within a group: there the
        original also takes ``target_ratio`` the other way round.
    """
    is_group, is_positive = switches["in_group"], switches["adjust_positive"]
    pools: Pools = "all"
    lone: Lone = "keep-positive" if is_group and not is_positive else "zero"
    if switches["only_answer"]:
        pools, lone = "answers", "keep-negative" if not is_group and is_positive else "zero"
    elif switches["turn_level"]:
        pools = "searches" if is_group else "turns"
        lone = "keep-positive" if not is_group and not is_positive else "zero"
    is_risky_read = switches["only_apply_risky"] and is_group and pools != "all"
    return CalibAdvVariant(
        epsilon=switches["eps"],
        penalty=_penalty(switches),
        solved="zero" if switches["reset2zero"] else "keep",
        pools=pools if switches["enable"] else "none",
        scope="group" if is_group else "batch",
        when="risky" if is_risky_read else "always",
        lone=lone,
        target_ratio=switches["target_ratio"],
        adjust_positive=is_positive,
    )


def _penalty(switches: Mapping[str, Any]) -> Penalty:
    """Names the way in which correct searches are spared."""
    if switches["aggressive_softpenalty"]:
        return (
            "aggressive-lifting" if switches["softpenalty_positive_upper_limit"] else "aggressive"
        )
    return "lifting" if switches["softpenalty_positive_upper_limit"] else "soft"


def _cut_before_freed(
    plain: Matrix, spared: Matrix, correctness: Matrix, switches: Mapping[str, Any]
) -> Matrix:
    """Repeats a defect of the original, so that all else can be compared.

    Where ``aggressive_softpenalty`` or ``reset2zero`` sets a search to 0, the original builds
    a vector of integers and copies the earlier turns into it, which cuts off their decimals.
    """
    freed = np.zeros(plain.shape, dtype=np.bool_)
    if switches["aggressive_softpenalty"]:
        freed |= (plain < 0) & (correctness >= AGGRESSIVE_FROM)
    if switches["reset2zero"]:
        freed |= (plain > 0) & (spared == 0)
    is_before = np.cumsum(freed[:, ::-1], axis=1)[:, ::-1] - freed > 0
    return np.where(is_before, np.trunc(spared), spared)


def _balance(
    advantages: Matrix,
    counts: Matrix,
    groups: Sequence[np.ndarray],
    switches: Mapping[str, Any],
) -> Matrix:
    """Applies the rebalancing that the settings ask for to a whole batch."""
    if switches["enable"] and switches["clip"]:
        return clip_negatives(advantages, counts, switches["target_ratio"])
    variant = variant_of(switches)
    if variant.scope == "batch":
        return variant.balanced(advantages, counts)
    balanced = advantages.copy()
    for rows in groups:
        if variant.pools == "searches":
            balanced[rows] = _balance_searches(advantages[rows], counts[rows], variant)
        else:
            balanced[rows] = variant.balanced(advantages[rows], counts[rows])
    return balanced


def _balance_searches(advantages: Matrix, counts: Matrix, variant: CalibAdvVariant) -> Matrix:
    """Balances the searches of one group as the original does.

    It multiplies positives by the ratio where it divides elsewhere; whether a pool is risky is
    told by the ratio as it is.
    """
    ratio = variant.target_ratio
    for pool in search_pools(counts):
        if variant.when == "risky" and not is_risky(advantages, counts, pool, ratio):
            continue
        advantages = rebalance_pool(
            advantages,
            counts,
            pool,
            1 / ratio if variant.adjust_positive else ratio,
            adjust_positive=variant.adjust_positive,
        )
    return advantages
