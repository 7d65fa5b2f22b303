"""The order between episodes and loss, with parts whose numbers are plain to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from calibadv_algo.advantages.base import AdvantageEstimator, ValueAdvantage
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.batching import TokenBatch
from calibadv_algo.credit.labels import NoCredit
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.shaping.base import LossMask, RewardShaping, turn_rewards, with_rewards
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.estimation import ScoredGroup, draft_batch, estimate, score_group
from calibadv_algo.training.run_folder import training_records
from calibadv_algo.types import Group, Trajectory, Turn


class DoubleRewards(RewardShaping):
    def __call__(self, group: Group) -> Group:
        return with_rewards(group, 2 * turn_rewards(group))


class AddOne(RewardShaping):
    def __call__(self, group: Group) -> Group:
        return with_rewards(group, turn_rewards(group) + 1)


class Reversed(RewardShaping):
    def __call__(self, group: Group) -> Group:
        return Group(group.trajectories[::-1])


class NotTheFirst(LossMask):
    def __call__(self, group: Group) -> np.ndarray:
        return np.arange(len(group)) > 0


class NotTheSecond(LossMask):
    def __call__(self, group: Group) -> np.ndarray:
        return np.arange(len(group)) != 1


class Returns(AdvantageEstimator):
    """The reward of each turn as its advantage."""

    def __call__(self, group: Group, correctness: np.ndarray) -> np.ndarray:
        return turn_rewards(group)


class Finished(Returns):
    def finish(self, advantages: Sequence[Any], counts: Sequence[Any]) -> list[Any]:
        total = sum(float((a * n).sum()) for a, n in zip(advantages, counts, strict=True))
        return [matrix / total for matrix in advantages]


class Reweighted(Returns):
    def reweight_tokens(self, advantages: Any, trajectories: Any, update: int) -> list[Any]:
        assert [len(a) for a in advantages] == [t.num_action_tokens for t in trajectories]
        return [np.arange(len(each), dtype=float) + update for each in advantages]


class Valued(ValueAdvantage):
    """Advantage: reward minus value, minus the batch's mean. Returns: the rewards."""

    def token_advantages(self, trajectory: Any, rewards: Any, values: Any) -> Any:
        return rewards - values, rewards

    def finish_tokens(self, advantages: Sequence[Any]) -> list[Any]:
        mean = np.concatenate(list(advantages)).mean()
        return [each - mean for each in advantages]


def make_group(name: str = "g") -> Group:
    """Two turns of 2 and 1 tokens; one turn of 3."""

    def make(member: int, turns: list[tuple[int, float]]) -> Trajectory:
        return Trajectory(
            group_id=name,
            task_id=f"{name}{member}",
            prompt_ids=(0,),
            prompt_text="",
            turns=tuple(
                Turn(action_ids=(1,) * n, action_text="", logprobs=(-1.0,) * n, reward=reward)
                for n, reward in turns
            ),
        )

    return Group((make(0, [(2, 1.0), (1, 4.0)]), make(1, [(3, 2.0)])))


def make_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"advantage": Grpo(), "credit": NoCredit()} | changes)


def run(
    config: TrainConfig, groups: Sequence[Group] = (), **vectors: Any
) -> tuple[list[ScoredGroup], Any]:
    scored = [score_group(group, config) for group in groups or [make_group()]]
    batch = draft_batch(scored)
    batch = replace(batch, old_logprobs=batch.sampling_logprobs)
    batch = replace(batch, **{name: torch.tensor(value) for name, value in vectors.items()})
    return scored, estimate(scored, batch, config, update=5)


def advantages_of(batch: TokenBatch | None) -> list[float]:
    assert batch is not None
    return batch.advantages.tolist()


def test_a_plain_group_is_scattered() -> None:
    _, found = run(make_config(advantage=Returns()))
    assert advantages_of(found.batch) == [1, 1, 4, 2, 2, 2]
    assert found.turns[0].tolist() == [[1, 4], [2, 0]]
    assert found.batch.sequence_rewards.tolist() == [5, 2]


