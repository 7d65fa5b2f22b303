"""verl's own agent loop worker, registries and advantage code over the atlas, on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl", reason="verl is not installed; `make test-integrations` installs it")

import torch
from hydra import compose, initialize_config_module
from tensordict import NonTensorStack, TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage as verl_compute_advantage
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base
from verl.workers.rollout.replica import TokenOutput

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.batching import build_token_batch
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.integrations import verl_trainer
from calibadv_algo.integrations.advantages import TurnAdvantages
from calibadv_algo.integrations.verl import (
    FACTS,
    SearchAgentLoop,
    calibadv_advantage,
    compute_advantage,
    register_estimator,
    turn_facts,
)
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.scripted import ReplayEngine
from calibadv_algo.rollout.episodes import EpisodeSpec, regroup
from calibadv_algo.rollout.slots import make_slots
from calibadv_env.info import PAGE_STOP_STRINGS, STOP_STRINGS
from tests.integrations.players import PAGES_ID, PAGES_SETTINGS, play_pages

ENV_ID = "calibadv_env:DeepSearch-Atlas-v1"
ENV: dict[str, Any] = {"split": "train", "prompt": "question", "max_turns": 2}
TASKS = (0, 0, 0, 0, 10, 10, 10, 10)
RESPONSE = 600
DOCS = Path(__file__).parents[2] / "docs"


def plans(row: int) -> list[str]:
    """What the policy writes in a row: good and bad searches, right and wrong answers."""
    place = ("Frutillar", "the weather", "Frutillar", "a long query about Frutillar")[row % 4]
    answer = (".es", ".es", "nowhere", "no idea")[row % 4]
    search = f"<think> plan {row} </think>\n<search> {place} </search>"
    ending = f"<think> done </think>\n<answer> {answer} </answer>"
    return [search, ending] if row % 4 < 3 else [search, search.replace("plan", "again"), ending]


class Server:
    """Stands in for verl's servers: writes the plans of the rows, in the order they come."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.turns: dict[str, int] = {}
        self.sent: dict[int, list[list[int]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.tokenizer: Any = None
        self.plans = plans

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        row = self.rows.setdefault(request_id, len(self.rows))
        turn = self.turns.get(request_id, 0)
        self.turns[request_id] = turn + 1
        self.asked.append(sampling_params)
        ids = self.tokenizer.encode(self.plans(row)[turn], add_special_tokens=False)
        self.sent.setdefault(row, []).append(ids)
        return TokenOutput(token_ids=ids, log_probs=[-0.25] * len(ids))


def objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def make_worker(
    folder: Path, response_length: int, env_id: str = ENV_ID, settings: dict[str, Any] = ENV
) -> AgentLoopWorker:
    """verl's worker with a configuration of verl's own files."""
    file = folder / "loop.yaml"
    file.write_text(
        "- name: calibadv_search\n"
        "  _target_: calibadv_algo.integrations.verl.SearchAgentLoop\n"
        f"  env_id: {env_id}\n"
        f"  env_kwargs: {json.dumps(settings)}\n"
        "  max_turn_tokens: 64\n",
        encoding="utf-8",
    )
    rollout = "actor_rollout_ref.rollout"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                f"actor_rollout_ref.model.path={policy_path('atlas-tiny')}",
                f"{rollout}.name=vllm",
                f"{rollout}.prompt_length=256",
                f"{rollout}.response_length={response_length}",
                f"{rollout}.calculate_log_probs=true",
                f"{rollout}.agent.agent_loop_config_path={file}",
            ],
        )
    result = AgentLoopWorker(config, llm_client=Server())
    result.llm_client.tokenizer = result.tokenizer
    return result


