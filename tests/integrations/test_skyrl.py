"""SkyRL-Gym's registry, and SkyRL's own generator, trainer methods and estimators, on the atlas."""

from __future__ import annotations

import asyncio
import sys
import typing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "skyrl_gym", reason="skyrl-gym is not installed; `make test-integrations` installs it"
)

import skyrl_gym

from calibadv_env.integrations.common import plain_facts
from calibadv_env.integrations.skyrl import ENV_CLASS, SkyRLSearchEnv, dataset_rows, register
from tests.integrations.players import (
    PAGES_ID,
    PAGES_SETTINGS,
    SETTINGS,
    AtlasPolicy,
    Played,
    example,
    play,
    play_pages,
    scripts,
)

GYM_SETTINGS = {key: value for key, value in SETTINGS.items() if key != "max_turns"}
MAX_TURNS = SETTINGS["max_turns"] + 1


def make(index: int, **extras: Any) -> SkyRLSearchEnv:
    row = dataset_rows([index], GYM_SETTINGS)[0]
    extras = {"extra_info": row["extra_info"], "max_turns": MAX_TURNS, **extras}
    return skyrl_gym.make(ENV_CLASS, env_config=GYM_SETTINGS, extras=extras)


def check(env: SkyRLSearchEnv, own: Played) -> None:
    """Plays an episode's actions again."""
    conversation, info = env.init([{"role": "user", "content": "anything"}])
    assert conversation == [{"role": "user", "content": own.prompt}]
    assert info == own.reset_info
    for step in own.steps:
        out = env.step(step.action)
        is_over = step.terminated or step.truncated
        shown = [] if is_over else [{"role": "user", "content": step.observation}]
        assert out["observations"] == shown
        assert (out["reward"], out["done"]) == (step.reward, is_over)
        assert out["metadata"]["truncated"] == step.truncated
        assert plain_facts(step.info).items() <= plain_facts(out["metadata"]).items()
    metrics = env.get_metrics()
    assert metrics["f1"] == own.steps[-1].info["f1"]
    assert metrics["turns"] == [plain_facts(step.info) for step in own.steps]


@pytest.mark.parametrize("which", range(4), ids=["good", "wrong", "malformed", "no answer"])
def test_episodes_are_those_of_our_own_environment(which):
    check(make(3), play(scripts(3)[which], 3))


def test_episodes_of_the_shipped_policy():
    pytest.importorskip("torch")
    policy = AtlasPolicy()
    for index in (0, 7):
        check(make(index), play(policy, index))


def test_pages_are_searched_opened_and_read():
    settings = {"env_id": PAGES_ID, **PAGES_SETTINGS}
    row = dataset_rows([3], settings)[0]
    env = skyrl_gym.make(ENV_CLASS, env_config=settings, extras={"extra_info": row["extra_info"]})
    own = play_pages(3)
    check(env, own)
    assert env.get_metrics()["num_calls"] == len(own.steps) - 1


def test_system_messages_are_kept():
    conversation, _ = make(0).init(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    )
    assert [message["role"] for message in conversation] == ["system", "user"]
    assert conversation[0]["content"] == "s"


def test_metrics_are_averaged_over_episodes():
    episodes = []
    for which in (0, 1):
        env = make(3)
        check(env, play(scripts(3)[which], 3))
        episodes.append(env.get_metrics())
    metrics = SkyRLSearchEnv.aggregate_metrics(episodes)
    assert metrics["em"] == 0.5
    assert "turns" not in metrics


def test_an_unfinished_episode_has_no_scores():
    env = make(3)
    env.init([])
    env.step(scripts(3)[0][0])
    metrics = env.get_metrics()
    assert metrics["is_finished"] is False
    assert "em" not in metrics
    assert len(metrics["turns"]) == 1


def test_too_few_turns_are_refused():
    with pytest.raises(ValueError, match="max_turns must be at least 2"):
        make(0, max_turns=1)


