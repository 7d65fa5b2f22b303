"""Trees of episodes: shared prefixes, branches that equal whole episodes, and states' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calibadv_algo.advantages.anchors import anchor_states
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.rollout.episodes import EpisodeSpec, RolloutBatch
from calibadv_algo.rollout.journal import StepJournal
from calibadv_algo.rollout.slots import ListSlots, make_slots
from calibadv_algo.rollout.tree import TreePlayer, chain_seed
from calibadv_algo.rollout.tree_config import TREE_KEY, TreeSearch
from calibadv_algo.types import Trajectory, Turn
from calibadv_env.info import STOP_STRINGS

PARAMS = SamplingParams(max_tokens=400, stop=STOP_STRINGS)
QUERIES = ("capital", "river", "mountain", "sea", "island")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def script(context: str, seed: int) -> str:
    """Searches for something that the seed picks, two or three times, then answers."""
    done = context.count("</information>")
    if done >= 2 + seed % 2:
        return f"<think>s{seed}</think><answer>{seed % 7}</answer>"
    return f"<think>s{seed}</think><search>{QUERIES[seed % 5]}</search>"


class Counting(ScriptedEngine):
    """Counts what is asked and what is still held."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(script, tokenizer)
        self.num_turns = 0
        self.held: set[str] = set()

    def generate(
        self, requests: Sequence[GenerationRequest], params: SamplingParams
    ) -> list[Generation]:
        self.num_turns += len(requests)
        self.held |= {request.episode_id for request in requests}
        return super().generate(requests, params)

    def release(self, episode_ids: Sequence[str]) -> None:
        self.held -= set(episode_ids)

    def sync_weights(self, model: torch.nn.Module, version: int) -> None:
        pass


def questions(*tasks: int) -> list[EpisodeSpec]:
    return [EpisodeSpec(task_index=t, group_id=f"g{t}", seed=100 + t) for t in tasks]


def grow(
    tokenizer: PreTrainedTokenizerFast,
    tree: TreeSearch,
    tasks: Sequence[int] = (0, 1, 2),
    *,
    num_slots: int = 4,
    is_vector: bool = True,
    engine: Counting | None = None,
) -> RolloutBatch:
    if is_vector:
        slots: Any = make_slots("calibadv_env:DeepSearch-Toy-v1", num_slots, {"prompt": "question"})
    else:
        slots = ListSlots(
            [gymnasium.make("DeepSearch-Toy-v1", prompt="question") for _ in range(num_slots)]
        )
    try:
        engine = engine or Counting(tokenizer)
        return TreePlayer(slots, engine, tokenizer, PARAMS, tree=tree).play(questions(*tasks))
    finally:
        slots.close()


def test_every_tree_has_its_leaves(tokenizer: PreTrainedTokenizerFast) -> None:
    tree = TreeSearch(num_trees=2, num_expansions=2, num_rounds=2, num_leaves=3)
    engine = Counting(tokenizer)
    batch = grow(tokenizer, tree, engine=engine)
    assert len(batch.trajectories) == 3 * tree.group_size
    sizes = Counter((each.group_id, each.reset_info[TREE_KEY]) for each in batch.trajectories)
    assert set(sizes.values()) == {3}
    assert sorted(sizes) == [(f"g{t}", k) for t in range(3) for k in range(2)]
    assert batch.stats.num_episodes == len(batch.trajectories)
    assert batch.stats.num_turns == engine.num_turns, "a prefix is played once"
    assert batch.stats.num_groups_lost == 0
    assert not engine.held


@pytest.mark.parametrize("is_vector", [True, False])
def test_a_branch_equals_an_episode_from_the_start(
    tokenizer: PreTrainedTokenizerFast, is_vector: bool
) -> None:
    """Every leaf, played again from the start with the same actions, is the same episode."""
    tree = TreeSearch(num_trees=1, num_expansions=4, num_rounds=2, num_leaves=9)
    batch = grow(tokenizer, tree, (3, 5), is_vector=is_vector)
    env = gymnasium.make("DeepSearch-Toy-v1", prompt="question")
    for leaf in batch.trajectories:
        text, info = env.reset(options={"task_index": leaf.reset_info["task_index"]})
        assert text == leaf.prompt_text
        assert {**info, TREE_KEY: 0} == dict(leaf.reset_info)
        for turn in leaf.turns:
            observation, reward, terminated, truncated, facts = env.step(turn.action_text)
            assert (observation, reward) == (turn.observation_text, turn.reward)
            assert dict(turn.info) == facts
        assert (terminated, truncated) == (leaf.is_terminated, leaf.is_truncated)
    env.close()


def test_branches_share_tokens_and_differ_behind_them(tokenizer: PreTrainedTokenizerFast) -> None:
    tree = TreeSearch(num_trees=1, num_expansions=3, num_rounds=2, num_leaves=7)
    leaves = grow(tokenizer, tree, (4,)).trajectories
    shared = [_shared_turns(leaves[0], leaf) for leaf in leaves[1:]]
    assert any(count > 0 for count in shared), "some branch leaves after the first turn"
    assert any(count == 0 for count in shared), "some branch leaves at the root"
    for leaf in leaves[1:]:
        assert leaf.turns != leaves[0].turns
        common = _shared_turns(leaves[0], leaf)
        for mine, first in zip(leaf.turns[:common], leaves[0].turns, strict=False):
            assert mine is first, "the very same record: tokens and log-probabilities as sampled"
        written = "".join(turn.action_text for turn in leaf.turns[common:])
        assert written != "".join(turn.action_text for turn in leaves[0].turns[common:])


