"""R1-Searcher's two-stage reward: first learn to call the search, then to answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np

from calibadv_algo.credit.facts import fact, is_search, task_fact
from calibadv_algo.shaping.base import RewardShaping
from calibadv_algo.shaping.facts import outcome_only, well_formed_turns
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE
from calibadv_env.info import DOCUMENTS_CLOSE, DOCUMENTS_OPEN, QUERY_CLOSE, QUERY_OPEN
from calibadv_env.protocol.answers import token_f1
from calibadv_env.protocol.prompts import grammar_of

_WHO: Final = "R1SearcherReward"
_SPACED: Final = {ord(mark): " " for mark in string.punctuation + "‘’´`"}
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_CJK: Final = re.compile("[\u4e00-\u9fff]")
_VERDICTS: Final = ("yes", "no", "noanswer")


def normalize(text: str) -> str:
    """Reduces an answer to what counts.

    ``True`` and ``False`` become yes and no; then lower case, a space for each punctuation mark,
    no articles, single spaces.

    **Source:** R1-Searcher (arXiv 2503.05592), its reward servers.

    **Differs** from SQuAD's in that punctuation becomes a space: "U.S." is two words.
    """
    text = {"True": "yes", "False": "no"}.get(text, text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


def answer_f1(prediction: str, golden_answers: Sequence[str]) -> float:
    """Highest F1 of words under :func:`normalize`, 0 without accepted answers.

    A verdict agrees with none but itself.

    **Source:** R1-Searcher, its reward servers: where one side is yes, no or noanswer and the
    other is not the same, the score is 0.
    """
    return max((_one_f1(normalize(prediction), normalize(g)) for g in golden_answers), default=0.0)


def covers(prediction: str, golden_answers: Sequence[str]) -> bool:
    """True if all words of an accepted answer stand in the prediction, in any order.

    An accepted answer of which normalisation leaves nothing covers nothing.

    **Source:** R1-Searcher, the cover match of its first stage.
    """
    words = Counter(normalize(prediction).split())
    return any(
        bool(golden) and set(golden) <= set(words)
        for golden in (normalize(each).split() for each in golden_answers)
    )


def stage_one_reward(*, is_covered: bool, has_retrieval: bool, has_tags: bool) -> float:
    """Plus or minus 1 for the answer, half a point each for retrieval and for the tags.

    **Source:** the reward server of R1-Searcher's first stage as shipped. The paper describes
    the first stage as retrieval and format alone.

    Returns:
        One of -1, -0.5, 0, 1, 1.5, 2.
    """
    return (1.0 if is_covered else -1.0) + 0.5 * has_retrieval + 0.5 * has_tags


@dataclass(frozen=True, slots=True, kw_only=True)
class R1SearcherReward(RewardShaping):
    """The first-stage reward for some updates, then F1 minus a penalty for the format.

    A violation of the format is: search markup that is not used consistently, think or answer
    tags that are not exactly the required ones, Chinese characters in what the policy wrote and,
    where ``max_answer_words`` is set, a longer answer, one with search markup in it, or the word
    "assistant".

    **Source:** R1-Searcher (arXiv 2503.05592), its reward servers: penalty 1 and no limit on the
    answer for Llama, penalty 2 and 10 words for Qwen.

    **Differs:** markup is counted in what the policy wrote, turn by turn, and documents are known
    from the environment; the original counts seven markers in the whole text. Where the prompt
    teaches search tags in place of the markers, the tags are counted. The stage follows from the
    number of updates behind the policy that played; the original starts two runs.

    Attributes:
        stage_one_updates: Updates with the first-stage reward; 0 for none.
        penalty: What a violation costs in the second stage, not negative.
        max_answer_words: Longest answer, None for the rules of the Llama runs.
    """

    stage_one_updates: Annotated[int, NOT_NEGATIVE] = 0
    penalty: Annotated[float, NOT_NEGATIVE] = 2.0
    max_answer_words: Annotated[int | None, POSITIVE] = 10

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Actions, answers and passages."""
        return frozenset({"action", "answer", "passage_ids"})

    def __call__(self, group: Group) -> Group:
        """Group with this reward on each last turn."""
        return outcome_only(group, np.array([self._reward(each) for each in group.trajectories]))

    def _reward(self, trajectory: Trajectory) -> float:
        golden = task_fact(trajectory, "golden_answers", _WHO)
        answer = fact(trajectory.turns[-1], "answer", _WHO)
        if trajectory.policy_version < self.stage_one_updates:
            return stage_one_reward(
                is_covered=answer is not None and covers(answer, golden),
                has_retrieval=has_consistent_markup(trajectory)
                and any(is_search(turn, _WHO) for turn in trajectory.turns),
                has_tags=has_exact_tags(trajectory),
            )
        score = 0.0 if answer is None else answer_f1(answer, golden)
        return score - self.penalty * self._is_violated(trajectory, answer)

    def _is_violated(self, trajectory: Trajectory, answer: str | None) -> bool:
        written = "".join(turn.action_text for turn in trajectory.turns)
        if not (has_consistent_markup(trajectory) and has_exact_tags(trajectory)):
            return True
        if _CJK.search(written):
            return True
        if self.max_answer_words is None:
            return False
        answer = answer or ""
        is_long = len(answer.split()) > self.max_answer_words
        return is_long or "ssistant" in written or QUERY_OPEN in answer or "<search>" in answer


def has_consistent_markup(trajectory: Trajectory) -> bool:
    """True if search markup stands exactly where searches were carried out, in pairs.

    An episode needs the info keys ``action`` and ``passage_ids``; one without searches and without
    markup is consistent.
    """
    if grammar_of(trajectory.prompt_text) == "markers":
        opening, closing = QUERY_OPEN, QUERY_CLOSE
        foreign = DOCUMENTS_OPEN, DOCUMENTS_CLOSE
    else:
        opening, closing = "<search>", "</search>"
        foreign = "<information>", "</information>"
    for turn in trajectory.turns:
        expected = int(is_search(turn, _WHO))
        text = turn.action_text
        if text.count(opening) != expected or text.count(closing) != expected:
            return False
        if any(marker in text for marker in foreign):
            return False
    return True


def has_exact_tags(trajectory: Trajectory) -> bool:
    """True if think and answer tags are exactly the required ones.

    Under R1-Searcher's prompt, which opens the one thought itself: no ``<think>`` and one each of
    ``</think>``, ``<answer>`` and ``</answer>``. Under other prompts: every turn is well-formed and
    the last one answers.
    """
    if grammar_of(trajectory.prompt_text) == "tags":
        is_answer = trajectory.turns[-1].action_text.rstrip().endswith("</answer>")
        return is_answer and all(well_formed_turns(trajectory))
    written = "".join(turn.action_text for turn in trajectory.turns)
    counts = [written.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")]
    return counts == [0, 1, 1, 1]


def _one_f1(predicted: str, golden: str) -> float:
    if predicted != golden and (predicted in _VERDICTS or golden in _VERDICTS):
        return 0.0
    return token_f1(predicted.split(), golden.split())