def test_registering_again_is_harmless():
    register()
    assert ENV_CLASS in skyrl_gym.registry


def test_the_example_of_the_environment_runs(capsys):
    exec(example("integrations.md", "SkyRL-Gym"), {})
    assert "reward 1.0 done True" in capsys.readouterr().out


# What follows needs SkyRL's trainer.


@pytest.fixture(scope="module")
def skyrl():
    pytest.importorskip("torch")
    pytest.importorskip(
        "skyrl", reason="skyrl is not installed; `make test-integrations` installs it"
    )
    from typing_extensions import TypedDict

    original = typing.TypedDict
    if sys.version_info < (3, 12):
        typing.TypedDict = TypedDict  # pydantic refuses the one of the standard library there
    try:
        import skyrl.train.trainer as trainer
        from skyrl.backends.skyrl_train.utils import ppo_utils
        from skyrl.train.config import SkyRLTrainConfig
        from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator

        import calibadv_algo.integrations.skyrl as ours
    finally:
        typing.TypedDict = original
    return SimpleNamespace(
        trainer=trainer.RayPPOTrainer,
        ppo_utils=ppo_utils,
        config=SkyRLTrainConfig,
        generator=SkyRLGymGenerator,
        ours=ours,
    )


@pytest.fixture(scope="module")
def policy():
    pytest.importorskip("torch")
    policy = AtlasPolicy(temperature=1.0)
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return policy


class Client:
    """What SkyRL's generator asks for turns."""

    def __init__(self, policy: AtlasPolicy, script: dict[str, list[str]] | None = None) -> None:
        self.policy, self.script = policy, script
        self.turns: dict[str, int] = {}

    async def generate(self, engine_input: dict, model: str | None = None) -> dict:
        (ids,), (session,) = engine_input["prompt_token_ids"], engine_input["session_ids"]
        if self.script is None:
            generation = self.policy.generate(ids)
            tokens, text = list(generation.token_ids), generation.text
        else:
            turn = self.turns.get(session, 0)
            self.turns[session] = turn + 1
            text = self.script[session][turn]
            tokens = self.policy.tokenizer.encode(text, add_special_tokens=False)
        return {"responses": [text], "response_ids": [tokens], "stop_reasons": ["stop"]}

    async def finish_session(self, session: str) -> None:
        self.turns.pop(session, None)


def rollouts(
    skyrl: Any, policy: AtlasPolicy, tasks: list[int], size: int, script: Any = None
) -> tuple[Any, dict, list[str]]:
    """SkyRL's own generator plays ``size`` episodes of each task."""
    config = skyrl.config()
    config.generator.max_turns = MAX_TURNS
    config.generator.n_samples_per_prompt = size
    config.generator.use_conversation_multi_turn = False
    config.generator.max_input_length = 4000
    config.environment.skyrl_gym.max_env_workers = 0
    config.environment.skyrl_gym.calibadv_search = GYM_SETTINGS
    config.trainer.train_batch_size = config.trainer.policy_mini_batch_size = len(tasks)
    config.trainer.algorithm.advantage_estimator = "calibadv"
    rows = [row for row in dataset_rows(tasks, GYM_SETTINGS) for _ in range(size)]
    generator = skyrl.generator(
        config.generator, config.environment.skyrl_gym, Client(policy, script), policy.tokenizer
    )
    uids = [str(row["extra_info"]["task_index"]) for row in rows]
    names = [SimpleNamespace(instance_id=uid, repetition_id=i) for i, uid in enumerate(uids)]
    batch = {
        "prompts": [row["prompt"] for row in rows],
        "env_classes": [row["env_class"] for row in rows],
        "env_extras": [{"extra_info": row["extra_info"]} for row in rows],
        "sampling_params": None,
        "trajectory_ids": names,
        "batch_metadata": None,
    }
    return config, asyncio.run(generator.generate(batch, disable_tqdm=True)), uids