def play(worker: AgentLoopWorker, tasks: tuple[int, ...] = TASKS) -> DataProto:
    """A batch as verl's worker makes it of our agent loop."""
    size = len(tasks)
    batch = DataProto.from_dict(
        tensors={"dummy": torch.zeros(size)},
        non_tensors={
            "uid": objects([f"question {task}" for task in tasks]),
            "extra_info": objects([{"index": task} for task in tasks]),
            "raw_prompt": objects([[{"role": "user", "content": ""}]] * size),
            "agent_name": objects(["calibadv_search"] * size),
        },
    )
    result: DataProto = asyncio.run(worker.generate_sequences(batch))
    result.batch["token_level_rewards"] = result.batch["rm_scores"].clone()
    return result


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> AgentLoopWorker:
    return make_worker(tmp_path_factory.mktemp("verl"), RESPONSE)


@pytest.fixture(scope="module")
def played(worker: AgentLoopWorker) -> DataProto:
    return play(worker)


def row_numbers(batch: DataProto, tokenizer: Any) -> list[int]:
    """Which plan each row of a batch followed."""
    texts = [tokenizer.decode(ids) for ids in batch.batch["responses"]]
    return [int(re.search(r"plan\s*(\d)", text)[1]) for text in texts]  # type: ignore[index]


def ours(worker: AgentLoopWorker, played: DataProto, estimator: Any) -> list[np.ndarray]:
    """This package's own driver, credit and estimator on the same plans; by row."""
    rows = row_numbers(played, worker.tokenizer)
    specs = [
        EpisodeSpec(task_index=task, group_id=str(task), seed=place)
        for place, task in enumerate(TASKS)
    ]
    texts = {
        f"{place}:{task}": plans(row)
        for place, (task, row) in enumerate(zip(TASKS, rows, strict=True))
    }
    player = Player(
        make_slots(ENV_ID, 4, ENV),
        ReplayEngine(texts, worker.tokenizer),
        worker.tokenizer,
        SamplingParams(max_tokens=64, stop=STOP_STRINGS),
    )
    batch = player.play(specs)
    groups = regroup(batch.trajectories)
    values = [row for group in groups for row in estimator(group, SilverCredit()(group))]
    tokens = build_token_batch(batch.trajectories, values)
    return tokens.per_sequence(tokens.advantages)


def test_tokens_go_in_and_come_out(worker: AgentLoopWorker, played: DataProto) -> None:
    server, tokenizer = worker.llm_client, worker.tokenizer
    for place, row in enumerate(row_numbers(played, tokenizer)):
        ids, mask = played.batch["responses"][place], played.batch["response_mask"][place].bool()
        assert ids[mask].tolist() == [token for turn in server.sent[row] for token in turn]
        assert "<information>" not in tokenizer.decode(ids[mask])
        length = int(played.batch["attention_mask"][place][-RESPONSE:].sum())
        assert "<information>" in tokenizer.decode(ids[:length][~mask[:length]])
        logprobs = played.batch["rollout_log_probs"][place]
        assert logprobs[mask].tolist() == [-0.25] * int(mask.sum())
        assert not logprobs[~mask].any()
    assert {tuple(each["stop"]) for each in server.asked} == {STOP_STRINGS}
    assert {each["max_tokens"] for each in server.asked} == {64}


def test_pages_are_searched_opened_and_read(tmp_path: Path) -> None:
    own = play_pages(3)
    worker = make_worker(tmp_path, 1500, PAGES_ID, PAGES_SETTINGS)
    worker.llm_client.plans = lambda row: own.actions
    batch = play(worker, (3, 3))
    assert batch.batch["rm_scores"].sum(1).tolist() == [1.0, 1.0]
    assert {tuple(each["stop"]) for each in worker.llm_client.asked} == {PAGE_STOP_STRINGS}
    for turns in batch.non_tensor_batch[FACTS]:
        opened = [tuple(turn["info"]["opened_ids"]) for turn in turns]
        assert opened == [step.info["opened_ids"] for step in own.steps]
    result = compute_advantage(batch, "calibadv")
    assert torch.isfinite(result.batch["advantages"]).all()