def _shared_turns(first: Trajectory, second: Trajectory) -> int:
    pairs = zip(first.turns, second.turns, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a is not b), 0)


def test_the_number_of_slots_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    tree = TreeSearch(num_trees=2, num_expansions=2, num_rounds=1, num_leaves=2)
    batches = [
        grow(tokenizer, tree, num_slots=slots, is_vector=vector).trajectories
        for slots, vector in ((1, True), (3, True), (16, True), (3, False))
    ]
    assert batches[0] == batches[1] == batches[2] == batches[3]


def test_as_a_player_of_groups(tokenizer: PreTrainedTokenizerFast) -> None:
    """One spec a member, as the trainer has them; the first member's seed is the question's."""
    tree = TreeSearch(num_trees=2, num_expansions=1, num_rounds=1, num_leaves=2)
    specs = [
        EpisodeSpec(task_index=t, group_id=f"g{t}", seed=100 + t + 1000 * member)
        for t in (0, 1, 2)
        for member in range(tree.group_size)
    ]
    slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 4, {"prompt": "question"})
    batch = TreePlayer(slots, Counting(tokenizer), tokenizer, PARAMS, tree=tree).play(specs)
    slots.close()
    assert batch.trajectories == grow(tokenizer, tree).trajectories


def test_groups_that_a_journal_holds_whole_are_not_grown_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tree = TreeSearch(num_trees=1, num_expansions=1, num_rounds=1, num_leaves=2)
    journal = StepJournal(tmp_path, config_hash="x")
    specs = [
        EpisodeSpec(task_index=t, group_id=f"g{t}", seed=10 * t + member)
        for t in range(3)
        for member in range(2)
    ]

    def play(specs: Sequence[EpisodeSpec], step: Any) -> tuple[RolloutBatch, int]:
        slots = make_slots("calibadv_env:DeepSearch-Toy-v1", 4, {"prompt": "question"})
        engine = Counting(tokenizer)
        player = TreePlayer(slots, engine, tokenizer, PARAMS, tree=tree)
        batch = player.play(specs, journal=step)
        slots.close()
        return batch, engine.num_turns

    with journal.open(update=0, policy_version=0) as step:
        before, num_turns = play(specs[:4], step)
        step.record(specs[4], before.trajectories[0])
    with journal.open(update=0, policy_version=0) as step:
        after, num_more = play(specs, step)
    assert after.trajectories[:4] == before.trajectories
    assert [each.group_id for each in after.trajectories[4:]] == ["g2", "g2"]
    assert (after.stats.num_reused, after.stats.num_episodes) == (4, 6)
    assert 0 < num_more < num_turns
    assert after.trajectories == play(specs, None)[0].trajectories


def test_seeds_of_chains_differ() -> None:
    seeds = {chain_seed(q, t, c) for q in range(4) for t in range(4) for c in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_environment_that_cannot_be_cloned_is_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    class Plain(gymnasium.Env[str, str]):
        def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
            return "x", {}

    slots = ListSlots([Plain()])
    with pytest.raises(ValueError, match="Plain has no clone_state"):
        TreePlayer(slots, Counting(tokenizer), tokenizer, PARAMS).play(questions(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trees": 0}, "num_trees must be positive"),
        ({"num_leaves": 0}, "num_leaves must be positive"),
        ({"num_rounds": -1}, "num_rounds must not be negative"),
        ({"num_leaves": 4}, "num_leaves must be at most 3"),
    ],
)
def test_settings_are_checked(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeSearch(**changes)


def episode(*found: tuple[str, ...], texts: Sequence[str] = ()) -> Trajectory:
    texts = texts or [" ".join(each) for each in found]
    turns = tuple(
        Turn(
            action_ids=(1,),
            action_text="a",
            logprobs=(0.0,),
            observation_text=text,
            info={"passage_ids": each},
        )
        for each, text in zip(found, texts, strict=True)
    )
    return Trajectory(group_id="g", task_id="t", prompt_ids=(1,), prompt_text="P", turns=turns)


def test_anchor_states() -> None:
    one = episode(("a", "b"), ("c",), ())
    two = episode(("c",), ("b", "a"), ())
    assert anchor_states(one, "observation") == ("P", "a b", "c")
    assert anchor_states(one)[0] == anchor_states(two)[0]
    assert anchor_states(one)[2] != anchor_states(two)[2]
    assert anchor_states(one, "passages")[2] == anchor_states(two, "passages")[2]
    assert anchor_states(one, "passages")[1] != anchor_states(two, "passages")[1]
    split, joined = (
        episode((), (), (), texts=("x", "1:y", "")),
        episode((), (), (), texts=("x1:", "y", "")),
    )
    assert anchor_states(split)[2] != anchor_states(joined)[2]
    with pytest.raises(ValueError, match="kind must be"):
        anchor_states(one, "hash")  # type: ignore[arg-type]
    bare = Turn(action_ids=(1,), action_text="a", logprobs=(0.0,))
    plain = Trajectory(group_id="g", task_id="t", prompt_ids=(1,), prompt_text="P", turns=(bare,))
    assert anchor_states(plain) == anchor_states(one)[:1]
    with pytest.raises(MissingInfoKeyError, match="passage_ids"):
        anchor_states(plain, "passages")