def trained(skyrl: Any, policy: AtlasPolicy, config: Any, output: dict, uids: list[str]) -> Any:
    """SkyRL's own trainer turns rollouts into a batch with advantages."""

    class Trainer(skyrl.ours.FactsInBatch, skyrl.trainer):
        pass

    trainer = Trainer.__new__(Trainer)
    trainer.cfg, trainer.tokenizer, trainer.all_metrics = config, policy.tokenizer, {}
    trainer.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: 3)
    output, uids = trainer.postprocess_generator_output(output, uids)
    batch = trainer.convert_to_training_input(output, uids)
    batch["values"] = None  # what the workers, which are not here, would add
    return trainer.compute_advantages_and_returns(batch)


def expected(
    loss_masks: list[list[int]], played: list[Played], uids: list[str]
) -> list[np.ndarray]:
    """Our own estimator on our own environment's facts, token by token."""
    from calibadv_algo.advantages.calibadv import CalibAdv
    from calibadv_algo.credit.silver import SilverCredit
    from calibadv_algo.types import Group, Trajectory, Turn

    rows = []
    for mask, own, uid in zip(loss_masks, played, uids, strict=True):
        runs = [len(run) for run in "".join(map(str, mask)).split("0") if run]
        turns = tuple(
            Turn(action_ids=(1,) * size, action_text="", logprobs=(0.0,) * size,
                 reward=step.reward, info=step.info)
            for size, step in zip(runs, own.steps, strict=True)
        )  # fmt: skip
        rows.append(
            Trajectory(group_id=uid, task_id="", prompt_ids=(), prompt_text="", turns=turns)
        )
    result: dict[int, np.ndarray] = {}
    for uid in dict.fromkeys(uids):
        places = [place for place, each in enumerate(uids) if each == uid]
        group = Group(tuple(rows[place] for place in places))
        for place, values in zip(places, CalibAdv()(group, SilverCredit()(group)), strict=True):
            sizes = [len(turn.action_ids) for turn in rows[place].turns]
            result[place] = np.repeat(values[: len(sizes)], sizes)
    return [result[place] for place in range(len(rows))]


def agree(batch: Any, output: dict, played: list[Played], uids: list[str]) -> None:
    wanted = expected(output["loss_masks"], played, uids)
    masks = batch["loss_mask"].bool()
    for place, values in enumerate(wanted):
        seen = batch["advantages"][place][masks[place]].numpy()
        np.testing.assert_allclose(seen, values, rtol=1e-6, atol=1e-7)
    assert float(batch["advantages"][~masks].abs().sum()) == 0.0
    assert (batch["advantages"] == batch["returns"]).all()


def test_advantages_are_those_of_our_own_estimator(skyrl, policy):
    """One question answered well twice, badly with a good search, and not at all."""
    good, wrong, malformed, unanswered = scripts(3)
    half = [*good[:-1], "<think> hm </think>\n<answer> nowhere </answer>"]
    episodes = [good, half, wrong, malformed, unanswered]
    script = {f"3_{place}": actions for place, actions in enumerate(episodes)}
    config, output, uids = rollouts(skyrl, policy, [3], 5, script)
    played = [play(actions, 3) for actions in episodes]
    assert [sum(row) for row in output["rewards"]] == [
        sum(s.reward for s in p.steps) for p in played
    ]
    batch = trained(skyrl, policy, config, output, uids)
    agree(batch, output, played, uids)
    assert len(batch["advantages"]) == 6, "padded to a multiple of three rows"
    spared = batch["advantages"][1][batch["loss_mask"][1].bool()]
    assert spared.min() < spared.max() <= 0, "a correct search costs less than the wrong answer"