def test_shapings_come_in_order_and_leave_the_played_group() -> None:
    scored, found = run(make_config(advantage=Returns(), shaping=(DoubleRewards(), AddOne())))
    assert advantages_of(found.batch) == [3, 3, 9, 5, 5, 5]
    assert [each.reward for each in scored[0].played.trajectories] == [5, 2]
    records = list(training_records(scored, found.turns, [make_group("h")]))
    assert [record["advantages"] for record in records] == [[3, 9], [5], [0, 0], [0]]
    assert [record.get("shaped_rewards") for record in records] == [[3, 9], [5], None, None]
    assert [turn["reward"] for turn in records[0]["turns"]] == [1, 4]
    assert [record.get("is_trained") for record in records] == [None, None, False, False]


def test_a_shaping_may_change_rewards_alone() -> None:
    with pytest.raises(ValueError, match="keep the trajectories of a group and their order"):
        run(make_config(shaping=(Reversed(),)))


def test_masked_trajectories_count_in_their_group_and_not_in_the_loss() -> None:
    _, plain = run(make_config())
    scored, found = run(make_config(loss_masks=(NotTheFirst(),)))
    assert advantages_of(found.batch) == advantages_of(plain.batch)[3:]
    assert found.batch.num_sequences == 1
    assert found.turns[0].tolist() == plain.turns[0].tolist()
    records = list(training_records(scored, found.turns, ()))
    assert [record.get("is_trained") for record in records] == [False, None]
    _, none_left = run(make_config(loss_masks=(NotTheFirst(), NotTheSecond())))
    assert none_left.batch is None


def test_the_batch_has_the_last_word() -> None:
    groups = [make_group("g"), make_group("h")]
    _, found = run(make_config(advantage=Finished()), groups)
    assert advantages_of(found.batch) == pytest.approx([x / 24 for x in [1, 1, 4, 2, 2, 2] * 2])


def test_tokens_may_be_weighed_one_by_one() -> None:
    _, found = run(make_config(advantage=Reweighted()))
    assert advantages_of(found.batch) == [5, 6, 7, 5, 6, 7]
    assert found.turns[0].tolist() == [[5.5, 7], [6, 0]]


OLD = [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0]
REF = [-2.0, -1.0, -3.0, -1.0, 0.0, -1.0]


def test_divergence_is_taken_off_the_rewards_of_turns() -> None:
    config = make_config(advantage=Returns(), optim=OptimConfig(kl_reward_coef=0.5))
    scored, found = run(config, old_logprobs=OLD, ref_logprobs=REF)
    assert found.turns[0].tolist() == [[0.5, 3.0], [2.5, 0]]
    assert found.kl_penalty == pytest.approx((1.5 - 0.5) / 2)
    assert [each.reward for each in scored[0].shaped.trajectories] == [5, 2]
    with pytest.raises(ValueError, match="needs a batch with old and reference"):
        run(config)


def test_a_critic_gives_every_token_its_own() -> None:
    config = make_config(advantage=Valued(), optim=OptimConfig(kl_reward_coef=0.5))
    values = [0.5, 0.0, 1.0, 0.0, 0.0, 0.0]
    _, found = run(config, old_logprobs=OLD, ref_logprobs=REF, values=values)
    rewards = np.array([-0.5, 1.0, 3.0, 0.0, 0.5, 2.0])
    expected = rewards - values
    assert found.batch.returns.tolist() == rewards.tolist()
    assert advantages_of(found.batch) == pytest.approx(expected - expected.mean())
    assert found.turns[0][0] == pytest.approx([expected[:2].mean() - 0.75, 2.0 - 0.75])
    with pytest.raises(ValueError, match="Valued needs the values of a critic"):
        run(config, old_logprobs=OLD, ref_logprobs=REF)


def test_advantages_that_are_not_finite_are_refused() -> None:
    class Broken(Returns):
        def reweight_tokens(self, advantages: Any, trajectories: Any, update: int) -> list[Any]:
            return [np.full(len(each), np.nan) for each in advantages]

    with pytest.raises(ValueError, match="must be finite"):
        run(make_config(advantage=Broken()))


def test_masks_of_another_length_are_refused() -> None:
    class TooLong(LossMask):
        def __call__(self, group: Group) -> np.ndarray:
            return np.ones(9, dtype=bool)

    with pytest.raises(ValueError, match="TooLong must give one value for each of 2"):
        run(make_config(loss_masks=(TooLong(),)))


def test_rewards_must_fit_their_group() -> None:
    group = make_group()
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        with_rewards(group, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="must be finite"):
        with_rewards(group, np.full((2, 2), np.inf))
