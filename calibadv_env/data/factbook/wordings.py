"""Words of questions, of ways between pages and of sets of pages, three wordings of each. Pure.

The wordings of a question say the same: they differ in the sentence and in how each step is
described, never in names, labels of fields, editions or numbers.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Words: TypeAlias = tuple[str, str, str]
"""The same in each wording; ``{}`` stands for what it is about."""

LONGEST_BORDER: Final[Words] = (
    "the country with the longest land border with {}",
    "the country across the longest land border of {}",
    "the land neighbor that has the longest border with {}",
)
SHORTEST_BORDER: Final[Words] = (
    "the country with the shortest land border with {}",
    "the country across the shortest land border of {}",
    "the land neighbor that has the shortest border with {}",
)
ONLY_BORDER: Final[Words] = (
    "the only country with a land border with {}",
    "the only country across a land border of {}",
    "the one land neighbor of {}",
)
OWNER: Final[Words] = (
    "the country that {} belongs to",
    "the country with {} as a dependency",
    "the country to which {} belongs",
)
EXPORTS: Final[Words] = (
    "the country that takes the largest share of the exports of {}",
    "the main destination of the exports of {}",
    "the largest single buyer of the exports of {}",
)
IMPORTS: Final[Words] = (
    "the country that sends the largest share of the imports of {}",
    "the main origin of the imports of {}",
    "the largest single supplier of the imports of {}",
)
CAPITAL: Final[Words] = (
    "the country whose capital is {}",
    "the country that has {} as its capital",
    "the country governed from the capital {}",
)
AIRCRAFT: Final[Words] = (
    "the country whose civil aircraft registrations begin with {}",
    "the country with {} as prefix of its civil aircraft registrations",
    "the country whose civil aircraft bear the prefix {}",
)
INTERNET: Final[Words] = (
    "the country or area with the internet country code {}",
    "the country or area whose internet country code is {}",
    "the country or area behind the internet country code {}",
)
NEIGHBORS: Final[Words] = (
    "the countries that border {} by land",
    "the land neighbors of {}",
    "the countries with a land border with {}",
)
SHORE: Final[Words] = (
    "the countries on the {}",
    "the countries that lie on the {}",
    "the countries with a coast on the {}",
)
MEMBERS: Final[Words] = ("the members of {}", "the membership of {}", "all members of {}")
WINNER: Final[Words] = (
    "whichever of {words} has the {most} {field}",
    "the one among {words} with the {most} {field}",
    "the one of {words} that has the {most} {field}",
)
ASKED: Final[Words] = (
    "What is the {field} of {place}?",
    "Give the {field} of {place}.",
    "Find {place} and state its {field}.",
)
LISTED: Final[Words] = (
    "Which of {words} have {limit}?",
    "Name those of {words} that have {limit}.",
    "List every one of {words} with {limit}.",
)
COUNTED: Final[Words] = (
    "How many of {words} have {limit}?",
    "Count those of {words} that have {limit}.",
    "Of {words}, how many have {limit}?",
)
APART: Final[Words] = (
    "By how much do {first} and {place} differ in {field}?",
    "What is the difference in {field} between {first} and {place}?",
    "How far apart are {first} and {place} in {field}?",
)
TOGETHER: Final[Words] = (
    "What do {first} and {place} have together as {field}?",
    "What is the {field} of {first} and {place} taken together?",
    "Add the {field} of {first} to that of {place}: what is the sum?",
)


def same(text: str) -> Words:
    """Words that are the same in every wording, such as a name."""
    return (text, text, text)


def filled(words: Words, about: Words) -> Words:
    """Words with what they are about in its place."""
    first, second, third = (
        text.replace("{}", name) for text, name in zip(words, about, strict=True)
    )
    return (first, second, third)


def worded(forms: Words, **parts: Words) -> Words:
    """Forms with their parts filled in."""
    first, second, third = (
        form.format(**{name: words[number] for name, words in parts.items()})
        for number, form in enumerate(forms)
    )
    return (first, second, third)


def sentences(forms: Words, **parts: Words) -> Words:
    """Forms with their parts filled in, each beginning with a capital letter."""
    first, second, third = (text[:1].upper() + text[1:] for text in worded(forms, **parts))
    return (first, second, third)
