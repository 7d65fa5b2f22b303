"""Fields of a log's records: by which names each fact is looked for, and in which forms it stands.

All readers of shapes go by these rules; a shape may put names of its own in front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from calibadv_algo.traces.base import Place, TraceError
from calibadv_env.protocol.literals import parse_literal

SCORE_KEYS: Final = ("score", "reward", "scores", "rewards")
"""Fields that must hold a number if they are there."""

OTHER_SCORE_KEYS: Final = (
    "final_reward", "total_reward", "outcome_reward", "episode_reward", "return", "metric_score",
    "is_correct", "correct", "judge_score", "judge_result", "judgement", "judgment", "verdict",
    "metrics", "Metrics", "acc", "accuracy", "em", "exact_match", "f1", "extra_info.score",
    "result.score", "eval.score", "evaluation",
    "success", "is_success", "passed", "outcome", "llm_judge", "judge", "llm_judge_score",
    "llm_score", "judge_correct", "reward_info", "result.reward", "feedback", "eval_result",
    "correctness", "outcome_score", "final_score", "episode_return", "cum_reward",
    "rm_score", "rm_scores", "is_right", "answer_correct", "is_answer_correct", "auto_judge",
    "em_score", "score_em", "f1_score", "score_f1", "llm_eval", "resolved", "solved", "eval_score",
    "evaluation_result", "label_correct", "info.reward", "info.score", "verifier_result.rewards",
    "extra_info.reward", "metadata.reward", "metadata.score", "feedback_stats",
    "test_result.result",
)  # fmt: skip
"""Fields that are taken if they hold a number, or a word such as "Correct"."""

METRICS: Final = (
    "score", "reward", "value", "total", "final", "overall", "em", "exact_match", "f1", "acc",
    "accuracy", "is_correct", "correct", "cover_em", "cem",
    "answer_exact", "answer_em", "exact", "em_score", "f1_score", "correctness", "judge",
    "is_valid_answer", "judgement", "grade", "avg",
)  # fmt: skip
"""The entry of an object of scores that is taken, the first that it has."""

ANSWER_KEYS: Final = (
    "golden_answers", "golden_answer", "ground_truth", "ground_truths", "gts", "gt", "answers",
    "target",
    "reward_model.ground_truth", "reward_spec.ground_truth", "env_extras.reward_spec.ground_truth",
    "extra_info.golden_answers", "extra_info.ground_truth", "extra_info.answer",
    "info.golden_answers", "info.answers", "expected_answer", "expected", "true_answer",
    "correct_answer", "gold_answer",
    "gold_answers", "gold", "reference_answer", "reference", "references", "label",
    "metadata.answer", "metadata.golden_answers", "item.answer", "task.answer",
    "task.ground_truth", "task.golden_answers", "item.ground_truth", "reference_outputs.answer",
    "inputs.answer", "info.task.answer", "gt_answer", "answer_list", "gold_label", "ref_answer",
    "reference_answers", "correct_answers", "possible_answers", "accepted_answers",
    "expected_output", "expected_answers", "solution", "answer",
)  # fmt: skip

STEP_KEYS: Final = ("step", "global_step", "global_steps", "training_step", "update")

GROUP_KEYS: Final = (
    "uid", "group_id", "group_uid", "prompt_id", "example_id", "question_id", "query_id", "qid",
    "task_id", "_ng_task_index", "sample_id", "problem_id", "index", "extra_info.index",
    "extra_info.question_id",
    "metadata.query_id", "id", "_id",
)  # fmt: skip
"""Fields that say which rollouts belong together, the most telling first."""

QUESTION_KEYS: Final = (
    "question", "Question", "extra_info.question", "info.question", "query", "problem",
    "metadata.question", "item.question", "task.question", "input_question",
    "original_question", "query_text", "inputs.question", "inputs.query", "inputs.input",
)  # fmt: skip

PREDICTION_KEYS: Final = (
    "prediction", "pred", "pred_ans", "pred_answer", "predicted_answer", "final_answer",
    "model_answer", "output.pred", "extracted_answer", "Pred_Answer",
)  # fmt: skip

_RIGHT: Final = frozenset(
    {"correct", "right", "true", "yes", "pass", "passed", "success", "c"} | {"successful", "solved"}
)
_WRONG: Final = frozenset(
    {"incorrect", "wrong", "false", "no", "fail", "failed", "failure", "i", "n", "not correct"}
    | {"not_attempted", "not attempted", "unsuccessful"}
)


def lookup(record: Mapping[str, Any], name: str) -> Any:
    """A field of a record by its dotted name; None where there is none."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def first_of(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of several fields that is there and not None."""
    return next((value for name in names if (value := lookup(record, name)) is not None), None)


