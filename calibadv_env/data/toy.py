"""``toy``: a small generated world, closed and consistent, for tests that learn in seconds.

Sixteen countries, each with a capital, two towns and four people, all of them invented words of
five letters. A passage states one fact; a question asks for a fact (one hop) or for a fact about
a thing that must be looked up first (two and three hops). Splits are cut by country, and each
person and town belongs to one country, so that no passage of a dev or test chain belongs to a train
chain. Only the eight jobs, which are answers and never bridges, are shared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import Corpus

SEED: Final = 20_418
"""Seed of the names and of the orders; a change of it is a change of the dataset."""

_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_NUM_COUNTRIES: Final = 16
_NUM_PER_SPLIT: Final = {"train": 10, "dev": 3, "test": 3}
_JOBS: Final = ("baker", "doctor", "farmer", "miner", "painter", "sailor", "teacher", "weaver")
_RESERVED: Final = frozenset(_JOBS) | {"river"}

_SENTENCES: Final = {
    "born": "{subject} was born in {object}.",
    "job": "{subject} works as a {object}.",
    "country": "{subject} is a city in the country {object}.",
    "capital": "The capital of {subject} is {object}.",
    "currency": "The currency of {subject} is the {object}.",
    "river": "The longest river in {subject} is the {object}.",
}
_OF_A_COUNTRY: Final = ("capital", "currency", "river")
_PHRASES: Final = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "river": "What is the longest river in {}?",
}


@dataclass(frozen=True, slots=True)
class _Fact:
    subject: str
    relation: str
    object: str

    @property
    def passage_id(self) -> str:
        return f"toy:{self.relation}:{self.subject.lower()}"


@dataclass(frozen=True, slots=True)
class _Country:
    """A country's facts by what they are about."""

    facts: tuple[_Fact, ...]
    cities: tuple[_Fact, ...]
    births: tuple[_Fact, ...]
    jobs: tuple[_Fact, ...]


def load_dataset() -> Dataset:
    """Builds the dataset; the same passages and tasks at every call, on every machine."""
    rng = random.Random(SEED)
    world = _build_world(rng)
    corpus = _build_corpus(world, rng)
    splits: dict[str, TaskSet] = {}
    start = 0
    for split, count in _NUM_PER_SPLIT.items():
        tasks = [task for country in world[start : start + count] for task in _tasks_of(country)]
        rng.shuffle(tasks)
        splits[split] = TaskSet(tasks, name="toy", split=split)
        start += count
    return Dataset(
        name="toy",
        splits=tuple(splits),
        load_tasks=splits.__getitem__,
        load_corpus=lambda: corpus,
        description="An invented world of 16 countries; questions of 1 to 3 hops.",
    )


def _build_world(rng: random.Random) -> tuple[_Country, ...]:
    names = iter(_make_names(rng, 12 * _NUM_COUNTRIES))
    countries = []
    for _ in range(_NUM_COUNTRIES):
        country, capital, currency, river = (next(names) for _ in range(4))
        towns = [next(names), next(names)]
        people = [next(names) for _ in range(4)]
        objects = {"capital": capital, "currency": currency.lower(), "river": river}
        countries.append(
            _Country(
                facts=tuple(_Fact(country, key, objects[key]) for key in _OF_A_COUNTRY),
                cities=tuple(_Fact(city, "country", country) for city in (capital, *towns)),
                births=tuple(
                    _Fact(person, "born", towns[i % 2]) for i, person in enumerate(people)
                ),
                jobs=tuple(_Fact(person, "job", rng.choice(_JOBS)) for person in people),
            )
        )
    return tuple(countries)


def _make_names(rng: random.Random, count: int) -> list[str]:
    """Distinct words of one length, so that none is a part of another."""
    names: dict[str, None] = {}
    while len(names) < count:
        letters = (rng.choice(_VOWELS if i % 2 else _CONSONANTS) for i in range(5))
        name = "".join(letters)
        if name not in _RESERVED:
            names[name.capitalize()] = None
    return list(names)


def _build_corpus(world: Sequence[_Country], rng: random.Random) -> Corpus:
    facts = [fact for c in world for fact in (*c.facts, *c.cities, *c.births, *c.jobs)]
    passages = [
        Passage(
            fact.passage_id,
            fact.subject,
            _SENTENCES[fact.relation].format(subject=fact.subject, object=fact.object),
        )
        for fact in facts
    ]
    rng.shuffle(passages)
    return Corpus(passages)


def _tasks_of(country: _Country) -> list[QATask]:
    """All questions about a country whose answer does not already stand in the question."""
    city_of = {fact.subject: fact for fact in country.cities}
    tasks = [_task(f"Where was {fact.subject} born?", fact) for fact in country.births]
    tasks += [_task(f"What is the job of {fact.subject}?", fact) for fact in country.jobs]
    tasks += [_task(f"In which country is {fact.subject}?", fact) for fact in country.cities]
    tasks += [_ask_about(fact.subject, fact) for fact in country.facts]
    for city in country.cities:
        place = f"the country where {city.subject} is"
        tasks += [
            _ask_about(place, city, fact) for fact in country.facts if fact.object != city.subject
        ]
    for birth in country.births:
        city = city_of[birth.object]
        question = f"In which country was {birth.subject} born?"
        tasks.append(_task(question, birth, city))
        place = f"the country where {birth.subject} was born"
        tasks += [_ask_about(place, birth, city, fact) for fact in country.facts]
    return tasks


def _ask_about(place: str, *chain: _Fact) -> QATask:
    return _task(_PHRASES[chain[-1].relation].format(place), *chain)


def _task(question: str, *chain: _Fact) -> QATask:
    """A task whose answer is the object of the last fact of its chain."""
    kind = "-".join(fact.relation for fact in chain)
    return QATask(
        id=f"toy:{kind}:{chain[0].subject.lower()}",
        question=question,
        golden_answers=(chain[-1].object,),
        gold_passages=tuple((fact.passage_id,) for fact in chain),
        hops=len(chain),
        metadata={
            "kind": kind,
            "chain": [
                {"subject": fact.subject, "relation": fact.relation, "object": fact.object}
                for fact in chain
            ],
        },
    )
