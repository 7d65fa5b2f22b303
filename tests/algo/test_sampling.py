"""Which questions are asked, and that a resumed run asks the same ones."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from calibadv_algo.training.config import RolloutConfig, TrainConfig, config_hash, config_to_dict
from calibadv_algo.training.parts import with_parts
from calibadv_algo.training.resumption import changed_settings
from calibadv_algo.training.sampling import (
    ByHops,
    QuestionSampling,
    RewardPools,
    Sampler,
    Uniform,
    questions_at,
)

HOPS = [1] * 10 + [2] * 4 + [4] * 2


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", Path(__file__).parent / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()


def test_uniform_is_what_it_was() -> None:
    sampler = Sampler(Uniform(), 7, seed=3)
    drawn = [sampler.draw(position, 4, 0.0) for position in (0, 4, 8)]
    assert [task for each in drawn for task in each.tasks] == questions_at(0, 12, 7, 3)
    assert all(each.labels == [] for each in drawn)
    assert sampler.state == {}


def test_by_hops_asks_as_many_of_each_and_each_goes_round() -> None:
    sampler = Sampler(ByHops(), len(HOPS), seed=0, hops=HOPS)
    tasks, labels = [], []
    for position in range(0, 30, 5):
        drawn = sampler.draw(position, 5, 0.0)
        tasks += drawn.tasks
        labels += drawn.labels
    assert Counter(labels) == {"hops_1": 10, "hops_2": 10, "hops_4": 10}
    assert all(HOPS[t] == int(name[5:]) for t, name in zip(tasks, labels, strict=True))
    # Ten questions of one hop come once each; two of four hops come five times each.
    assert {t: tasks.count(t) for t in range(10)} == dict.fromkeys(range(10), 1)
    assert tasks.count(14) == tasks.count(15) == 5


def test_rising_begins_with_few_hops_and_has_all_from_the_middle_on() -> None:
    def asked(progress: float) -> set[str]:
        sampler = Sampler(ByHops(plan="rising"), len(HOPS), seed=0, hops=HOPS)
        return set(sampler.draw(0, 9, progress).labels)

    assert asked(0.0) == {"hops_1"}
    assert asked(0.25) == {"hops_1", "hops_2"}
    assert asked(0.5) == asked(1.0) == {"hops_1", "hops_2", "hops_4"}


def test_by_hops_needs_hops() -> None:
    with pytest.raises(ValueError, match="need tasks that say how many hops"):
        Sampler(ByHops(), 3, seed=0, hops=[0, 0, 0]).draw(0, 2, 0.0)


def test_pools_by_the_latest_reward() -> None:
    sampler = Sampler(RewardPools(easy_share=0.25, hard_share=0.25), 40, seed=0)
    first = sampler.draw(0, 8, 0.0)
    assert first.labels == ["middle"] * 8
    assert len(set(first.tasks)) == 8
    sampler.observe(dict.fromkeys(range(10), 1.0) | dict.fromkeys(range(10, 20), 0.0))
    sampler.observe({0: 0.5})
    for position in range(8, 80, 8):
        drawn = sampler.draw(position, 8, 0.0)
        assert Counter(drawn.labels) == {"easy": 2, "hard": 2, "middle": 4}
        for task, name in zip(drawn.tasks, drawn.labels, strict=True):
            is_easy, is_hard = 1 <= task < 10, 10 <= task < 20
            assert name == ("easy" if is_easy else "hard" if is_hard else "middle")
        assert len(set(drawn.tasks)) == 8


def test_a_pool_that_is_short_is_made_up_for() -> None:
    sampler = Sampler(RewardPools(easy_share=0.5, hard_share=0.5), 6, seed=0)
    sampler.observe(dict.fromkeys(range(6), 0.0) | {5: 1.0})
    drawn = sampler.draw(0, 4, 0.0)
    assert Counter(drawn.labels) == {"easy": 1, "hard": 3}
    everything = sampler.draw(4, 9, 0.0)
    assert len(everything.tasks) == len(everything.labels) == 9
    assert set(everything.tasks) == set(range(6))


def test_pools_leave_room_for_each_other() -> None:
    with pytest.raises(ValueError, match=r"hard_to must be below easy_from, got 0\.9"):
        RewardPools(hard_to=0.9)
    with pytest.raises(ValueError, match=r"at most 1 together, got 0\.6 and 0\.5"):
        RewardPools(easy_share=0.6, hard_share=0.5)


@pytest.mark.parametrize("way", [ByHops(), RewardPools()])
def test_a_state_in_json_goes_on_where_it_was(way: QuestionSampling) -> None:
    def play(sampler: Sampler, position: int) -> list[int]:
        drawn = sampler.draw(position, 6, 0.0)
        sampler.observe({task: (task % 3) / 2 for task in drawn.tasks})
        return drawn.tasks

    whole = Sampler(way, len(HOPS), seed=1, hops=HOPS)
    expected = [play(whole, position) for position in range(0, 36, 6)]
    broken = Sampler(way, len(HOPS), seed=1, hops=HOPS)
    found = [play(broken, position) for position in range(0, 18, 6)]
    state = json.loads(json.dumps(broken.state))
    resumed = Sampler(way, len(HOPS), seed=1, hops=HOPS, state=state)
    found += [play(resumed, position) for position in range(18, 36, 6)]
    assert found == expected


class Interrupted(Exception):
    """Stands for a run that ends early."""


@pytest.mark.parametrize("overlap", ["none", "one-step"])
def test_an_interrupted_run_with_pools_goes_on_exactly(tmp_path: Path, overlap: Any) -> None:
    def config(folder: str) -> TrainConfig:
        optim = letters.OptimConfig(num_updates=6, lr=1e-2)
        made = letters.make_config(tmp_path / folder, optim=optim, checkpoint_every=3)
        pools = RewardPools(easy_from=0.5, hard_to=0.05, easy_share=0.25, hard_share=0.5)
        return replace(made, rollout=replace(made.rollout, questions=pools, overlap=overlap))

    def engine(folder: str) -> dict[str, Any]:
        if overlap == "none":
            return {}
        return {"engine": letters.HfEngine(letters.make_model(0), letters.make_tokenizer())}

    def stop(done: int, metrics: Any) -> None:
        if done == 4:
            raise Interrupted

    whole = letters.make_trainer(config("whole"), **engine("whole"))
    whole.train()
    with pytest.raises(Interrupted):
        letters.make_trainer(config("broken"), **engine("broken")).train(on_update=stop)
    resumed = letters.make_trainer(config("broken"), **engine("broken"))
    resumed.train()
    weights = [
        torch.cat([p.detach().flatten() for p in each.learner.policy.model.parameters()])
        for each in (whole, resumed)
    ]
    assert torch.equal(*weights)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    shares = [
        [{k: v for k, v in row.items() if k.startswith("question_share_")} for row in run]
        for run in rows
    ]
    assert shares[0] == shares[1]
    assert shares[0][1] == {"question_share_middle": 1.0}
    assert set().union(*shares[0]) > {"question_share_middle"}
    assert all(sum(row.values()) == pytest.approx(1) for row in shares[0] if row)
    assert "groups_with_signal_share" in rows[0][1]


def test_runs_that_began_before_there_was_a_choice_go_on() -> None:
    config = TrainConfig()
    found = json.loads(json.dumps(config_to_dict(config)))
    del found["rollout"]["questions"]
    assert [change.effect for change in changed_settings(found, config)] in ([], ["none"])
    pools = replace(config, rollout=RolloutConfig(questions=RewardPools()))
    assert "numbers" in [change.effect for change in changed_settings(found, pools)]
    assert config_hash(pools) != config_hash(config)


def test_a_way_is_named_like_any_part() -> None:
    made = with_parts(TrainConfig(), [("rollout.questions", ("by-hops",))])
    assert made.rollout.questions == ByHops()