def test_whole_episodes_of_the_shipped_policy(skyrl, policy):
    config, output, uids = rollouts(skyrl, policy, [0, 10], 3)
    actions = [
        _turns(policy, ids, mask)
        for ids, mask in zip(output["response_ids"], output["loss_masks"], strict=True)
    ]
    played = [play(texts, int(uid)) for texts, uid in zip(actions, uids, strict=True)]
    for metrics, own in zip(output["env_metrics"], played, strict=True):
        assert metrics["turns"] == [plain_facts(step.info) for step in own.steps]
    agree(trained(skyrl, policy, config, output, uids), output, played, uids)


def _turns(policy: AtlasPolicy, ids: list[int], mask: list[int]) -> list[str]:
    turns: list[list[int]] = []
    for place, token in enumerate(ids):
        if mask[place]:
            if place == 0 or not mask[place - 1]:
                turns.append([])
            turns[-1].append(token)
    return [policy.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns]


def test_rows_that_are_cut_or_masked_out_are_no_models(skyrl, policy):
    import torch

    ours = skyrl.ours
    own = [play(actions, 3) for actions in scripts(3)[:2]]
    facts = [[step.info for step in each.steps] for each in own]
    mask = torch.zeros(3, 12)
    mask[0, 0:2] = 1  # the good episode, cut after its first turn
    mask[1, [0, 1, 4, 5]] = 1
    rewards = torch.zeros(3, 12)
    rewards[0, 1] = 1.0
    batch = ours.BatchFacts(loss_mask=mask, facts=[*facts, facts[0]])
    advantages, _ = ours.Estimator()(rewards, mask, ["a", "a", "a"], batch=batch)
    assert advantages[2].abs().sum() == 0
    assert advantages[0, :2].min() > 0 > advantages[1, [0, 1, 4, 5]].max()
    one = ours.Estimator()(
        rewards[:1], mask[:1], ["a"], batch=ours.BatchFacts(loss_mask=mask[:1], facts=facts[:1])
    )
    assert one[0].abs().sum() == 0


def test_facts_that_do_not_fit_are_refused(skyrl):
    import torch

    ours = skyrl.ours
    mask = torch.tensor([[1, 0, 1, 0, 1]])
    fact = {"action": "answer", "passage_ids": (), "think": "", "is_format_valid": True}
    with pytest.raises(ValueError, match="3 runs"):
        ours.Estimator()(
            mask * 0.0, mask, ["a"], batch=ours.BatchFacts(loss_mask=mask, facts=[[fact]])
        )
    with pytest.raises(ValueError, match="at most 1"):
        ours.Estimator()(
            mask * 0.0, mask, ["a"], batch=ours.BatchFacts(loss_mask=mask, facts=[[fact]] * 2)
        )
    with pytest.raises(ValueError, match="FactsInBatch"):
        ours.Estimator()(mask * 0.0, mask, ["a"])


def test_step_wise_trajectories_are_refused(skyrl):
    with pytest.raises(ValueError, match="step_wise_trajectories"):
        skyrl.ours.FactsInBatch().convert_to_training_input({"is_last_step": [True]}, ["a"])


def test_the_estimator_can_be_sent_to_other_processes(skyrl):
    import cloudpickle

    function = skyrl.ppo_utils.AdvantageEstimatorRegistry.get("calibadv")
    copy = cloudpickle.loads(cloudpickle.dumps(function))
    assert type(copy) is type(function)
    assert copy.advantages == function.advantages
    skyrl.ours.register()
    assert skyrl.ppo_utils.AdvantageEstimatorRegistry.list_available().count("calibadv") == 1


def test_other_releases_of_skyrl_are_refused(skyrl, monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda package: "0.9.0")
    with pytest.raises(ImportError, match=r"0\.3\.0.*too new"):
        skyrl.ours.register("other")


def test_the_example_of_the_estimator_runs(skyrl, capsys):
    exec(example("integrations.md", "CalibAdv in SkyRL"), {})
    assert "tensor" in capsys.readouterr().out
