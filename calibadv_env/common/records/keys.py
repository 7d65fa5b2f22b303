"""Names under which records of different origin keep one thing, best first; and look-up by them.

Case, underscores, blanks and hyphens in a key do not matter: "QuestionId" is "question_id".
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

QUESTION: Final = (
    "question",
    "query",
    "question_text",
    "query_text",
    "raw_question",
    "problem",
    "prompt",
    "input",
    "ques",
    "question_body",
    "user_query",
    "claim",
    "instruction",
    "question_stem",
    "query_string",
    "user_input",
    "utterance",
    "ambiguous_question",
    "body",
    "q",
)
ANSWERS: Final = (
    "golden_answers",
    "answers",
    "gold_answers",
    "possible_answers",
    "accepted_answers",
    "golden_answer",
    "gold_answer",
    "ground_truths",
    "ground_truth",
    "groundtruth",
    "answer",
    "reference_answers",
    "reference_answer",
    "ref_answer",
    "correct_answers",
    "correct_answer",
    "expected_answers",
    "expected_answer",
    "expected_output",
    "expected",
    "ideal",
    "answer_choice",
    "final_answer",
    "exact_answer",
    "final_decision",
    "short_answers",
    "short_answer",
    "nq_answer",
    "answer_text",
    "answers_objects",
    "target",
    "targets",
    "gold",
    "label",
    "reference",
    "references",
    "output",
    "best_answer",
    "a",
)
RIVALS: Final = (
    "golden_answers",
    "answers",
    "gold_answers",
    "golden_answer",
    "gold_answer",
    "ground_truths",
    "ground_truth",
    "groundtruth",
    "answer",
    "reference_answers",
    "reference_answer",
    "correct_answers",
    "correct_answer",
    "expected_answers",
    "expected_answer",
    "expected_output",
    "final_answer",
)
"""Those of them that mean nothing else; where two of them say different things, one is wrong."""
SAID: Final = ("completion", "response", "chosen")
"""Keys of what a model said: answers in a set of examples, and none in a log."""
ALIASES: Final = (
    "answer_aliases",
    "answers_aliases",
    "aliases",
    "answer_alias",
    "alt_ans",
    "alt_answers",
    "alternative_answers",
    "aug_answer",
    "aug_answers",
)
ID: Final = (
    "id",
    "_id",
    "qid",
    "question_id",
    "query_id",
    "uid",
    "uuid",
    "guid",
    "example_id",
    "sample_id",
    "qa_id",
)
PASSAGE_ID: Final = (
    "id",
    "_id",
    "id_",
    "pid",
    "passage_id",
    "psg_id",
    "docid",
    "doc_id",
    "document_id",
    "docno",
    "para_id",
    "paragraph_id",
    "chunk_id",
    "wikipedia_id",
    "corpus_id",
    "cid",
    "uid",
    "uuid",
)
TEXT: Final = (
    "text",
    "contents",
    "content",
    "page_content",
    "paragraph_text",
    "passage_text",
    "passage",
    "body",
    "segment",
    "chunk",
    "chunk_text",
    "text_chunk",
    "document_text",
    "doc_text",
    "raw_text",
    "document",
    "paragraph",
    "context",
    "raw_content",
    "full_text",
    "markdown",
    "article",
    "sentences",
    "abstract",
)
TITLE: Final = (
    "title",
    "wikipedia_title",
    "page_title",
    "doc_title",
    "document_title",
    "article_title",
    "passage_title",
    "name",
    "headline",
    "display_name",
)


@lru_cache(maxsize=4096)
def squashed(key: str) -> str:
    """A key without case and marks, for comparison."""
    return re.sub(r"[^0-9a-z]+", "", key.lower()) or key


KNOWN: Final = frozenset(
    squashed(name)
    for names in (QUESTION, ANSWERS, ALIASES, ID, PASSAGE_ID, TEXT, TITLE)
    for name in names
    if len(name) > 1
)
"""These names, squashed; a table without any of them may have no header."""


_FORMATS: Final = frozenset({"Cc", "Cf"})
_FILLERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and signs of Unicode that show nothing."""


def is_blank(text: str) -> bool:
    """True for a text that shows nothing: white space, marks of zero width, fillers."""
    return all(
        sign.isspace()
        or unicodedata.category(sign) in _FORMATS
        or sign in _FILLERS
        or "\ufe00" <= sign <= "\ufe0f"  # choose the look of the sign before them
        for sign in text
    )


def is_missing(value: Any) -> bool:
    """True for None, a float that is no number, and a text that shows nothing."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and is_blank(value)


def find_key(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The record's own key for the first of several names that it has a value for, or None."""
    if names[0] in record and not is_missing(record[names[0]]):
        return names[0]
    by_name: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(key, str) and not is_missing(value):
            by_name.setdefault(squashed(key), key)
            if key in names:  # the very spelling comes first
                by_name[squashed(key)] = key
    return next((by_name[squashed(name)] for name in names if squashed(name) in by_name), None)


def at_path(record: Mapping[str, Any], path: str) -> Any:
    """The value at a key, or at a path of keys with dots between them; None if there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def number_text(value: float) -> str:
    """A number as text; a whole one has no point, so that pandas' 1812.0 is 1812."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def keys_of(record: Mapping[str, Any]) -> str:
    """The keys of a record, for messages."""
    shown = ", ".join(str(key) for key in list(record)[:20])
    return shown + (", …" if len(record) > 20 else "") if record else "none"
