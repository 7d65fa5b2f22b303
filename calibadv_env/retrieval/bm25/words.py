"""How texts are split into the words that BM25 counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import regex

from calibadv_env.common.extras import import_extra
from calibadv_env.protocol.normalizing import (
    UNSPACED,
    fold,
    folded_numbers,
    folded_words,
    num_special,
)
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import indexed_text

WORD: Final = re.compile(r"(?u)\b\w\w+\b")
"""The words of bm25s, after lower-casing."""

WordRules = Literal["plain", "unicode"]
"""Names of rules for words; see :func:`split_plain` and :func:`split_unicode`."""

WordChoice = Literal["auto", "plain", "unicode"]
"""Names of rules for words; "auto" is "unicode" for a corpus of which one letter in a hundred is in
a script without spaces between words or with vowel signs, else "plain"."""

_SAMPLE: Final = 1000
_LEAST_SHARE: Final = 0.01
_HANGUL: Final = r"\p{Hangul}"
_RUN: Final = regex.compile(rf"(?:[{UNSPACED}{_HANGUL}]\p{{M}}*)+")
_COMPOUND: Final = regex.compile(rf"\p{{Han}}{{3,}}|{_HANGUL}{{3,}}")


def split_plain(text: str) -> list[str]:
    """Lower-cased words of two letters, digits or underscores and more: those of bm25s."""
    return WORD.findall(text.lower())


def split_unicode(text: str) -> list[str]:
    """Words in the normal form ``unicode``, those of scripts without spaces by ICU's dictionaries.

    A Chinese or Korean word of three characters or more also gives its pairs of characters, so
    that a part of it finds it, whatever the dictionary joins: "北京市" gives "北京" and "京市" too.

    Raises:
        MissingDependencyError: if the text has such a script and icu4py is not installed.
    """
    folded = folded_numbers(fold(text))
    if folded.isascii():
        return folded_words(folded)
    words: list[str] = []
    start = 0
    for run in _RUN.finditer(folded):
        words += folded_words(folded[start : run.start()])
        for word in _segments(run[0]):
            words.append(word)
            if _COMPOUND.fullmatch(word):
                words += [word[i : i + 2] for i in range(len(word) - 1)]
        start = run.end()
    return words + folded_words(folded[start:])


def splitter(rules: WordRules) -> Callable[[str], list[str]]:
    """The function that splits a text by some rules."""
    return split_plain if rules == "plain" else split_unicode


def rules_for(passages: Sequence[Passage], choice: WordChoice) -> WordRules:
    """The rules for a corpus: those that were chosen, or what "auto" makes of its scripts.

    "auto" looks at a thousand passages, evenly spread.
    """
    if choice != "auto":
        return choice
    step = max(1, len(passages) // _SAMPLE)
    letters = special = 0
    for position in range(0, len(passages), step):
        text = indexed_text(passages[position])
        letters += len(text)
        special += num_special(text)
    return "unicode" if special >= _LEAST_SHARE * letters and special else "plain"


def words_record(rules: WordRules) -> dict[str, Any]:
    """What words by these rules depend on, for identities; plain ones add nothing."""
    return {} if rules == "plain" else {"words": "unicode", "icu": icu_version()}


def manifest_words(rules: WordRules) -> dict[str, Any]:
    """The same for manifests of indexes, where plain words are their pattern."""
    return {"words": WORD.pattern} if rules == "plain" else words_record(rules)


def rules_of(manifest: Mapping[str, Any]) -> WordRules:
    """The rules by which the words of an index were split, by the settings in its manifest."""
    return "unicode" if manifest.get("words") == "unicode" else "plain"


def icu_version() -> str:
    """Major version of ICU, whose dictionaries decide what a word is; "none" without it."""
    try:
        return str(_icu().icu_version).partition(".")[0]
    except ImportError:
        return "none"


def _segments(run: str) -> list[str]:
    if len(run) == 1:
        return [run]
    breaker = _breaker()(run, "root")
    return [run[start:end] for start, end in breaker.segments()]


@cache
def _breaker() -> Any:
    _icu()
    return import_extra("icu4py.breakers", "icu", "words of a script without spaces").WordBreaker


def _icu() -> Any:
    return import_extra("icu4py", "icu", "words of a script without spaces")