# ---- Accepted answers ----------------------------------------------------------------------------

_INNER_ANSWERS: Final = (
    "target", "golden_answers", "ground_truth", "answers", "answer", "aliases", "text", "value",
)  # fmt: skip


def texts_of(value: Any) -> tuple[str, ...] | None:
    """Accepted answers in any of the forms in which they are logged; None if there are none.

    A text that is a list or an object written down (JSON, ``str()`` of a list or of an array) is
    taken for what it was.
    """
    if isinstance(value, Mapping):
        return texts_of(first_of(value, _INNER_ANSWERS))
    if isinstance(value, str):
        inner = parse_literal(value)
        if inner is not None and (found := texts_of(inner)) is not None:
            return found
        return (value,) if value.strip() else None
    if isinstance(value, Sequence):
        parts = [text for each in value for text in texts_of(each) or ()]
        return tuple(dict.fromkeys(parts)) or None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (str(value),) if is_number else None


def was_text(value: Any) -> bool:
    """True if accepted answers stood in a text that was a list or an object written down."""
    if isinstance(value, Mapping):
        return was_text(first_of(value, _INNER_ANSWERS))
    if isinstance(value, str):
        return parse_literal(value) is not None and texts_of(value) != (value,)
    return isinstance(value, Sequence) and any(was_text(each) for each in value)


# ---- Scores --------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """A score, None where there is none, and the field that it comes from."""

    value: float | None
    name: str


def number_of(value: Any, name: str, where: str) -> float | None:
    """A score as a number; None for None.

    Words such as "Correct" are 1 and 0, a list is the sum of its numbers (rewards of tokens or of
    turns), of an object of scores the first of :data:`METRICS` counts.

    Raises:
        TraceError: if it is something else, or not finite.
    """
    if value is None:
        return None
    scored = _score(value, name)
    if scored is None or scored.value is None or not math.isfinite(scored.value):
        is_object = isinstance(value, Mapping)
        shown = f"an object with {', '.join(map(str, value))}" if is_object else repr(value)
        raise TraceError(
            f"{where}: {name} must be a finite number, or a word such as Correct, got "
            f"{shown:.120}; --field score=NAME takes another field, --reward f1 computes it from "
            "the answers"
        )
    return scored.value


def score_of(record: Mapping[str, Any], place: Place, first: Sequence[str] = ()) -> Scored:
    """The score of a record, and the field that it comes from.

    Args:
        record: The record.
        place: Where it stands.
        first: Names to look for before the usual ones.

    Raises:
        TraceError: if a field that is a score by its name holds none.
    """
    given = place.fields.get("score")
    if given is not None:
        value = lookup(record, given)
        return Scored(number_of(value, f"the field {given}", place.where), given)
    for name in (*first, *SCORE_KEYS):
        value = lookup(record, name)
        if value is not None and value != [] and value != {}:
            number = number_of(value, "the score", place.where)
            found = _score(value, name)
            return Scored(number, found.name if found else name)
    for name in OTHER_SCORE_KEYS:
        found = _score(lookup(record, name), name)
        if found is not None and found.value is not None and math.isfinite(found.value):
            return found
    return Scored(None, "")