def test_rewards_are_the_environments(worker: AgentLoopWorker, played: DataProto) -> None:
    rewards = played.batch["rm_scores"].sum(1).tolist()
    rows = row_numbers(played, worker.tokenizer)
    expected = [
        1.0 if task == 0 and row % 4 < 2 else 0.0 for task, row in zip(TASKS, rows, strict=True)
    ]
    assert rewards == expected
    assert played.non_tensor_batch["em"].tolist() == expected


def test_advantages_are_those_of_our_own_estimator(
    worker: AgentLoopWorker, played: DataProto
) -> None:
    result = compute_advantage(deepcopy(played), "calibadv")
    mask = played.batch["response_mask"].bool()
    plain = ours(worker, played, Grpo())
    has_spared = False
    for place, expected in enumerate(ours(worker, played, CalibAdv())):
        found = result.batch["advantages"][place]
        np.testing.assert_allclose(found[mask[place]].numpy(), expected, rtol=1e-6)
        assert not found[~mask[place]].any()
        has_spared |= bool((expected != plain[place]).any())
    assert has_spared
    assert torch.equal(result.batch["returns"], result.batch["advantages"])


def test_with_grpo_it_is_verls_grpo(played: DataProto) -> None:
    register_estimator("ours_grpo", TurnAdvantages(estimator=Grpo()))
    found = compute_advantage(deepcopy(played), "ours_grpo").batch["advantages"]
    wanted = verl_compute_advantage(deepcopy(played), adv_estimator="grpo")
    assert wanted.batch["advantages"].any()
    torch.testing.assert_close(found, wanted.batch["advantages"], atol=1e-5, rtol=1e-5)


def test_rewards_that_verl_changed_are_used(played: DataProto) -> None:
    """A penalty in the token rewards (verl's KL) moves the advantages."""
    name = "ours_grpo_changed"
    register_estimator(name, TurnAdvantages(estimator=Grpo()))
    changed = deepcopy(played)
    rewards = changed.batch["token_level_rewards"].clone()
    rewards[0, 3] -= 0.5
    changed.batch["token_level_rewards"] = rewards
    found = compute_advantage(changed, name).batch["advantages"]
    wanted = verl_compute_advantage(deepcopy(changed), adv_estimator="grpo")
    torch.testing.assert_close(found, wanted.batch["advantages"], atol=1e-5, rtol=1e-5)


class Store:
    """A TransferQueue in memory: what verl's trainer asks of it."""

    def __init__(self, fields: dict[str, Any], size: int) -> None:
        self.fields, self.size = fields, size
        self.put: dict[str, Any] = {}

    def kv_batch_get(self, keys: Any, partition_id: str, select_fields: list[str]) -> TensorDict:
        found = {name: self.fields[name] for name in select_fields if name in self.fields}
        return TensorDict(found, batch_size=self.size)

    def kv_batch_put(self, keys: Any, partition_id: str, fields: TensorDict) -> str:
        self.put = {name: fields[name] for name in fields.keys()}  # noqa: SIM118
        return "batch"


