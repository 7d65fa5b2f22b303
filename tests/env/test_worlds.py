"""The harder worlds are hard in the way that their page says, and fair where they can be."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache

import gymnasium
import pytest

from calibadv_env.data.atlas.records import fold
from calibadv_env.data.atlas.rewording import FORMS
from calibadv_env.data.base import QATask
from calibadv_env.data.names import SPLITS
from calibadv_env.data.preparing.balance import measure_balance
from calibadv_env.data.registry import get_dataset
from calibadv_env.env import DeepSearchEnv
from calibadv_env.oracle import play_oracle
from calibadv_env.protocol.words import split_words
from calibadv_env.vector import DeepSearchVectorEnv

HARDER = ("atlas-noisy", "atlas-homonyms", "atlas-reworded", "atlas-long", "atlas-open")


@cache
def tasks(name: str, split: str = "dev") -> list[QATask]:
    return list(get_dataset(name).tasks(split))


@cache
def oracle(name: str, max_turns: int, reward: str = "f1") -> tuple[float, float, float]:
    """Reward, searches and first hits of the searcher that knows the chains, on some of dev."""
    env = DeepSearchVectorEnv(
        num_envs=50, dataset=name, split="dev", max_turns=max_turns, reward=reward
    )
    played = play_oracle(env, tasks(name), range(100))
    mean = [sum(values) / 100 for values in zip(*map(_facts, played), strict=True)]
    return mean[0], mean[1], mean[2]


def _facts(episode: object) -> tuple[float, float, float]:
    return episode.reward, episode.num_searches, episode.is_first_hit  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HARDER)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_nothing_of_a_harder_world_was_seen_in_its_training(name: str, split: str) -> None:
    assert measure_balance(tasks(name, split), tasks(name, "train")).unseen_share == 1.0


@pytest.mark.parametrize("name", ["atlas-noisy", "atlas-reworded", "atlas-open"])
def test_the_variants_of_atlas_fair_are_as_balanced(name: str) -> None:
    for split, least in (("dev", 50), ("test", 80)):
        found = measure_balance(tasks(name, split), None)
        assert found.effective_clusters >= least
        assert min(found.hop_shares["3"], found.hop_shares["4"]) >= 1 / 3


def test_a_searcher_that_knows_the_chain_answers_everything_in_the_fair_world() -> None:
    reward, _, first = oracle("atlas-fair", 5)
    assert (reward, first) == (1.0, 1.0)


def test_searches_miss_in_the_noisy_world_and_other_words_help() -> None:
    reward, searches, first = oracle("atlas-noisy", 5)
    assert 0.6 < first < 0.8
    assert reward < oracle("atlas-noisy", 12)[0]
    assert oracle("atlas-noisy", 12)[0] > 0.9
    assert searches > oracle("atlas-fair", 5)[1]


def test_the_noisy_world_has_false_passages_which_say_who_speaks() -> None:
    corpus = get_dataset("atlas-noisy").corpus()
    false = [p for p in corpus.passages if p.id.endswith((":stale", ":hearsay"))]
    assert len(false) > 8000
    assert all(p.text.startswith(("An almanac of 1", "A traveller wrote home:")) for p in false)
    golds = {gold for task in tasks("atlas-noisy") for hop in task.gold_passages for gold in hop}
    assert golds.isdisjoint(p.id for p in false)


def test_a_homonym_is_found_by_name_and_country() -> None:
    assert oracle("atlas-homonyms", 5)[0] == 1.0
    texts = [
        fold(passage.text).replace(" in the ", " in ")
        for passage in get_dataset("atlas-homonyms").corpus()
        if passage.id.startswith("airport:")
    ]
    for task in tasks("atlas-homonyms"):
        places = [hop for hop in task.metadata["chain"] if ", " in hop["subject"]]
        name, country = places[-1]["subject"].rsplit(", ", 1)
        assert name in task.question
        # A namesake that several airports of its country serve says no country, and is there too.
        served = [text for text in texts if f"serves the city of {fold(name)} " in f"{text} "]
        assert len(served) > 1, name
        assert sum(text.endswith(f" in {fold(country)}") for text in served) == 1, name


def test_passages_of_the_reworded_world_do_not_say_the_relation_of_the_question() -> None:
    for (_, relation), forms in FORMS.items():
        if relation in ("country", "city", "year"):
            continue
        for form in forms:
            words = form.sentence.format(subject="x", object="y")
            assert ({*split_words(relation)} - {"from"}).isdisjoint(split_words(words)), form
    reward, searches, first = oracle("atlas-reworded", 5)
    assert (reward, first) == (1.0, 1.0)
    assert searches == pytest.approx(sum(t.hops for t in tasks("atlas-reworded")[:100]) / 100)


def test_the_long_world_takes_five_and_six_searches() -> None:
    assert set(Counter(task.hops for task in tasks("atlas-long"))) == {5, 6}
    assert oracle("atlas-long", 8)[0] == 1.0
    with pytest.warns(UserWarning, match=r"up to 6 searches.*set max_turns to at least 6"):
        DeepSearchEnv(dataset="atlas-long", max_turns=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gymnasium.make("DeepSearch-AtlasLong-v1").reset()[1]["max_turns"] == 8


def test_the_open_world_pays_for_admitting_ignorance() -> None:
    everything = [task for split in SPLITS for task in tasks("atlas-open", split)]
    unanswerable = [task for task in everything if not task.metadata["is_answerable"]]
    assert 0.2 < len(unanswerable) / len(everything) < 0.4
    corpus = get_dataset("atlas-open").corpus()
    assert all(g in corpus for task in everything for hop in task.gold_passages for g in hop)
    assert all(len(task.gold_passages) < task.hops for task in unanswerable)
    assert oracle("atlas-open", 5, "abstain")[0] == 1.0
    env = gymnasium.make("DeepSearch-AtlasOpen-v1", split="dev")
    for is_answerable, earned in ((True, 0.25), (False, 1.0)):
        task = next(t for t in tasks("atlas-open") if t.metadata["is_answerable"] is is_answerable)
        for answer, expected in (("not known", earned), ("nonsense", 0.0)):
            env.reset(options={"task_id": task.id})
            env.step("<think>x</think><search>x</search>")
            assert env.step(f"<think>x</think><answer>{answer}</answer>")[1] == expected


def test_a_reward_that_knows_no_abstention_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"answers of atlas-open are made for 'abstain'"):
        DeepSearchEnv(dataset="atlas-open", reward="f1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium.make("DeepSearch-AtlasOpen-v1")
