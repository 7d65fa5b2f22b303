"""Checks the formulas against vectors that the authors' own code produced.

A file holds vectors; a vector holds trajectories of one batch, the settings, and the values
that the original computed from them: the correctness of every turn, GRPO's advantages, those
after the soft penalty and those after the rebalancing. Vectors whose settings are not
implemented are named with the reason and never counted as agreeing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import group_rewards, last_turns, spread, token_counts
from calibadv_algo.advantages.calibadv import rebalance_answers, soft_penalty
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.advantages.variants import (
    AGGRESSIVE_FROM,
    aggressive_penalty,
    clip_negatives,
    drop_solved_turns,
    is_risky,
    lifting_penalty,
    rebalance_pool,
    search_pools,
)
from calibadv_algo.credit import silver_correctness
from calibadv_algo.types import Group, Trajectory, Turn

DEFAULT_TOLERANCE: Final = 1e-5
"""Largest absolute difference that counts as agreement; the vectors are single precision."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorResult:
    """How one vector fared.

    Attributes:
        name: Its name.
        switches: Its settings where they are not the default, as ``name=value``, sorted.
        differences: Largest absolute difference of each compared quantity; infinite where
            one side has a score and the other has none. Empty if it was not compared.
        unsupported: Why it was not compared; None if it was.
        note: A defect of the original that was repeated for the comparison; None if none was.
    """

    name: str
    switches: str
    differences: Mapping[str, float]
    unsupported: str | None = None
    note: str | None = None

    @property
    def worst(self) -> float:
        """Largest difference, 0 if it was not compared."""
        return max(self.differences.values(), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceReport:
    """How all vectors of a file fared.

    Attributes:
        path: The file.
        tolerance: Largest difference that counts as agreement.
        results: One a vector, in the file's order.
    """

    path: str
    tolerance: float
    results: tuple[VectorResult, ...]

    @property
    def num_vectors(self) -> int:
        """Vectors in the file."""
        return len(self.results)

    @property
    def num_compared(self) -> int:
        """Vectors whose settings are implemented."""
        return sum(result.unsupported is None for result in self.results)

    @property
    def num_agreed(self) -> int:
        """Vectors that were compared and agree within the tolerance."""
        return sum(self.agrees(result) for result in self.results)

    @property
    def worst_difference(self) -> float:
        """Largest difference over all compared vectors, 0 if there is none."""
        return max((result.worst for result in self.results), default=0.0)

    @property
    def is_conformant(self) -> bool:
        """Whether every compared vector agrees and at least one was compared."""
        return 0 < self.num_compared == self.num_agreed

    def agrees(self, result: VectorResult) -> bool:
        """Tells whether a vector was compared and agrees."""
        return result.unsupported is None and result.worst <= self.tolerance

    def by_switches(self) -> dict[str, tuple[VectorResult, ...]]:
        """Groups the results by their settings, default settings first, then by name."""
        names = sorted({result.switches for result in self.results}, key=lambda name: (name, ""))
        return {
            name: tuple(result for result in self.results if result.switches == name)
            for name in names
        }


def run_conformance(path: str | Path, tolerance: float = DEFAULT_TOLERANCE) -> ConformanceReport:
    """Runs the library on every vector of a file.

    Args:
        path: A JSON file with a list ``vectors``.
        tolerance: Largest absolute difference that counts as agreement, not negative.

    Returns:
        The report.

    Raises:
        ValueError: if the file is not in the format; it names the file and the vector.
        OSError: if it cannot be read.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    try:
        vectors = json.loads(Path(path).read_text(encoding="utf-8"))["vectors"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} must be a JSON object with a list 'vectors': {error}") from error
    results = []
    for index, vector in enumerate(vectors):
        try:
            results.append(check_vector(vector))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: vector {index} is not in the format: {error!r}") from error
    return ConformanceReport(path=str(path), tolerance=tolerance, results=tuple(results))


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
        key: _worst_difference([entry[key] for entry in expected], values)
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


def format_report(report: ConformanceReport) -> str:
    """Writes a report as plain text, default settings first.

    Args:
        report: What :func:`run_conformance` returned.

    Returns:
        Lines for a terminal, without a final newline.
    """
    lines = [
        f"{report.path}: {report.num_agreed} of {report.num_compared} compared vectors agree "
        f"within {report.tolerance:g} (worst difference {report.worst_difference:.2g}); "
        f"{report.num_vectors - report.num_compared} unsupported"
    ]
    for switches, results in report.by_switches().items():
        compared = [result for result in results if result.unsupported is None]
        agreed = sum(report.agrees(result) for result in compared)
        worst = max((result.worst for result in compared), default=0.0)
        name = switches or "default switches"
        if compared:
            lines.append(f"  {agreed}/{len(compared)}  worst {worst:.2g}  {name}")
        lines += [
            f"  unsupported  {result.name}: {result.unsupported}"
            for result in results
            if result.unsupported is not None
        ]
        lines += [
            f"    note  {result.name}: compared {result.note}"
            for result in compared
            if result.note is not None
        ]
        lines += [
            f"    differs  {result.name}: "
            + ", ".join(f"{key} {value:.2g}" for key, value in result.differences.items())
            for result in compared
            if not report.agrees(result)
        ]
    return "\n".join(lines)


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
        spared[here] = _spare(plain, scores, switches)
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
    turns = []
    kinds = entry["turn_kinds"]
    for index, kind in enumerate(kinds):
        num_tokens = entry["turn_token_lengths"][index]
        is_last = index == len(kinds) - 1
        info = {
            "action": kind,
            "think": entry["think"][index] or "",
            "passage_ids": tuple(entry["doc_ids"][index] or ()),
            "is_format_valid": entry["format_ok"],
        }
        turns.append(
            Turn(
                action_ids=(0,) * num_tokens,
                action_text="",
                logprobs=(0.0,) * num_tokens,
                reward=_reward(entry) if is_last else 0.0,
                info=info,
            )
        )
    return Trajectory(
        group_id=entry["uid"],
        task_id=entry["uid"],
        prompt_ids=(),
        prompt_text="",
        turns=tuple(turns),
    )


def _reward(entry: Mapping[str, Any]) -> float:
    """Reads the reward, in double precision where the vector has it.

    The original compares double-precision scores with the threshold and with one another,
    and stores them in single precision for the advantages.
    """
    stored, raw = float(entry["answer_reward"]), float(entry["answer_score_raw"])
    return raw if math.isclose(raw, stored, rel_tol=1e-6, abs_tol=1e-9) else stored


def _spare(advantages: Matrix, correctness: Matrix, switches: Mapping[str, Any]) -> Matrix:
    """Applies the soft penalty that the settings ask for to one group."""
    is_lifting = switches["softpenalty_positive_upper_limit"]
    if switches["aggressive_softpenalty"]:
        spared = aggressive_penalty(advantages, correctness, lifting=is_lifting)
    elif is_lifting:
        spared = lifting_penalty(advantages, correctness)
    else:
        spared = soft_penalty(advantages, correctness)
    if switches["reset2zero"]:
        # Whether a trajectory is positive is told by its advantage before the penalty.
        return np.where(advantages > 0, drop_solved_turns(advantages, correctness), spared)
    return spared


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
    if not switches["enable"]:
        return advantages
    ratio = switches["target_ratio"]
    if switches["clip"]:
        return clip_negatives(advantages, counts, ratio)
    balance = _BALANCERS[_mode(switches)]
    if not switches["in_group"]:
        return balance(advantages, counts, switches)
    balanced = advantages.copy()
    for rows in groups:
        balanced[rows] = balance(advantages[rows], counts[rows], switches)
    return balanced


def _mode(switches: Mapping[str, Any]) -> str:
    """Names the pools that are balanced; the first setting that is on wins."""
    if switches["only_answer"]:
        return "answer"
    return "turn" if switches["turn_level"] else "all"


def _balance_answers(advantages: Matrix, counts: Matrix, switches: Mapping[str, Any]) -> Matrix:
    """Balances the last turns of a group or of the batch."""
    last, ratio = last_turns(counts), switches["target_ratio"]
    if not switches["in_group"]:
        return rebalance_pool(
            advantages,
            counts,
            last,
            ratio,
            adjust_positive=switches["adjust_positive"],
            keep_lone_negative=switches["adjust_positive"],
        )
    if switches["only_apply_risky"] and not is_risky(advantages, counts, last, ratio):
        return advantages
    return rebalance_answers(advantages, counts, last, ratio, switches["adjust_positive"])


def _balance_turns(advantages: Matrix, counts: Matrix, switches: Mapping[str, Any]) -> Matrix:
    """Balances the searches of each index, and over a batch the last turns too."""
    ratio, is_positive = switches["target_ratio"], switches["adjust_positive"]
    is_group = switches["in_group"]
    # Within a group the original multiplies positives by the ratio where it divides elsewhere,
    # and its loop over segments ends before the last one.
    used = 1 / ratio if is_group and is_positive else ratio
    pools = [*search_pools(counts), *([] if is_group else [last_turns(counts)])]
    for pool in pools:
        if (
            is_group
            and switches["only_apply_risky"]
            and not is_risky(advantages, counts, pool, ratio)
        ):
            continue
        advantages = rebalance_pool(
            advantages,
            counts,
            pool,
            used,
            adjust_positive=is_positive,
            keep_lone_positive=not is_group and not is_positive,
        )
    return advantages


def _balance_all(advantages: Matrix, counts: Matrix, switches: Mapping[str, Any]) -> Matrix:
    """Balances all turns of a group or of the batch."""
    return rebalance_pool(
        advantages,
        counts,
        counts > 0,
        switches["target_ratio"],
        adjust_positive=switches["adjust_positive"],
        keep_lone_positive=switches["in_group"] and not switches["adjust_positive"],
    )


_BALANCERS: Final[Mapping[str, Callable[[Matrix, Matrix, Mapping[str, Any]], Matrix]]] = {
    "answer": _balance_answers,
    "turn": _balance_turns,
    "all": _balance_all,
}


def _worst_difference(
    expected: Sequence[Sequence[float | None]], computed: Sequence[Sequence[float]]
) -> float:
    """Compares two ragged tables; None stands for NaN."""
    worst = 0.0
    for expected_row, computed_row in zip(expected, computed, strict=True):
        for want, got in zip(expected_row, computed_row, strict=True):
            is_blank = want is None or math.isnan(want)
            if is_blank != math.isnan(got):
                return math.inf
            if not is_blank:
                worst = max(worst, abs(float(want or 0.0) - got))
    return worst
