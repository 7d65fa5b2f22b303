"""The words of the questions: each chain in two or three paraphrases.

A chain is worded from the inside out: each hop but the last turns the phrase for its subject into
a phrase for its object, and the last one asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from calibadv_env.data.atlas.chains import Chain, Hop
from calibadv_env.data.atlas.world import capitalised, phrase

HOMONYM: Final = "homonym"
"""Kind of subject: a place that has namesakes, written "name, country"."""

#: (kind of subject, relation, inverse?) -> phrases for the object of a hop.
_DESCRIPTIONS: Mapping[tuple[str, str, bool], tuple[str, ...]] = MappingProxyType(
    {
        ("airport", "city", False): ("the city served by {}", "the city whose airport is {}"),
        ("city", "country", False): (
            "the country where {} is located",
            "the country in which {} lies",
        ),
        ("site", "country", False): (
            "the country where the World Heritage Site {} is located",
            "the country that is home to the World Heritage Site {}",
        ),
        ("element", "country", False): (
            "the country where {} was discovered",
            "the country in which {} was discovered",
        ),
        ("city", "capital", True): (
            "the country whose capital is {}",
            "the country with the capital {}",
        ),
        ("country", "capital", False): ("the capital of {}",),
        ("mountain", "highest point", True): (
            "the country whose highest point is {}",
            "the country with {} as its highest point",
        ),
        ("lowland", "lowest point", True): (
            "the country whose lowest point is {}",
            "the country with {} as its lowest point",
        ),
        ("anthem", "national anthem", True): (
            'the country whose national anthem is "{}"',
            'the country with the national anthem "{}"',
        ),
        ("domain", "internet domain", True): (
            "the country whose internet domain is {}",
            "the country with the internet domain {}",
        ),
        ("symbol", "chemical symbol", True): (
            "the element whose chemical symbol is {}",
            "the element with the chemical symbol {}",
        ),
        ("number", "atomic number", True): (
            "the element whose atomic number is {}",
            "the element with the atomic number {}",
        ),
        ("code", "IATA code", True): (
            "the airport whose IATA code is {}",
            "the airport with the IATA code {}",
        ),
        ("code", "ICAO code", True): (
            "the airport whose ICAO code is {}",
            "the airport with the ICAO code {}",
        ),
        ("city", "airport", True): ("the airport that serves {}", "the airport of {}"),
        (HOMONYM, "airport", True): ("the airport that serves {}", "the airport of {}"),
        ("country", "land neighbor", False): (
            "the only land neighbor of {}",
            "the only country with a land border to {}",
        ),
        ("country", "independence from", False): ("the country from which {} gained independence",),
    }
)

#: (kind of subject, relation, inverse?) -> questions for the object of a hop.
_QUESTIONS: Mapping[tuple[str, str, bool], tuple[str, ...]] = MappingProxyType(
    {
        ("country", "capital", False): (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Name the capital of {}.",
        ),
        ("country", "currency", False): (
            "What is the currency of {}?",
            "Which currency is used in {}?",
            "Name the currency of {}.",
        ),
        ("country", "highest point", False): (
            "What is the highest point of {}?",
            "What is the highest point in {}?",
            "Name the highest point of {}.",
        ),
        ("country", "lowest point", False): (
            "What is the lowest point of {}?",
            "What is the lowest point in {}?",
            "Name the lowest point of {}.",
        ),
        ("country", "national anthem", False): (
            "What is the national anthem of {}?",
            "Which song is the national anthem of {}?",
            "Name the national anthem of {}.",
        ),
        ("country", "national holiday", False): (
            "What is the national holiday of {}?",
            "Which day is the national holiday of {}?",
            "Name the national holiday of {}.",
        ),
        ("country", "independence date", False): (
            "What is the independence date of {}?",
            "When did {} gain independence?",
            "On what date did {} become independent?",
        ),
        ("country", "internet domain", False): (
            "What is the internet domain of {}?",
            "Which internet domain belongs to {}?",
            "Name the internet domain of {}.",
        ),
        ("country", "land neighbor", False): (
            "What is the only land neighbor of {}?",
            "Which country is the only land neighbor of {}?",
            "Which is the only country with a land border to {}?",
        ),
        ("country", "independence from", False): (
            "From which country did {} gain independence?",
            "Which country did {} gain independence from?",
        ),
        ("airport", "city", False): (
            "Which city does {} serve?",
            "What city is served by {}?",
            "Name the city served by {}.",
        ),
        ("city", "airport", True): (
            "Which airport serves {}?",
            "Name the airport that serves {}.",
        ),
        ("airport", "IATA code", False): (
            "What is the IATA code of {}?",
            "Which IATA code does {} have?",
        ),
        ("airport", "ICAO code", False): (
            "What is the ICAO code of {}?",
            "Which ICAO code does {} have?",
        ),
        ("code", "IATA code", True): (
            "Which airport has the IATA code {}?",
            "The IATA code {} belongs to which airport?",
        ),
        ("code", "ICAO code", True): (
            "Which airport has the ICAO code {}?",
            "The ICAO code {} belongs to which airport?",
        ),
        (HOMONYM, "airport", True): (
            "Which airport serves {}?",
            "Name the airport that serves {}.",
        ),
        ("city", "country", False): (
            "In which country is {} located?",
            "In which country does {} lie?",
            "Name the country where {} is located.",
        ),
        ("site", "country", False): (
            "In which country is the World Heritage Site {} located?",
            "Which country is home to the World Heritage Site {}?",
            "Name the country where the World Heritage Site {} is located.",
        ),
        ("element", "country", False): (
            "In which country was {} discovered?",
            "Name the country where {} was discovered.",
        ),
        ("element", "year", False): (
            "In what year was {} discovered?",
            "In which year was the discovery of {}?",
        ),
        ("element", "chemical symbol", False): (
            "What is the chemical symbol of {}?",
            "Which chemical symbol stands for {}?",
        ),
        ("element", "atomic number", False): (
            "What is the atomic number of {}?",
            "Which atomic number does {} have?",
        ),
        ("city", "capital", True): (
            "Which country has the capital {}?",
            "{} is the capital of which country?",
        ),
        ("mountain", "highest point", True): (
            "Which country has the highest point {}?",
            "{} is the highest point of which country?",
        ),
        ("lowland", "lowest point", True): (
            "Which country has the lowest point {}?",
            "{} is the lowest point of which country?",
        ),
        ("anthem", "national anthem", True): (
            'Which country has the national anthem "{}"?',
            '"{}" is the national anthem of which country?',
        ),
        ("domain", "internet domain", True): (
            "Which country has the internet domain {}?",
            "The internet domain {} belongs to which country?",
        ),
        ("symbol", "chemical symbol", True): (
            "Which element has the chemical symbol {}?",
            "The chemical symbol {} stands for which element?",
        ),
        ("number", "atomic number", True): (
            "Which element has the atomic number {}?",
            "The atomic number {} belongs to which element?",
        ),
    }
)


def paraphrases(chain: Chain) -> tuple[str, ...]:
    """Two or three different questions that mean the same chain.

    The name that the chain starts from stands in each as it is written in the chain.
    """
    last = chain[-1]
    questions = _QUESTIONS[_key(last)]
    return tuple(
        capitalised(question.format(_subject(chain, variant)))
        for variant, question in enumerate(questions)
    )


def _subject(chain: Chain, variant: int) -> str:
    """The phrase for the subject of the last hop; deeper hops alternate between their wordings."""
    text = _mention(chain[0])
    for depth, (hop, following) in enumerate(pairwise(chain)):
        descriptions = _DESCRIPTIONS[_key(hop)]
        text = descriptions[(variant + depth) % len(descriptions)].format(text)
        if following.subject_kind == HOMONYM:
            name, _ = following.subject.rsplit(", ", 1)
            text = f"the {name} that lies in {text}"
    return text


def _mention(hop: Hop) -> str:
    if hop.subject_kind == "element":
        return f"the element {hop.subject}"
    if hop.subject_kind == HOMONYM:
        name, country = hop.subject.rsplit(", ", 1)
        return f"{name} in {phrase(country)}"
    return phrase(hop.subject) if hop.subject_kind in ("country", "lowland") else hop.subject


def _key(hop: Hop) -> tuple[str, str, bool]:
    return (hop.subject_kind, hop.relation, hop.is_inverse)