def test_verls_trainer_finds_the_facts(played: DataProto, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_trainer_cls("calibadv_sync") is verl_trainer.CalibAdvTrainerSync
    size = len(TASKS)
    lengths = played.batch["attention_mask"][:, -RESPONSE:].sum(1).tolist()

    def nested(name: str) -> Any:
        rows = [row[:length] for row, length in zip(played.batch[name], lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    extra = [{FACTS: facts} for facts in played.non_tensor_batch[FACTS]]
    store = Store(
        {
            "uid": NonTensorStack(*played.non_tensor_batch["uid"].tolist()),
            "extra_fields": NonTensorStack(*extra),
            **{name: nested(name) for name in ("response_mask", "rm_scores")},
        },
        size,
    )
    monkeypatch.setattr(trainer_base, "tq", store)
    trainer = object.__new__(verl_trainer.CalibAdvTrainerSync)
    rollout = SimpleNamespace(n=4)
    algorithm = {"adv_estimator": "calibadv", "gamma": 1.0, "lam": 1.0, "use_kl_in_reward": False}
    trainer.config = SimpleNamespace(
        algorithm=Settings(algorithm), actor_rollout_ref=SimpleNamespace(rollout=rollout)
    )
    keys = [f"question_{place}_0" for place in range(size)]
    result = trainer._compute_advantage(Keys(keys=keys, partition_id="train"), {})
    assert result == "batch"
    direct = compute_advantage(deepcopy(played), "calibadv").batch["advantages"]
    assert direct.any()
    for place, row in enumerate(store.put["advantages"].unbind()):
        assert torch.equal(row, direct[place, : lengths[place]])


class Keys(SimpleNamespace):
    """Names the rows of a batch that lie in the store."""

    def __len__(self) -> int:
        return len(self.keys)


class Settings(dict[str, Any]):
    """A configuration's node: names as keys and as attributes."""

    __getattr__ = dict.__getitem__


def test_without_facts_it_says_what_to_do(played: DataProto) -> None:
    with pytest.raises(ValueError, match="calibadv_sync"):
        verl_compute_advantage(deepcopy(played), adv_estimator="calibadv")
    with turn_facts([None]), pytest.raises(ValueError, match="facts for 1"):
        verl_compute_advantage(deepcopy(played), adv_estimator="calibadv")


def test_rows_without_facts_take_no_part(played: DataProto) -> None:
    facts = list(played.non_tensor_batch[FACTS])
    facts[0] = None
    with turn_facts(facts):
        result = verl_compute_advantage(deepcopy(played), adv_estimator="calibadv").batch[
            "advantages"
        ]
    assert not result[0].any()


def test_episodes_end_before_the_response_is_too_long(tmp_path: Path) -> None:
    """Nothing is cut off: the last turn that would fit is the last one."""
    batch = play(make_worker(tmp_path, 100))
    lengths = batch.batch["attention_mask"][:, -100:].sum(1)
    assert int(lengths.max()) <= 100
    num_turns = [len(turns) for turns in batch.non_tensor_batch[FACTS]]
    # Most searches find passages, and then no second turn fits; one that finds nothing is short.
    assert num_turns.count(1) > len(num_turns) / 2
    for turns, score in zip(num_turns, batch.batch["rm_scores"].sum(1).tolist(), strict=True):
        assert turns > 1 or score == 0


def test_a_turn_must_fit_the_response(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_turn_tokens must not exceed"):
        play(make_worker(tmp_path, 50))


def test_a_row_must_name_its_task(worker: AgentLoopWorker) -> None:
    loop = object.__new__(SearchAgentLoop)
    with pytest.raises(ValueError, match=r"extra_info\['index'\]"):
        asyncio.run(loop.run({}, raw_prompt=[]))


def test_a_name_is_taken_once() -> None:
    assert core_algos.get_adv_estimator_fn("calibadv") is calibadv_advantage
    with pytest.raises(ValueError, match="already been registered"):
        register_estimator("calibadv", TurnAdvantages(estimator=Grpo()))


def test_verl_loads_it_by_its_own_variable() -> None:
    """In a fresh process, as verl's own command line would."""
    code = (
        "import verl\n"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn\n"
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "from verl.experimental.agent_loop.agent_loop import _agent_loop_registry\n"
        "get_adv_estimator_fn('calibadv'); get_trainer_cls('calibadv_sync')\n"
        "print(_agent_loop_registry['calibadv_search']['_target_'])\n"
    )
    variable = {"VERL_USE_EXTERNAL_MODULES": "calibadv_algo.integrations.verl_trainer"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variable,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "calibadv_algo.integrations.verl.SearchAgentLoop" in done.stdout


def test_the_docs_example_runs() -> None:
    text = (DOCS / "verl.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(code.splitlines()) <= 30
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "verl.md", "exec"), names)
    advantages = names["advantages"]
    assert (advantages[0, :2] > 0).all()
    assert not advantages[1, :2].any()
    assert (advantages[1, 4:] < 0).all()
