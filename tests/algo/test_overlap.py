"""The next batch is collected meanwhile, by the policy that it is said to be from."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.training.overlap import OverlappedRollouts, require_own_weights
from tests.algo.letters import make_model, make_tokenizer


class Policy:
    """A number that learns; the sampler's copy is made at a sync."""

    def __init__(self) -> None:
        self.weight, self.copied = 0, -1
        self.collecting = threading.Event()
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.calls: list[tuple[int, int, int]] = []

    def sync(self, version: int) -> None:
        assert not self.collecting.is_set(), "weights changed under a collection"
        assert version <= self.weight
        self.copied = self.weight

    def collect(self, update: int, version: int) -> str:
        self.collecting.set()
        assert self.may_finish.wait(10)
        self.calls.append((update, version, self.copied))
        self.collecting.clear()
        return f"batch {update} by {self.copied}"


def test_every_update_learns_from_the_policy_before_it() -> None:
    policy = Policy()
    batches = []
    with OverlappedRollouts(policy.collect, policy.sync) as rollouts:
        for update in range(4):
            batches.append(rollouts.take(update, policy_version=update))
            if update < 3:
                rollouts.start(update + 1, policy_version=update)
            policy.weight += 1
    assert batches == ["batch 0 by 0", "batch 1 by 0", "batch 2 by 1", "batch 3 by 2"]
    assert policy.calls == [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 2, 2)]


def test_it_goes_on_while_the_caller_does_something_else() -> None:
    policy = Policy()
    policy.may_finish.clear()
    with OverlappedRollouts(policy.collect, policy.sync) as rollouts:
        rollouts.start(0, policy_version=0)
        assert policy.collecting.wait(10)
        assert rollouts.is_pending
        policy.weight += 1
        threading.Timer(0.05, policy.may_finish.set).start()
        rollouts.wait()
        assert not policy.collecting.is_set()
        assert rollouts.wait_s >= 0.03
        waited = rollouts.wait_s
        rollouts.wait()
        assert rollouts.take(0, policy_version=1) == "batch 0 by 0"
        assert rollouts.wait_s - waited < 0.03
        assert not rollouts.is_pending


def test_misuse_and_failures_are_said() -> None:
    policy = Policy()

    def fail(update: int, _version: int) -> str:
        raise ConnectionError(f"update {update}")

    with OverlappedRollouts(policy.collect, policy.sync) as rollouts:
        rollouts.start(1, policy_version=0)
        with pytest.raises(RuntimeError, match="batch of update 1 was not taken yet"):
            rollouts.start(2, policy_version=0)
        with pytest.raises(RuntimeError, match="update 1 was started, not of 2"):
            rollouts.take(2, policy_version=0)
        assert rollouts.take(1, policy_version=0) == "batch 1 by 0"
    with OverlappedRollouts(fail, policy.sync) as failing:
        failing.start(3, policy_version=0)
        failing.wait()
        with pytest.raises(ConnectionError, match="update 3"):
            failing.take(3, policy_version=0)
        assert not failing.is_pending


def test_closing_waits_for_what_runs() -> None:
    done: list[int] = []

    def collect(update: int, _version: int) -> None:
        time.sleep(0.05)
        done.append(update)

    with OverlappedRollouts(collect, lambda _: None) as rollouts:
        rollouts.start(0, policy_version=0)
    assert done == [0]


def test_a_shared_model_is_refused_and_a_copy_takes_the_weights() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    with pytest.raises(ValueError, match="must hold a copy of the weights"):
        require_own_weights(HfEngine(model, tokenizer), model)
    engine = HfEngine(make_model(5), tokenizer)
    require_own_weights(engine, model)
    require_own_weights(object(), model)
    engine.sync_weights(model, 3)
    assert engine.version == 3
    for ours, theirs in zip(engine.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