def _score(value: Any, name: str) -> Scored | None:
    if isinstance(value, bool | int | float):
        return Scored(_float(value), name)
    if isinstance(value, str):
        number = _word(value)
        return None if number is None else Scored(number, name)
    if isinstance(value, Mapping):
        for key in METRICS:
            found = _score(value.get(key), f"{name}.{key}")
            if found is not None:
                return found
        only = [(key, each) for key, each in value.items() if each is not None]
        return _score(only[0][1], f"{name}.{only[0][0]}") if len(only) == 1 else None
    if isinstance(value, list) and value:
        if all(isinstance(each, int | float) for each in value):
            return Scored(math.fsum(map(_float, value)), name)
        return _score(value[0], name) if len(value) == 1 else None
    return None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.nan


def _word(text: str) -> float | None:
    bare = text.strip().strip("*.\"'").strip().lower()
    if bare in _RIGHT or bare in _WRONG:
        return float(bare in _RIGHT)
    try:
        return float(bare)
    except ValueError:
        return None


# ---- What every shape has ------------------------------------------------------------------------


def group_fields(record: Mapping[str, Any], extra: str | None = None) -> dict[str, str]:
    """The fields of a record that may name its group."""
    names = (*GROUP_KEYS, extra) if extra else GROUP_KEYS
    found = {name: lookup(record, name) for name in names}
    return {name: str(value) for name, value in found.items() if isinstance(value, str | int)}


_CHAT_END: Final = re.compile(r"<\|im_end\|>|<\|eot_id\|>|\n\s*assistant\s*$|<\|im_start\|>")


def question_of(prompt: str) -> str:
    """The question in an instruction: what follows the last "Question:", else all of it."""
    head, marker, tail = prompt.rpartition("Question:")
    if not marker:
        return (prompt or head).strip()
    first = tail.strip().split("\n")[0]
    return _CHAT_END.split(first)[0].strip()


def step_of(record: Mapping[str, Any], default: int) -> int:
    """The update in which a record was made."""
    value = first_of(record, STEP_KEYS)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def has_step(record: Mapping[str, Any]) -> bool:
    """True if a record says in which update it was made."""
    return step_of(record, 0) == step_of(record, 1)


def question_in(record: Mapping[str, Any], place: Place) -> str | None:
    """The question as a field of its own; None where there is none."""
    given = place.fields.get("question")
    value = first_of(record, (given,) if given else QUESTION_KEYS)
    return value if isinstance(value, str) and value.strip() else None


def _counted_calls(record: Mapping[str, Any]) -> dict[str, int]:
    """Calls by the name of the tool, as BrowseComp-Plus counts them beside the steps."""
    counts = record.get("tool_call_counts")
    items = counts.items() if isinstance(counts, Mapping) else ()
    return {str(name): n for name, n in items if isinstance(n, int) and not isinstance(n, bool)}


def facts_of(
    record: Mapping[str, Any],
    place: Place,
    *,
    score_keys: Sequence[str] = (),
    answer_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """What a record says beside its turns, as arguments of :class:`LoggedEpisode`.

    Args:
        record: The record.
        place: Where it stands.
        score_keys: Names of the score in this shape, looked for before the usual ones.
        answer_keys: Names of the accepted answers in this shape.

    Raises:
        TraceError: if the score is no number.
    """
    given = place.fields.get("answers")
    names = (given,) if given else (*answer_keys, *ANSWER_KEYS)
    name = next((each for each in names if texts_of(lookup(record, each)) is not None), None)
    scored = score_of(record, place, score_keys)
    prediction = first_of(record, PREDICTION_KEYS)
    taken = {"answers": name, "score": scored.name or None}
    raw = lookup(record, name) if name else None
    return {
        "where": place.where,
        "answers": texts_of(raw) if name else None,
        "answers_were_text": bool(name) and was_text(raw),
        "counted_calls": _counted_calls(record),
        "reward": scored.value,
        "step": step_of(record, place.step),
        "has_step": has_step(record),
        "fields": group_fields(record, place.group_by),
        "prediction": prediction if isinstance(prediction, str) else "",
        "taken_from": {what: each for what, each in taken.items() if each},
    }
