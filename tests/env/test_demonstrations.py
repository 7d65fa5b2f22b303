"""Scripted searchers: what they write, how they err, and how their episodes are renamed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.registry import get_dataset
from calibadv_env.demonstrations import (
    ChainNames,
    Demonstration,
    Demonstrator,
    SearcherConfig,
    Segment,
    _Searcher,
    answer_action,
    chain_of,
    rename,
    search_action,
)
from calibadv_env.protocol.actions import Answer, Search, parse_action
from calibadv_env.vector import DeepSearchVectorEnv

PERFECT = SearcherConfig(stop_early=0, wrong_relation=0, wrong_copy=0, retry=0, rename=0)
TOY = get_dataset("toy").tasks("train")


def changed(**changes: float) -> SearcherConfig:
    """A searcher that errs in the given ways alone."""
    none = {"stop_early": 0.0, "wrong_relation": 0.0, "wrong_copy": 0.0, "retry": 0.0}
    return SearcherConfig(**{**none, "rename": 0.0, **changes})


class WatchedEnv(DeepSearchVectorEnv):
    """The toy world, with every reward and final info written down."""

    def __init__(self, num_envs: int, max_turns: int = 5) -> None:
        super().__init__(
            num_envs=num_envs, dataset="toy", split="train", max_turns=max_turns, prompt="question"
        )
        self.rewards = np.zeros(num_envs)
        self.valid: list[bool] = []
        self.reasons: list[str] = []

    def step(self, actions: Sequence[str]) -> Any:
        out = super().step(actions)
        self.rewards += out[1]
        infos = out[4]
        for slot in np.flatnonzero(infos.get("_is_format_valid", np.zeros(self.num_envs))):
            self.valid.append(bool(infos["is_format_valid"][slot]))
            self.reasons.append(infos["stop_reason"][slot])
        return out


def demonstrator(
    config: SearcherConfig, num_envs: int = 48, seed: int = 0, max_turns: int = 5
) -> tuple[Demonstrator, WatchedEnv]:
    env = WatchedEnv(num_envs, max_turns)
    rng = np.random.default_rng(seed)
    names = ChainNames(TOY)
    return Demonstrator(TOY, names=names, config=config, env=env, rng=rng), env


def actions_of(demonstration: Demonstration) -> list[str]:
    return [segment.text for segment in demonstration if segment.kind == "action"]


def text_of(demonstration: Demonstration) -> str:
    return "".join(segment.text for segment in demonstration)


def task_of(demonstration: Demonstration) -> QATask:
    question = demonstration[0].text.removeprefix("Question: ").strip()
    return next(task for task in TOY if task.question == question)


def test_the_faultless_searcher_solves_every_task() -> None:
    player, env = demonstrator(PERFECT, num_envs=96)
    demonstrations = player.play()
    assert env.rewards.tolist() == [1.0] * 96
    lengths = [len(actions_of(each)) for each in demonstrations]
    assert lengths == [task_of(each).hops + 1 for each in demonstrations]
    assert {task_of(each).hops for each in demonstrations} == {1, 2, 3}


def test_every_action_is_well_formed_and_segments_alternate() -> None:
    player, env = demonstrator(SearcherConfig(), num_envs=96)
    for _ in range(3):
        for demonstration in player.play():
            kinds = [segment.kind for segment in demonstration]
            assert kinds[0] == "prompt"
            assert kinds[1:] == (["action", "observation"] * len(kinds))[: len(kinds) - 1]
            assert kinds[-1] == "action"
            *searches, last = map(parse_action, actions_of(demonstration))
            assert all(isinstance(search, Search) and search.query for search in searches)
            assert isinstance(last, Answer)
            assert last.answer
            assert all(action.think for action in (*searches, last))
    assert env.valid == [True] * 3 * 96


def test_actions_have_a_space_before_names() -> None:
    assert search_action("river", "Old Town") == (
        "<think> need river of Old Town</think><search> Old Town river</search>"
    )
    assert answer_action("Old Town") == "<think> found Old Town</think><answer> Old Town</answer>"


def test_stopping_early_answers_after_one_hop() -> None:
    player, env = demonstrator(changed(stop_early=1))
    demonstrations = player.play()
    assert all(len(actions_of(each)) == 2 for each in demonstrations)
    for demonstration, reward in zip(demonstrations, env.rewards, strict=True):
        chain = chain_of(task_of(demonstration))
        assert actions_of(demonstration)[-1] == answer_action(chain[0]["object"])
        assert reward == float(len(chain) == 1)


def test_a_wrong_relation_is_asked_about_the_right_subject() -> None:
    player, _ = demonstrator(changed(wrong_relation=1), num_envs=96)
    relations = {hop["relation"] for task in TOY for hop in chain_of(task)}
    asked = set()
    for demonstration in player.play():
        first = chain_of(task_of(demonstration))[0]
        query = parse_action(actions_of(demonstration)[0]).query  # type: ignore[union-attr]
        subject, relation = query.rsplit(" ", 1)
        assert subject == first["subject"]
        asked.add((first["relation"], relation))
    assert {relation for _, relation in asked} == relations
    assert any(wanted != relation for wanted, relation in asked)


def test_a_wrong_copy_carries_on_with_another_name_from_the_passages() -> None:
    player, env = demonstrator(changed(wrong_copy=1))
    num_misled = 0
    for demonstration, reward in zip(player.play(), env.rewards, strict=True):
        chain = chain_of(task_of(demonstration))
        found = re.findall(r"found (.*?)</think>", text_of(demonstration))[0]
        observations = [s.text for s in demonstration if s.kind == "observation"]
        assert any(found in text for text in observations)
        num_misled += found != chain[-1]["object"]
        assert reward == float(found == chain[-1]["object"])
    assert num_misled > 10


def lone_searcher(config: SearcherConfig) -> _Searcher:
    tasks = make_tasks()
    return _Searcher(tasks[0], config, ["lake"], ChainNames(tasks), np.random.default_rng(0))


def test_the_retry_asks_for_the_same_fact_rightly() -> None:
    searcher = lone_searcher(changed(wrong_relation=1, retry=1))
    assert searcher.act(4) == search_action("lake", "Ab")
    searcher.read((), 3)
    assert searcher.act(3) == search_action("river", "Ab")
    searcher.read(("p1",), 2)
    assert searcher.act(2) == answer_action("Cd")


def test_the_retry_needs_a_miss_and_a_search_to_spare() -> None:
    searcher = lone_searcher(changed(wrong_relation=1, retry=1))
    searcher.read(("p1",), 3)
    assert searcher.act(3) == answer_action("Cd")
    searcher = lone_searcher(changed(wrong_relation=1, retry=1))
    searcher.read((), 1)
    assert searcher.act(1) == answer_action("Ab")
    searcher = lone_searcher(changed(wrong_relation=1))
    searcher.read((), 3)
    assert searcher.act(3) == answer_action("Ab")


def test_without_budget_it_answers_with_what_it_has() -> None:
    player, env = demonstrator(PERFECT, max_turns=1)
    demonstrations = player.play()
    assert all(len(actions_of(each)) == 2 for each in demonstrations)
    assert env.reasons == ["answered"] * 48
    assert 0 < env.rewards.mean() < 1


def test_only_tasks_that_are_short_enough() -> None:
    player, _ = demonstrator(PERFECT)
    assert {task_of(each).hops for each in player.play(max_hops=1)} == {1}
    assert {task_of(each).hops for each in player.play(max_hops=2)} == {1, 2}
    with pytest.raises(ValueError, match="max_hops must leave at least one task, got 0"):
        player.play(max_hops=0)


def test_the_generator_alone_decides() -> None:
    def play(seed: int) -> list[Demonstration]:
        player, _ = demonstrator(SearcherConfig(), num_envs=16, seed=seed)
        return player.play() + player.play()

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_a_stream_goes_on_where_playing_stopped() -> None:
    player, _ = demonstrator(SearcherConfig(), num_envs=4)
    again, _ = demonstrator(SearcherConfig(), num_envs=4)
    stream = again.stream(max_hops=2)
    expected = [*player.play(max_hops=2), *player.play(max_hops=2)]
    assert [next(stream) for _ in range(8)] == expected


# Renaming


def segments(*texts: str) -> Demonstration:
    kinds = ["prompt", *["action", "observation"] * len(texts)]
    return tuple(Segment(text, kind) for text, kind in zip(texts, kinds, strict=False))  # type: ignore[arg-type]


def renamed(entities: Sequence[str], names: Sequence[str], *texts: str) -> list[str]:
    out = rename(segments(*texts), entities, names, 1.0, np.random.default_rng(0))
    return [segment.text for segment in out]


def test_an_entity_has_one_new_name_throughout() -> None:
    texts = renamed(["Rome"], ["Oslo"], "Is Rome old?", "<search> Rome age</search>", "Rome, Rome.")
    assert texts == ["Is Oslo old?", "<search> Oslo age</search>", "Oslo, Oslo."]


def test_only_whole_words_are_names() -> None:
    texts = renamed(["Chad", "Niger"], ["Xu", "Yi"], "Chadian Chad, Nigeria; Niger-Chad. XChad")
    assert set(re.findall(r"\w+", texts[0])) == {"Chadian", "Xu", "Nigeria", "Yi", "XChad"}


def test_a_name_inside_another_is_left_alone() -> None:
    text = "Guinea, Guinea-Bissau, New Guinea and Papua New Guinea"
    entities = ["Guinea", "Guinea-Bissau", "Papua New Guinea"]
    out = renamed(entities, ["Aa", "Bb", "Cc"], text)[0]
    first, second, third = re.fullmatch(r"(\w+), (\w+), New (\w+) and \w+", out).groups()  # type: ignore[union-attr]
    assert first == third != second
    rng = np.random.default_rng(0)
    same = rename(segments(text), ["Guinea", "Papua New Guinea"], ["Papua New Guinea"], 1.0, rng)
    assert same[0].text == text


def test_names_with_signs_of_a_pattern_are_taken_literally() -> None:
    assert renamed(["A.B (c)+"], ["Zz"], "A.B (c)+ AxB (c)+") == ["Zz AxB (c)+"]


def test_tags_and_heads_of_passages_are_never_renamed() -> None:
    text = "<answer> 1</answer><information>Doc 1(Title: 1) 1 is answer.\n</information>"
    out = renamed(["1", "answer", "Doc", "information", "Title"], ["Oslo", "Rome"], text)[0]
    assert re.fullmatch(
        r"<answer> (\w+)</answer><information>Doc 1\(Title: \1\) \1 is \w+\.\n</information>", out
    )


def test_two_entities_never_share_a_new_name() -> None:
    entities = [f"e{i}" for i in range(20)]
    names = ["a", "b", "c", "e1"] * 9
    out = renamed(entities, names, " ".join(entities))[0].split()
    assert len(set(out)) == 20
    assert {"a", "b", "c"} <= set(out)


def test_chance_of_renaming() -> None:
    entities = [f"e{i}" for i in range(300)]
    names = [f"n{i}" for i in range(100_000)]
    rng = np.random.default_rng(0)
    out = rename(segments(" ".join(entities)), entities, names, 0.3, rng)[0].text.split()
    assert 60 < sum(name.startswith("n") for name in out) < 120
    assert rename(segments("e1"), entities, names, 0.0, rng)[0].text == "e1"
    assert rename(segments("e1"), [], names, 1.0, rng)[0].text == "e1"


WORDS = st.lists(st.sampled_from(["Ab", "Ab Cd", "Cd", "Ef-Ab", "x", "yz"]), min_size=1, max_size=8)


@given(WORDS, st.sets(st.sampled_from(["Ab", "Ab Cd", "Cd", "Ef-Ab"]), min_size=1), st.integers(0))
def test_renaming_is_one_to_one(words: list[str], entities: set[str], seed: int) -> None:
    names = [f"N{i}" for i in range(50)]
    original = segments("; ".join(words), "; ".join(reversed(words)))
    rng = np.random.default_rng(seed)
    first, second = (
        s.text.split("; ") for s in rename(original, sorted(entities), names, 1.0, rng)
    )
    assert first == second[::-1]
    pairs = set(zip(words, first, strict=True))
    assert len({old for old, _ in pairs}) == len(pairs) == len({new for _, new in pairs})
    assert {old for old, new in pairs if old == new and old in entities} == set()


def test_a_renamed_episode_is_still_answered_from_its_passages() -> None:
    player, _ = demonstrator(changed(rename=1), num_envs=32)
    originals = {name for task in TOY for hop in chain_of(task) for name in hop.values()}
    for demonstration in player.play():
        text = text_of(demonstration)
        queries = re.findall(r"<search> (\S+) \w+</search>", text)
        answer = re.findall(r"<answer> (.*?)</answer>", text)[0]
        observations = [s.text for s in demonstration if s.kind == "observation"]
        assert queries[0] in demonstration[0].text
        for query, seen in zip([*queries[1:], answer], observations, strict=True):
            assert query in seen
        assert answer in originals


# Chains, names and settings


def make_tasks(**changes: Any) -> TaskSet:
    hop = {"subject": "Ab", "relation": "river", "object": "Cd"}
    values: dict[str, Any] = {
        "id": "t",
        "question": "q",
        "golden_answers": ("Cd",),
        "gold_passages": (("p1", "p2"),),
        "hops": 1,
        "metadata": {"chain": [hop]},
    }
    return TaskSet([QATask(**{**values, **changes})], name="made", split="train")


def test_names_of_chains() -> None:
    names = ChainNames(make_tasks())
    assert names.names == ("Ab", "Cd")
    assert names.entities_of("p1") == names.entities_of("p2") == ("Ab", "Cd")
    assert names.entities_of("p3") == ()


def test_names_of_the_toy_world_stand_in_their_passages() -> None:
    names = ChainNames(TOY)
    corpus = get_dataset("toy").corpus()
    assert len(names.names) == len(set(names.names)) > 100
    for task in TOY:
        for (gold,) in task.gold_passages:
            passage = corpus.by_id(gold)
            assert set(names.entities_of(gold)) <= set(re.findall(r"\w+", passage.text))


def test_a_task_without_a_chain_is_named() -> None:
    for metadata in ({}, {"chain": []}):
        tasks = make_tasks(metadata=metadata)
        with pytest.raises(ValueError, match=r"task 't' has no metadata\['chain'\]"):
            ChainNames(tasks)
        with pytest.raises(ValueError, match=r"task 't' has no metadata\['chain'\]"):
            Demonstrator(
                tasks,
                names=ChainNames(TOY),
                config=PERFECT,
                env=WatchedEnv(1),
                rng=np.random.default_rng(0),
            )
    with pytest.raises(ValueError, match=r"gold_passages of task 't' .* 1 hops .*, got 0"):
        ChainNames(make_tasks(gold_passages=()))


def test_a_search_that_finds_nothing_is_survived() -> None:
    tasks = make_tasks()
    searcher = _Searcher(tasks[0], PERFECT, ["river"], ChainNames(tasks), np.random.default_rng(0))
    assert searcher.act(3) == search_action("river", "Ab")
    searcher.read((), 2)
    assert searcher.act(2) == answer_action("Ab")


@pytest.mark.parametrize("name", ["stop_early", "wrong_relation", "wrong_copy", "retry", "rename"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got {value}"):
        SearcherConfig(**{name: value})
