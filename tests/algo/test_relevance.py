"""Relevance of passages as credit and as reward: worked by hand, and with a real tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_algo.credit.base import SCORED_BAD
from calibadv_algo.credit.relevance import CrossEncoder, RelevanceCredit, WordOverlap
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.shaping.relevance import RelevanceReward
from calibadv_algo.types import Group, Trajectory, Turn

FACTS = {"question": "Where is Wau?", "golden_answers": ("South Sudan", "SSD")}


def search(*passages: tuple[str, str]) -> Turn:
    return turn("search", passages)


def turn(action: str, passages: tuple[tuple[str, str], ...] = (), reward: float = 0.0) -> Turn:
    return Turn(
        action_ids=(1,),
        action_text=action,
        logprobs=(0.0,),
        observation_text="what an environment prints",
        reward=reward,
        info={"action": action, "passages": passages},
    )


def trajectory(*turns: Turn, facts: dict[str, Any] = FACTS) -> Trajectory:
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1,),
        prompt_text="prompt",
        turns=turns,
        reset_info=facts,
    )


# Of the question's words (where is wau) the first search shows one in one passage and two in the
# other, of the answers nothing; the second shows none of the question's and half of an answer.
FIRST = search(("Wau", "A town."), ("Wau", "It is old."))
SECOND = search(("Sudan", "A country."))
GROUP = Group(
    (
        trajectory(FIRST, SECOND, turn("answer", reward=1.0)),
        trajectory(SECOND, turn("answer", reward=0.2)),
        trajectory(turn("answer", reward=0.5)),
    )
)
NAN = np.nan


@pytest.mark.parametrize(
    ("pooling", "mix", "expected"),
    [
        ("max", "half", [[1 / 3, 1 / 4, NAN], [1 / 4, NAN, NAN], [NAN] * 3]),
        ("mean", "half", [[1 / 4, 1 / 4, NAN], [1 / 4, NAN, NAN], [NAN] * 3]),
        ("max", "max", [[2 / 3, 1 / 2, NAN], [1 / 2, NAN, NAN], [NAN] * 3]),
        ("max", "linear", [[2 / 3, 1 / 2, NAN], [1 / 4, NAN, NAN], [NAN] * 3]),
    ],
)
def test_worked_by_hand(pooling: Any, mix: Any, expected: Sequence[Sequence[float]]) -> None:
    scores = RelevanceCredit(pooling=pooling, mix=mix)(GROUP)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_the_reward_is_mixed_and_stands_at_the_end() -> None:
    shaped = RelevanceReward(coef=0.4)(GROUP)
    rewards = [[each.reward for each in trajectory.turns] for trajectory in shaped.trajectories]
    first, second, third = 0.6 + 0.4 * (1 / 3 + 1 / 4) / 2, 0.6 * 0.2 + 0.4 / 4, 0.6 * 0.5
    assert rewards == [
        pytest.approx([0.0, 0.0, first]),
        pytest.approx([0.0, second]),
        pytest.approx([third]),
    ]


def test_a_search_that_found_nothing_is_bad() -> None:
    group = Group((trajectory(search(), turn("answer")),))
    assert RelevanceCredit()(group)[0, 0] == SCORED_BAD


def test_a_passage_without_text_counts_as_none() -> None:
    both = Group((trajectory(search(("", " "), ("Wau", "A town.")), turn("answer")),))
    one = Group((trajectory(search(("Wau", "A town.")), turn("answer")),))
    credit = RelevanceCredit(pooling="mean")
    np.testing.assert_equal(credit(both), credit(one))


def test_an_environment_without_passages_is_told_so() -> None:
    bare = replace(FIRST, info={"action": "search"})
    with pytest.raises(MissingInfoKeyError, match="'passages'"):
        RelevanceCredit()(Group((trajectory(bare, turn("answer")),)))


def test_a_search_at_the_end_of_an_episode_has_no_score() -> None:
    assert np.isnan(RelevanceCredit()(Group((trajectory(FIRST, FIRST),)))[0, 1])


@pytest.mark.parametrize("missing", ["question", "golden_answers"])
def test_what_reset_did_not_report_is_named(missing: str) -> None:
    facts = {key: value for key, value in FACTS.items() if key != missing}
    with pytest.raises(MissingInfoKeyError, match=missing):
        RelevanceCredit()(Group((trajectory(FIRST, turn("answer"), facts=facts),)))


def test_bad_settings_are_refused() -> None:
    for make in (
        lambda: RelevanceCredit(pooling="sum"),  # type: ignore[arg-type]
        lambda: RelevanceCredit(mix="both"),  # type: ignore[arg-type]
        lambda: RelevanceReward(coef=1.5),
        lambda: CrossEncoder(model="m", batch_size=0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()


@given(st.text(max_size=60), st.text(max_size=60))
def test_overlap_is_a_share_and_whole_for_a_text_in_itself(text: str, passage: str) -> None:
    alone, with_passage, with_itself = WordOverlap()([(text, ""), (text, passage), (text, text)])
    assert alone == 0.0
    assert 0.0 <= with_passage <= 1.0
    assert with_itself in (0.0, 1.0)
    assert (with_itself == 0.0) <= (with_passage == 0.0)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with one output, small enough to be made here."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wau", "sudan", "town", "where", "is"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_reranker_scores_pairs_the_same_in_any_batch(classifier: Path) -> None:
    pairs = [("where is wau", "town"), ("wau", "sudan is where wau is"), ("sudan", "wau")]
    together = CrossEncoder(model=str(classifier))(pairs)
    alone = CrossEncoder(model=str(classifier), batch_size=1)(pairs)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert together.shape == (3,)
    assert len(set(together.round(6))) == 3
    assert ((together > 0) & (together < 1)).all()
    assert CrossEncoder(model=str(classifier))([]).shape == (0,)
    scores = RelevanceCredit(scorer=CrossEncoder(model=str(classifier)))(GROUP)
    assert np.isfinite(scores[0, :2]).all()


def test_a_score_that_is_no_number_names_its_task() -> None:
    """NaN means that a search has no score; a scorer that fails must not pass for one."""

    class Broken(WordOverlap):
        def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            return np.full(len(pairs), np.nan)

    with pytest.raises(ValueError, match=r"scores of Broken must be finite.* for task 't'"):
        RelevanceCredit(scorer=Broken())(GROUP)
