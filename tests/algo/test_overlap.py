"""The next batch is collected meanwhile, by the policy that it is said to be from."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.training.config import OptimConfig, TrainConfig
from calibadv_algo.training.overlap import OverlappedCollector, require_own_weights
from tests.algo.letters import make_model, make_tokenizer


class Numbers(OverlappedCollector):
    """A number learns; the sampler's copy is made at a sync. Batches have 10 questions."""

    def __init__(self, num_updates: int = 4) -> None:
        self.weight, self.copied = 0, -1
        self.collecting = threading.Event()
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.calls: list[tuple[int, int, int, int, str | None]] = []
        config = TrainConfig(optim=OptimConfig(num_updates=num_updates))
        player = SimpleNamespace(engine=None)
        super().__init__(config, player, num_tasks=1, weights=torch.nn.Module)

    def sync(self, version: int) -> str:
        assert not self.collecting.is_set(), "weights changed under a collection"
        assert version <= self.weight
        self.copied = self.weight
        return f"digest {self.copied}"

    def collect(
        self, update: int, num_questions_seen: int, *, policy_version: int, policy: Any = None
    ) -> Any:
        self.collecting.set()
        assert self.may_finish.wait(10)
        self.calls.append((update, num_questions_seen, policy_version, self.copied, policy))
        self.collecting.clear()
        return SimpleNamespace(name=f"batch {update} by {self.copied}", num_questions=10)


def test_every_update_learns_from_the_policy_before_it() -> None:
    batches = []
    with Numbers() as numbers:
        for update in range(4):
            batches.append(numbers.take(update, 10 * update).name)  # type: ignore[attr-defined]
            numbers.weight += 1
    assert batches == ["batch 0 by 0", "batch 1 by 0", "batch 2 by 1", "batch 3 by 2"]
    assert numbers.calls == [
        (0, 0, 0, 0, "digest 0"),
        (1, 10, 0, 0, "digest 0"),
        (2, 20, 1, 1, "digest 1"),
        (3, 30, 2, 2, "digest 2"),
    ]


def test_a_resumed_run_accepts_the_journal_of_weights_that_are_gone() -> None:
    with Numbers() as numbers:
        numbers.weight = 2
        numbers.take(2, 20)
        numbers.wait()
    assert [(call[0], call[2], call[4]) for call in numbers.calls] == [
        (2, 1, None),
        (3, 2, "digest 2"),
    ]


def test_it_goes_on_while_the_caller_does_something_else() -> None:
    with Numbers(num_updates=3) as numbers:
        numbers.take(0, 0)
        numbers.wait()
        numbers.weight += 1
        numbers.may_finish.clear()
        numbers.take(1, 10)
        assert numbers.collecting.wait(10)
        waited = numbers.wait_s
        threading.Timer(0.05, numbers.may_finish.set).start()
        numbers.wait()
        assert not numbers.collecting.is_set()
        assert numbers.wait_s - waited >= 0.03
        waited = numbers.wait_s
        numbers.wait()
        assert numbers.take(2, 20).name == "batch 2 by 1"  # type: ignore[attr-defined]
        assert numbers.wait_s - waited < 0.03


def test_failures_are_kept_for_the_update_that_they_belong_to() -> None:
    class Failing(Numbers):
        def collect(self, update: int, *args: Any, **kwargs: Any) -> Any:
            if update == 1:
                raise ConnectionError(f"update {update}")
            return super().collect(update, *args, **kwargs)

    with Failing() as failing:
        failing.take(0, 0)
        failing.wait()
        with pytest.raises(ConnectionError, match="update 1"):
            failing.take(1, 10)


def test_closing_waits_for_what_runs() -> None:
    with Numbers() as numbers:
        numbers.take(0, 0)
        numbers.wait()
        numbers.weight += 1
        numbers.may_finish.clear()
        numbers.take(1, 10)
        assert numbers.collecting.wait(10)
        threading.Timer(0.05, numbers.may_finish.set).start()
    assert [call[0] for call in numbers.calls] == [0, 1, 2]


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
