"""Normal forms of texts: which answers, words and passages count as equal. Pure."""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from itertools import dropwhile
from typing import Final, Literal, NamedTuple

import regex

Normalizer = Literal["auto", "squad", "unicode"]
"""Names of normal forms: ``squad`` to the letter; ``unicode``, see :func:`unicode_form`; ``auto``
takes for each accepted answer ``unicode`` if it is written without spaces or with vowel signs
(:func:`needs_unicode`), else ``squad``."""

NormalForm = Literal["squad", "unicode"]

_DELETE_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_ARTICLE_WORDS: Final = frozenset({"a", "an", "the"})

UNSPACED: Final = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Bopomofo}\p{Yi}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Le}\p{Tai_Tham}"
)
"""Scripts that put no spaces between words, for a class of ``regex``."""
_SIGNED: Final = (
    r"\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}\p{Kannada}"
    r"\p{Malayalam}\p{Sinhala}\p{Hangul}"
)
"""Scripts whose vowel signs, or particles, the plain rules tear off or cannot tell apart."""
_NEEDS_UNICODE: Final = regex.compile(f"[{UNSPACED}{_SIGNED}]")

_DASHES: Final = r"\p{Pd}\u2212\u2043"
_BEFORE: Final = str.maketrans({"™": None, "℠": None, "´": "'", "⁄": "/"})
_AFTER: Final = str.maketrans({"⁄": "/"} | dict.fromkeys("‘’‛′ʼʹ`", "'"))
_INVISIBLE: Final = regex.compile(r"[\p{Cf}\ufe00-\ufe0f]")
_DOTTED_I: Final = regex.compile("i\u0307+")
_AMS: Final = {"\u0e4d\u0e32": "\u0e33", "\u0ecd\u0eb2": "\u0eb3"}
"""Vowels of Thai and Lao that NFKC takes apart, which dictionaries of words do not."""
_AM: Final = regex.compile("|".join(_AMS))
_DASH: Final = regex.compile(f"[{_DASHES}]")
_DIGIT: Final = regex.compile(r"(?![0-9])\d")
_CURRENCY: Final = regex.compile(r"(?<=-)\p{Sc}|\p{Sc}(?=-)|(\p{Sc})")
_THOUSANDS: Final = regex.compile(r"(?<![\d.,])\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,])")
_CHARACTER: Final = rf"[{UNSPACED}\p{{Hangul}}]\p{{M}}*"
_LETTER: Final = rf"[[\p{{L}}\p{{M}}\p{{Nl}}\p{{No}}]--[{UNSPACED}\p{{Hangul}}]]"
_TOKEN: Final = regex.compile(
    rf"(?V1){_CHARACTER}"
    # A number: a minus only where nothing stands before it, points and the like only within.
    rf"|(?:(?<=^|[\s(\[{{])(?<!\d\s)-)?(?:(?<![\p{{L}}\p{{N}}])\.)?\d+(?:[.,:/]\d+)*"
    rf"(?:{_LETTER}|\d)*[+\#]*"
    # A word: points, apostrophes and ampersands within it, C++ and C# whole.
    rf"|{_LETTER}(?:{_LETTER}|\d)*(?:['.&]{_LETTER}(?:{_LETTER}|\d)*)*[+\#]*"
)
_INNER: Final = str.maketrans("", "", "'&")


class Form(NamedTuple):
    """A text in normal form.

    Attributes:
        text: Words joined by single blanks.
        is_bare: True where the rules leave nothing of the text; ``text`` then is the text itself,
            in lower case, so that "A" equals "a" and nothing else.
    """

    text: str
    is_bare: bool = False


def normalize_answer(text: str) -> str:
    """Reduces an answer to what counts.

    Lower-cases, deletes ASCII punctuation, replaces the words a, an, the by a space, and joins
    what is left with single spaces; in this order.

    **Source:** the evaluation script of SQuAD 1.1.

    Args:
        text: Any text.

    Returns:
        The normalised text; "" if nothing is left.
    """
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def unicode_form(text: str) -> str:
    """The words of a text, equal for spellings that differ in Unicode alone.

    * One form for composed and decomposed letters, full width, ligatures (NFKC), upper and lower
      case (case folding), digits of any script, dashes, apostrophes, quotation marks; invisible
      characters go. Accents stay: "Beyonce" is not "Beyoncé".
    * Signs that carry meaning stay: the point of 3.5, 9/11, 10:30, the minus of -5, C++, C#, 18+.
      Commas between thousands go. Currency and per cent signs go, € like $.
    * Points, apostrophes and ampersands within a word go (U.S., O'Hare, AT&T); other punctuation
      parts words, so "1990–1995" is "1990 1995".
    * Characters of scripts without spaces, and of Korean, are words of their own, so F1 counts
      characters there.
    * A leading a, an, the goes. Those within a text stay.

    **Differs** from SQuAD's form where that makes 35 of 3.5, 5 of -5, C of C++ and nothing of "A".

    Args:
        text: Any text.

    Returns:
        The words, joined by single blanks; "" if there are none.
    """
    words = folded_words(folded_numbers(fold(text)))
    return " ".join(dropwhile(_ARTICLE_WORDS.__contains__, words))


def folded_words(text: str) -> list[str]:
    """The words of a text that :func:`fold` and :func:`folded_numbers` have gone over."""
    return [_bare_word(word) for word in _TOKEN.findall(text)]


def fold(text: str) -> str:
    """A text in one of its spellings: NFKC, folded case, plain dashes, quotes and digits.

    Accents stay; invisible characters go.
    """
    if text.isascii():
        return text.lower().replace("`", "'")
    text = unicodedata.normalize("NFC", text).translate(_BEFORE)
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    text = unicodedata.normalize("NFKC", _DOTTED_I.sub("i", text)).translate(_AFTER)
    text = _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)
    folded: str = _DASH.sub("-", _AM.sub(lambda found: _AMS[found[0]], text))
    return folded


def needs_unicode(text: str) -> bool:
    """True for a text in a script without spaces between words or with vowel signs."""
    return not text.isascii() and _NEEDS_UNICODE.search(text) is not None


def num_special(text: str) -> int:
    """Number of characters in scripts without spaces between words or with vowel signs."""
    return 0 if text.isascii() else len(_NEEDS_UNICODE.findall(text))


def form_for(golden: str, normalizer: Normalizer) -> NormalForm:
    """The normal form in which an accepted answer is compared."""
    if normalizer == "auto":
        return "unicode" if needs_unicode(golden) else "squad"
    return normalizer


def normal(text: str, form: NormalForm) -> str:
    """A text in a normal form; "" if nothing is left."""
    return normalize_answer(text) if form == "squad" else unicode_form(text)


@lru_cache(maxsize=4096)
def answer_form(text: str, form: NormalForm) -> Form:
    """An answer in a normal form, or in lower case where the rules leave nothing of it."""
    left = normal(text, form)
    if left:
        return Form(left)
    kept = " ".join(fold(text).split())
    return Form(kept.translate(_DELETE_PUNCTUATION).strip() or kept, is_bare=True)


def folded_numbers(text: str) -> str:
    """A folded text without currency signs and without commas between thousands."""
    text = _CURRENCY.sub(lambda found: " " if found[1] else "", text)
    folded: str = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return folded


def _bare_word(word: str) -> str:
    if word[0] == ".":
        return f"0{word}"
    if word[0] == "-" or word[0].isdigit():
        return word
    return word.translate(_INNER).replace(".", "")
