"""Advantages for rows that another trainer collected, without that trainer."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import pytest

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.gae import PpoGae
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.advantages.reinforce import ReinforcePlusPlus
from calibadv_algo.credit.labels import GoldCredit, NoCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.integrations import versions
from calibadv_algo.integrations.advantages import TurnAdvantages, with_total_reward
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.common.peers import require


def row(reward: float, *golds: bool, group: str = "own") -> Trajectory:
    """One search a value of ``golds``, then an answer."""
    infos: list[dict[str, Any]] = [
        {"action": "search", "gold_new": ("p",) if gold else (), "gold_recall": 0.5}
        for gold in golds
    ]
    infos.append({"action": "answer", "gold_new": (), "gold_recall": 0.5})
    turns = [
        Turn(
            action_ids=(1,) * (2 + place), action_text="", logprobs=(0.0,) * (2 + place), info=info
        )
        for place, info in enumerate(infos)
    ]
    trajectory = Trajectory(
        group_id=group, task_id="t", prompt_ids=(1,), prompt_text="", turns=tuple(turns)
    )
    return with_total_reward(trajectory, reward)


GOLD = TurnAdvantages(estimator=CalibAdv(), credit=GoldCredit())


def test_rows_of_a_group_are_compared_wherever_they_stand() -> None:
    rows = [row(1.0, True), row(0.0, True, False), row(1.0, False), row(0.0, True)]
    found = GOLD(rows, ["a", "b", "b", "a"])
    for places in ((0, 3), (1, 2)):
        group = Group(tuple(rows[place] for place in places))
        expected = GOLD.estimator(group, GoldCredit()(group))
        for place, values in zip(places, expected, strict=True):
            np.testing.assert_array_equal(found[place], values[: len(rows[place].turns)])
    assert found[3][0] == 0.0
    assert found[3][1] < 0
    assert [len(values) for values in found] == [2, 3, 2, 2]


def test_lost_rows_and_small_groups_get_nothing() -> None:
    found = GOLD([row(1.0, True), None, row(0.0, True), row(1.0)], ["a", "a", "b", "b"])
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1].tolist() == []
    assert found[3][0] > 0


def test_estimators_that_look_at_the_batch_see_all_groups() -> None:
    advantages = TurnAdvantages(estimator=ReinforcePlusPlus(), credit=NoCredit())
    assert advantages.looks_at_whole_batch
    assert not GOLD.looks_at_whole_batch
    found = advantages([row(1.0), row(0.0), row(3.0), row(1.0)], ["a", "a", "b", "b"])
    values = np.array([each[0] for each in found])
    np.testing.assert_allclose(values.mean(), 0, atol=1e-12)
    assert values[0] == values[3]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="groups must name all 1 rows, got 2"):
        GOLD([row(1.0)], ["a", "b"])
    with pytest.raises(ValueError, match="got PpoGae"):
        TurnAdvantages(estimator=PpoGae())  # type: ignore[arg-type]
    bare = Turn(action_ids=(1,), action_text="", logprobs=(0.0,), info={"action": "answer"})
    other = Trajectory(group_id="", task_id="t", prompt_ids=(1,), prompt_text="", turns=(bare,))
    with pytest.raises(MissingInfoKeyError, match="'gold_new', 'gold_recall'"):
        GOLD([other, other], ["a", "a"])


def test_numbers_must_be_finite() -> None:
    class Broken(Grpo):
        def __call__(self, group: Group, correctness: Any) -> Any:
            return np.full((len(group), group.max_turns), np.nan)

    with pytest.raises(ValueError, match="finite"):
        TurnAdvantages(estimator=Broken(), credit=NoCredit())([row(1.0), row(0.0)], ["a", "a"])


def test_the_whole_return_can_be_another() -> None:
    changed = with_total_reward(row(0.25, True), 2.0)
    assert changed.reward == 2.0
    assert changed.turns[0].reward == 0.0


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ("0.8", r"trl>=1.16,<2 \(tested with 1.16.0\); trl 0.8 is too old"),
        ("2.0.0", r"trl>=1.16,<2 \(tested with 1.16.0\); trl 2.0.0 is too new"),
        (None, r"trl>=1.16,<2 \(tested with 1.16.0\), which is not installed"),
    ],
)
def test_other_releases_are_refused(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, message: str
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ImportError, match=message):
        require(versions.TRL)


def test_names_that_have_moved_are_named() -> None:
    with pytest.raises(ImportError, match=r"calibadv_algo\.types has no Missing"):
        versions.part_of("calibadv_algo.types", "Missing")
    found = versions.errors_named(versions.MACHINE_FAILURES)
    assert found[0] is OSError
    assert found[1].__name__ == "RetrieverError"
    with pytest.raises(ValueError, match="retry_on must name exception types"):
        versions.errors_named(["builtins.int"])
